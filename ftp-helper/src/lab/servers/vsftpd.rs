//! vsftpd: anonymous, in a directory that is not writable itself; data connections from port 20.

use super::{Launch, SERVICE_USER, Setup};
use crate::lab::{error::Result, subdirectory};

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let empty = subdirectory(&setup.base, "empty")?;
    let range = setup.options.passive_ports.range();
    // One listener for both families. It must run as a user whose home is there, and it refuses a root directory that
    // this user may write to. The seccomp sandbox kills sessions where it does not know the kernel's system calls.
    let tls = if setup.options.tls {
        let (certificate, key) = setup.certificate()?;
        format!(
            "ssl_enable=YES\nallow_anon_ssl=YES\nrequire_ssl_reuse=NO\nssl_ciphers=HIGH\nrsa_cert_file={}\nrsa_private_key_file={}\n",
            certificate.display(),
            key.display()
        )
    } else {
        String::new()
    };
    let text = format!(
        "\
listen=NO
listen_ipv6=YES
listen_port={port}
background=NO
anonymous_enable=YES
local_enable=NO
ftp_username={SERVICE_USER}
nopriv_user={SERVICE_USER}
anon_root={root}
secure_chroot_dir={empty}
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
pasv_min_port={low}
pasv_max_port={high}
connect_from_port_20=YES
seccomp_sandbox=NO
xferlog_enable=NO
{tls}",
        port = setup.options.port,
        root = setup.root.display(),
        empty = empty.display(),
        low = range.start(),
        high = range.end(),
    );
    let file = setup.write("vsftpd.conf", &text)?;
    let mut command = setup.program("vsftpd", "vsftpd")?;
    command.arg(file);
    Launch::process(command, "anonymous")
}
