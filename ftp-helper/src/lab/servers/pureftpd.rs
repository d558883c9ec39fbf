//! Pure-FTPd: a virtual user, since its anonymous root is the home of a system user `ftp` that may not be there.

use super::{Launch, Setup};
use crate::lab::{error::Result, process};

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let (uid, gid) = setup.service_ids()?;
    let (passwords, database) = (setup.base.join("passwords"), setup.base.join("passwords.pdb"));
    let mut add = setup.program("pureftpd", "pure-pw")?;
    add.args(["useradd", "lab", "-u", &uid.to_string(), "-g", &gid.to_string(), "-m"]);
    add.arg("-d").arg(&setup.root).arg("-f").arg(&passwords).arg("-F").arg(&database);
    process::run(add, Some("lab\nlab\n"))?;

    let range = setup.options.passive_ports.range();
    let mut command = setup.program("pureftpd", "pure-ftpd")?;
    command.arg("--bind").arg(format!(",{}", setup.options.port));
    command.arg("--login").arg(format!("puredb:{}", database.display()));
    command.arg("--passiveportrange").arg(format!("{}:{}", range.start(), range.end()));
    command.arg("--pidfile").arg(setup.base.join("pure-ftpd.pid"));
    command.args(["--noanonymous", "--dontresolve", "--minuid", "1", "--maxclientsnumber", "200"]);
    Launch::process(command, "lab")
}
