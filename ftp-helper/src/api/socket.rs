//! Where the control socket is made and removed.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;

use super::access::Access;
use crate::error::{Code, Fault};

/// Removes the socket file when dropped, if it is still the one that was made.
#[derive(Debug)]
#[must_use = "the socket file is removed when this is dropped"]
pub struct Cleanup {
    path: PathBuf,
    identity: (u64, u64),
    // As long as this is open, nobody takes the socket for stale, and its inode number is not given to another file.
    _listening: OwnedFd,
}

/// Makes the control socket: its directory if need be, a stale socket replaced.
///
/// To be called inside a tokio runtime.
///
/// # Errors
/// Another daemon answers there, something that is no socket is in the way, or the file system refuses.
pub fn bind(path: &Path, access: &Access) -> Result<(UnixListener, Cleanup), Fault> {
    let failed = |what: &str, e: io::Error| {
        let code = if e.kind() == io::ErrorKind::PermissionDenied { Code::NoPermission } else { Code::Failure };
        Fault::new(code, format!("control socket {}: {what}: {e}; see [api] socket", path.display()))
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|e| failed("can't make its directory", e))?;
    // Two daemons that start at once must not replace each other's socket: one at a time. The lock is on the
    // directory, so that no lock file is left behind.
    let lock = File::open(directory).map_err(|e| failed("can't open its directory", e))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, e)| failed("can't lock its directory", io::Error::from(e)))?;
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|e| failed("can't remove the stale socket", e))?;
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(failed("can't tell whether another daemon answers", e));
            }
            // Connected, or its queue is full: somebody is there.
            Ok(_) | Err(_) => {
                return Err(Fault::new(
                    Code::Failure,
                    format!(
                        "control socket {}: another ftp-helper is running; stop it, or set another [api] socket",
                        path.display()
                    ),
                ));
            }
        },
        Ok(_) => {
            return Err(Fault::new(
                Code::Failure,
                format!(
                    "control socket {}: a file that is no socket is in the way; remove it, or set another [api] socket",
                    path.display()
                ),
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("can't look at it", e)),
    }
    let listener = UnixListener::bind(path).map_err(|e| failed("can't make it", e))?;
    let metadata = fs::symlink_metadata(path).map_err(|e| failed("can't look at it", e))?;
    let listening = listener.as_fd().try_clone_to_owned().map_err(|e| failed("can't keep it open", e))?;
    let cleanup = Cleanup { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), _listening: listening };
    let mode = match access.socket_group().map(|gid| nix::unistd::chown(path, None, Some(gid))) {
        Some(Ok(())) => 0o660,
        // Every request is checked against the peer's credentials; the mode only spares strangers the attempt.
        Some(Err(e)) => {
            tracing::info!(socket = %path.display(), error = %e, "can't give the control socket to its group; it is open to all and checks credentials");
            0o666
        }
        None => 0o666,
    };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| failed("can't set its mode", e))?;
    Ok((listener, cleanup))
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), error = %e, "can't remove the control socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let own = nix::unistd::Gid::effective().as_raw();
        Access::of_groups(own, own)
    }

    #[tokio::test]
    async fn made_with_its_directory_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/s.sock");
        let (listener, cleanup) = bind(&path, &access()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(listener);
        drop(cleanup);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_living_daemon_is_left_alone_and_a_stale_socket_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, first) = bind(&path, &access()).unwrap();
        let fault = bind(&path, &access()).unwrap_err();
        assert!(fault.message.contains("another ftp-helper is running"), "{fault}");
        // Until the cleanup is done the place is taken, so that it can't remove the socket of somebody else.
        drop(listener);
        assert!(bind(&path, &access()).is_err());
        fs::remove_file(&path).unwrap();
        let (_listener, second) = bind(&path, &access()).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        fs::write(&path, "precious").unwrap();
        let fault = bind(&path, &access()).unwrap_err();
        assert!(fault.message.contains("no socket is in the way"), "{fault}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_socket_for_two_groups_is_open_and_checks_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (_listener, _cleanup) = bind(&path, &Access::of_groups(4, 9)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    }
}
