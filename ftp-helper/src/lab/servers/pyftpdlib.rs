//! pyftpdlib, as Debian's Python has it: anonymous, a process for each session. With one loop for all sessions it
//! leaves one or the other unanswered for many seconds when several use active mode at once.

use std::process::Command;

use super::{Launch, Setup};
use crate::lab::{error::Result, process};

/// Debian's package is for Debian's own interpreter, whatever else is first on PATH.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = "\
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import MultiprocessFTPServer

port, low, high, root = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
authorizer = DummyAuthorizer()
authorizer.add_anonymous(root, perm='elradfmwMT')
FTPHandler.authorizer = authorizer
FTPHandler.passive_ports = range(low, high + 1)
MultiprocessFTPServer(('::', port), FTPHandler).serve_forever()
";

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let range = setup.options.passive_ports.range();
    let script = setup.write("pyftpdlib-server.py", SCRIPT)?;
    let mut command = setup.host.command(PYTHON);
    // A warning that anonymous may write is what is wanted here.
    command.args(["-W", "ignore"]).arg(script);
    command.args([setup.options.port, *range.start(), *range.end()].map(|n| n.to_string())).arg(&setup.root);
    Launch::process(command, "anonymous")
}

pub(super) fn is_available() -> bool {
    let mut command = Command::new(PYTHON);
    command.args(["-c", "import pyftpdlib"]);
    process::run(command, None).is_ok()
}
