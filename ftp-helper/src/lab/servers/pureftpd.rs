//! Pure-FTPd: a virtual user, since its anonymous root is the home of a system user `ftp` that may not be there.

use super::{Launch, Setup};
use crate::lab::{error::Result, process};

/// `lab`, SHA-512 with the fewest rounds: the hash that pure-pw makes by itself takes seconds of processor time at
/// every login.
const PASSWORD: &str =
    "$6$rounds=1000$lab$kMelJS2Rfq8QDNxF3KZbCd24a0tQNBpEVcpJ.wy6doXVSOwIcj3sP54SHPRaB0mYJVTMVDQrEWXIF.hBb9xHG0";

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let (uid, gid) = setup.service_ids()?;
    let line = format!("lab:{PASSWORD}:{uid}:{gid}::{}/./::::::::::::\n", setup.root.display());
    let passwords = setup.write("passwords", &line)?;
    let database = setup.base.join("passwords.pdb");
    let mut make = setup.program("pureftpd", "pure-pw")?;
    make.arg("mkdb").arg(&database).arg("-f").arg(&passwords);
    process::run(make, None)?;

    let range = setup.options.passive_ports.range();
    let mut command = setup.program("pureftpd", "pure-ftpd")?;
    command.arg("--bind").arg(format!(",{}", setup.options.port));
    command.arg("--login").arg(format!("puredb:{}", database.display()));
    command.arg("--passiveportrange").arg(format!("{}:{}", range.start(), range.end()));
    command.arg("--pidfile").arg(setup.base.join("pure-ftpd.pid"));
    if let Some(address) = setup.options.announced {
        command.arg("--forcepassiveip").arg(address.to_string());
    }
    command.args(["--noanonymous", "--dontresolve", "--minuid", "1", "--maxclientsnumber", "200"]);
    Launch::process(command, "lab")
}
