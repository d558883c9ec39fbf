//! curl: a URL for each transfer, one control connection for all three.

use std::process::Command;

use super::{Call, Invocation, Mode};

pub(super) fn invoke(call: &Call<'_>, mut command: Command) -> Invocation {
    let url = |path: &str| format!("ftp://{}:{}/{path}", call.url_host(), call.server.port());
    let directory = call.download.rsplit_once('/').map_or("", |(d, _)| d);
    command.arg("-q").arg("--fail-early");
    let mut transfer = |first: bool, args: &[&std::ffi::OsStr]| {
        if !first {
            command.arg("--next");
        }
        command.args(["--silent", "--show-error", "--verbose"]);
        match call.mode {
            Mode::Pasv => command.args(["--disable-epsv", "--ftp-skip-pasv-ip"]),
            Mode::Epsv => command.arg("--ftp-pasv"),
            Mode::Port => command.args(["--ftp-port", "-", "--disable-eprt"]),
            Mode::Eprt => command.args(["--ftp-port", "-"]),
        };
        if call.tls {
            command.args(["--ssl-reqd", "--insecure"]);
        }
        command.args(["--connect-timeout", &call.seconds().to_string()]);
        command.args(["--user", &format!("{}:{}", call.login.user, call.login.password)]);
        command.args(args);
    };
    let (downloaded, listed) = (call.downloaded(), call.listed());
    transfer(true, &["--upload-file".as_ref(), call.upload.as_os_str(), url(&call.remote).as_ref()]);
    transfer(false, &["--output".as_ref(), downloaded.as_os_str(), url(&call.download).as_ref()]);
    transfer(false, &["--output".as_ref(), listed.as_os_str(), url(&format!("{directory}/")).as_ref()]);
    Invocation { command, input: None }
}
