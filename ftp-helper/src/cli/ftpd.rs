//! `ftp-helper ftpd`: the bundled FTP server, in the foreground.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::ftpd::{FtpdError, Login, Options, PassivePorts, Server};

/// Serves a directory over FTP, in the foreground, until SIGTERM or SIGINT. Whoever logs in may read and write all of it:
/// meant for trials, not for the public.
#[derive(Args, Clone, Debug)]
pub(super) struct FtpdArgs {
    /// Address and port to listen on, such as 127.0.0.1:2121 or [::]:21; may be given several times. An IPv6 address
    /// takes IPv6 only
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    pub listen: Vec<SocketAddr>,
    /// The directory to serve
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// The one user that may log in; without it, `anonymous` and `ftp` may, with any password
    #[arg(long, value_name = "NAME", requires = "password")]
    pub user: Option<String>,
    /// That user's password (other users of this machine see it in the list of processes)
    #[arg(long, value_name = "PASSWORD", requires = "user")]
    pub password: Option<String>,
    /// The ports of passive data connections
    #[arg(long, value_name = "LO-HI", default_value_t = PassivePorts::default())]
    pub passive_ports: PassivePorts,
    /// Whether active mode (PORT) is answered
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub active: Switch,
}

/// On or off.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Runs it. One line on standard output says that it is ready; what prevents it is told on standard error.
#[must_use]
pub(super) fn run(args: FtpdArgs) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Ftpd(e)) => {
            eprintln!("ftp-helper ftpd: {e}");
            ExitCode::from(if e.is_permission() { 5 } else { 1 })
        }
        Err(Failure::Io(what, e)) => {
            eprintln!("ftp-helper ftpd: {what}: {e}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Ftpd(FtpdError),
    Io(&'static str, std::io::Error),
}

fn serve(args: FtpdArgs) -> Result<(), Failure> {
    let FtpdArgs { listen, root, user, password, passive_ports, active } = args;
    let login = match (user, password) {
        (Some(name), Some(password)) => Login::User { name, password },
        _ => Login::Anonymous,
    };
    let options = Options { listen, root, login, passive_ports, active: active == Switch::On };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Io("can't start the runtime", e))?;
    let result = runtime.block_on(async {
        let caught = |e| Failure::Io("can't catch signals", e);
        let mut terminate = signal(SignalKind::terminate()).map_err(caught)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(caught)?;
        let server = Server::bind(options).await.map_err(Failure::Ftpd)?;
        println!("ftp-helper ftpd: {server}");
        server
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        Ok(())
    });
    // Sessions that are in the middle of a transfer are not waited for.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: FtpdArgs,
    }

    fn parse(line: &str) -> Result<FtpdArgs, String> {
        Cli::try_parse_from(std::iter::once("ftpd").chain(line.split_whitespace()))
            .map(|c| c.args)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn arguments_are_read() {
        let a = parse("--listen [::]:2121 --listen 0.0.0.0:2121 --root /srv --passive-ports 2000-2001 --active off")
            .unwrap();
        assert_eq!((a.listen.len(), a.passive_ports.range(), a.active), (2, 2000..=2001, Switch::Off));
        assert_eq!(parse("--listen 127.0.0.1:21 --root /").unwrap().passive_ports, PassivePorts::default());
    }

    #[test]
    fn wrong_arguments_are_explained() {
        for (line, expected) in [
            ("--root /", "--listen"),
            ("--listen 127.0.0.1:21", "--root"),
            ("--listen localhost --root /", "localhost"),
            ("--listen 127.0.0.1:21 --root / --user a", "--password"),
            ("--listen 127.0.0.1:21 --root / --password a", "--user"),
            ("--listen 127.0.0.1:21 --root / --passive-ports 9-8", "write 8-9"),
        ] {
            let e = parse(line).unwrap_err();
            assert!(e.contains(expected), "{line}: {e}");
        }
    }
}
