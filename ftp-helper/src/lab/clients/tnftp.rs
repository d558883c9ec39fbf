//! tnftp: a script on standard input.

use std::process::Command;

use super::{Call, Invocation};

pub(super) fn invoke(call: &Call<'_>, mut command: Command) -> Invocation {
    let directory = call.download.rsplit_once('/').map_or("", |(d, _)| d);
    // -n no automatic login, -i no questions, -d shows the dialogue, -q gives up a stalled transfer.
    command.args(["-n", "-i", "-d", "-v", "-q", &call.seconds().to_string()]);
    command.arg(if call.mode.is_passive() { "-p" } else { "-A" });
    let lines = [
        format!("epsv {}", if call.mode.is_extended() { "on" } else { "off" }),
        format!("open {} {}", call.server.ip(), call.server.port()),
        format!("user {} {}", call.login.user, call.login.password),
        "binary".to_owned(),
        format!("put {} {}", quoted(&call.upload.display().to_string()), call.remote),
        format!("get {} {}", call.download, quoted(&call.downloaded().display().to_string())),
        format!("ls {directory} {}", quoted(&call.listed().display().to_string())),
        "quit".to_owned(),
        String::new(),
    ];
    Invocation { command, input: Some(lines.join("\n")) }
}

/// As a word of tnftp's.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}
