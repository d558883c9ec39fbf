//! Who may ask and who may change.

use std::os::fd::{AsFd, AsRawFd};

use nix::unistd::{Gid, Group, Uid};
use tokio::net::UnixStream;

use crate::error::{Code, Fault};

/// What a request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// To ask.
    Read,
    /// To change.
    Write,
}

/// Who has which right. Root and the user that the daemon runs as have both; whoever may change may ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    read: (String, Gid),
    write: (String, Gid),
    owners: Vec<Uid>,
}

/// Who is on the other side of a connection, as the kernel knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The effective user when it connected.
    pub uid: Uid,
    /// The effective group and the supplementary groups.
    pub groups: Vec<Gid>,
}

impl Access {
    /// The rights of these groups.
    ///
    /// # Errors
    /// A group does not exist, or the group database can't be read.
    pub fn resolve(read_group: &str, write_group: &str) -> Result<Self, Fault> {
        Ok(Self {
            read: (read_group.to_owned(), group("read_group", read_group)?),
            write: (write_group.to_owned(), group("write_group", write_group)?),
            owners: vec![Uid::from_raw(0), Uid::effective()],
        })
    }

    /// The group that a socket file may be given to so that every one who may ask can reach it, if there is one.
    pub fn socket_group(&self) -> Option<Gid> {
        // The members of both groups must get through; root's group needs no way of its own.
        (self.write.1 == self.read.1 || self.write.1.as_raw() == 0).then_some(self.read.1)
    }

    /// Whether the peer has the right; if not, what to tell it.
    ///
    /// # Errors
    /// It has not: the message.
    pub fn check(&self, peer: &Peer, right: Right) -> Result<(), String> {
        let member = |gid| peer.groups.contains(gid);
        let (may, verb, group) = match right {
            Right::Read => (member(&self.read.1) || member(&self.write.1), "ask", &self.read.0),
            Right::Write => (member(&self.write.1), "change anything", &self.write.0),
        };
        if may || self.is_owner(peer) {
            return Ok(());
        }
        Err(format!(
            "user {} may not {verb} here: be root or a member of group {group:?} (group membership counts from the next login)",
            peer.uid
        ))
    }

    /// Whether the peer is root or the user that the daemon runs as.
    pub fn is_owner(&self, peer: &Peer) -> bool {
        self.owners.contains(&peer.uid)
    }

    /// Rights of groups given by number and of nobody else.
    #[cfg(test)]
    pub(super) fn of_groups(read: u32, write: u32) -> Self {
        Self {
            read: ("readers".into(), Gid::from_raw(read)),
            write: ("writers".into(), Gid::from_raw(write)),
            owners: vec![],
        }
    }
}

impl Peer {
    /// The peer of a connection: `SO_PEERCRED` and `SO_PEERGROUPS`, both as of its connect(2).
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let cred = stream.peer_cred()?;
        let mut groups = vec![Gid::from_raw(cred.gid())];
        groups.extend(supplementary(stream)?);
        Ok(Self { uid: Uid::from_raw(cred.uid()), groups })
    }
}

fn group(key: &str, name: &str) -> Result<Gid, Fault> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Fault::new(
            Code::Usage,
            format!("api.{key}: there is no group {name:?}; create it with `groupadd {name}`, or name another"),
        )),
        Err(e) => Err(Fault::new(Code::Failure, format!("api.{key}: can't look up group {name:?}: {e}"))),
    }
}

fn supplementary(stream: &UnixStream) -> std::io::Result<Vec<Gid>> {
    let fd = stream.as_fd().as_raw_fd();
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the pointer is to `bytes` bytes of plain integers that live through the call, and `bytes` to a
        // socklen_t, as getsockopt(2) wants; the kernel writes no more than it is told.
        let rc = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &mut bytes)
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if rc == 0 {
            groups.truncate(count);
            return Ok(groups.into_iter().map(Gid::from_raw).collect());
        }
        let error = std::io::Error::last_os_error();
        // ERANGE: too little room, and `bytes` says how much it takes.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { uid: Uid::from_raw(uid), groups: groups.iter().map(|g| Gid::from_raw(*g)).collect() }
    }

    #[test]
    fn groups_decide() {
        let access = Access::of_groups(4, 9);
        assert!(access.check(&peer(1000, &[1000, 4]), Right::Read).is_ok());
        assert!(access.check(&peer(1000, &[1000, 4]), Right::Write).unwrap_err().contains("\"writers\""));
        assert!(access.check(&peer(1000, &[9]), Right::Read).is_ok());
        assert!(access.check(&peer(1000, &[9]), Right::Write).is_ok());
        assert!(access.check(&peer(1000, &[1000]), Right::Read).unwrap_err().contains("\"readers\""));
    }

    #[test]
    fn root_and_the_daemon_itself_may_do_everything() {
        let access = Access { owners: vec![Uid::from_raw(0), Uid::from_raw(77)], ..Access::of_groups(4, 9) };
        for uid in [0, 77] {
            assert!(access.check(&peer(uid, &[]), Right::Write).is_ok());
        }
        assert!(access.check(&peer(78, &[]), Right::Read).is_err());
    }

    #[test]
    fn a_group_must_exist() {
        assert_eq!(Access::resolve("root", "root").unwrap().socket_group(), Some(Gid::from_raw(0)));
        let fault = Access::resolve("no-such-group-here", "root").unwrap_err();
        assert!(fault.message.starts_with("api.read_group: there is no group \"no-such-group-here\""), "{fault}");
    }

    #[test]
    fn a_socket_is_given_to_a_group_only_if_that_lets_everybody_in() {
        assert_eq!(Access::of_groups(4, 0).socket_group(), Some(Gid::from_raw(4)));
        assert_eq!(Access::of_groups(4, 4).socket_group(), Some(Gid::from_raw(4)));
        assert_eq!(Access::of_groups(4, 9).socket_group(), None);
    }

    #[tokio::test]
    async fn the_kernel_tells_the_peer() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        assert_eq!(peer.uid, Uid::effective());
        assert_eq!(peer.groups[0], Gid::effective());
        let mut expected = nix::unistd::getgroups().unwrap();
        let mut seen = peer.groups[1..].to_vec();
        expected.sort_by_key(|g| g.as_raw());
        seen.sort_by_key(|g| g.as_raw());
        assert_eq!(seen, expected);
    }
}
