//! lftp: settings and commands in one script.

use std::process::Command;

use super::{Call, Invocation, Mode};

pub(super) fn invoke(call: &Call<'_>, mut command: Command) -> Invocation {
    let on_off = |b: bool| if b { "on" } else { "off" };
    let (passive, extended) = (on_off(call.mode.is_passive()), on_off(call.mode == Mode::Epsv));
    let directory = call.download.rsplit_once('/').map_or("", |(d, _)| d);
    let lines = [
        "set cmd:fail-exit yes".to_owned(),
        "set cmd:interactive no".to_owned(),
        "set net:max-retries 1".to_owned(),
        format!("set net:timeout {}", call.seconds()),
        format!("set ftp:ssl-allow {}", on_off(call.tls)),
        format!("set ftp:ssl-force {}", on_off(call.tls)),
        "set ftp:ssl-protect-data yes".to_owned(),
        "set ftp:ssl-protect-list yes".to_owned(),
        "set ssl:verify-certificate no".to_owned(),
        // By TLS 1.3 a server sends tickets that lftp has not read when it closes a connection that it has uploaded by: that
        // is a reset then, and vsftpd may lose the end of the file.
        "set ssl:priority NORMAL:-VERS-TLS1.3".to_owned(),
        "set xfer:clobber yes".to_owned(),
        format!("set ftp:passive-mode {passive}"),
        format!("set ftp:prefer-epsv {extended}"),
        // Unless it is told to bind, it announces the unspecified address over IPv6, which no server accepts.
        "set ftp:bind-data-socket yes".to_owned(),
        "debug 9".to_owned(),
        format!(
            "open -u {},{} -p {} ftp://{}",
            call.login.user,
            call.login.password,
            call.server.port(),
            call.url_host()
        ),
        format!("put {} -o {}", quoted(&call.upload.display().to_string()), call.remote),
        format!("get {} -o {}", call.download, quoted(&call.downloaded().display().to_string())),
        format!("ls {directory} > {}", quoted(&call.listed().display().to_string())),
    ];
    command.arg("--norc").args(["-c", &lines.join("; ")]);
    Invocation { command, input: None }
}

/// As a word of lftp's.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}
