//! ProFTPD: anonymous, standalone.

use super::{Launch, SERVICE_USER, Setup};
use crate::lab::error::Result;

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let range = setup.options.passive_ports.range();
    let (_, gid) = setup.service_ids()?;
    let group = nix::unistd::Group::from_gid(gid).ok().flatten().map_or_else(|| SERVICE_USER.to_owned(), |g| g.name);
    // It looks the client's name up before it greets, waits a little at logins, and refuses the users of
    // /etc/ftpusers, unless told not to.
    let text = format!(
        "\
ServerName lab
ServerType standalone
DefaultServer on
Port {port}
UseIPv6 on
DefaultAddress {v4} {v6}
UseReverseDNS off
UseFtpUsers off
DelayEngine off
WtmpLog off
TransferLog none
SystemLog none
PidFile {base}/proftpd.pid
ScoreboardFile none
AuthOrder mod_auth_unix.c
User {SERVICE_USER}
Group {group}
PassivePorts {low} {high}
AllowOverwrite on
<Anonymous {root}>
  User {SERVICE_USER}
  Group {group}
  UserAlias anonymous {SERVICE_USER}
  RequireValidShell off
  AnonRequirePassword off
</Anonymous>
",
        port = setup.options.port,
        v4 = setup.host.v4(),
        v6 = setup.host.v6(),
        base = setup.base.display(),
        root = setup.root.display(),
        low = range.start(),
        high = range.end(),
    );
    let file = setup.write("proftpd.conf", &text)?;
    let mut command = setup.program("proftpd", "proftpd")?;
    command.args(["--nodaemon", "--quiet", "--config"]).arg(file);
    Launch::process(command, "anonymous")
}
