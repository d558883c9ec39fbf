//! The one netlink request that the libraries lack: removing the clsact qdisc that we have added.

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Header and body of `RTM_DELQDISC` (linux/rtnetlink.h), host byte order.
#[repr(C)]
struct DeleteQdisc {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    pad: [u8; 3],
    ifindex: i32,
    handle: u32,
    parent: u32,
    info: u32,
}

const TC_H_CLSACT: u32 = 0xffff_fff1;

/// Removes the clsact qdisc of an interface, with every filter on it.
///
/// # Errors
/// The kernel's error; it is none if the qdisc or the interface is gone.
pub(super) fn delete_clsact(ifindex: u32) -> io::Result<()> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let request = DeleteQdisc {
        length: size_of::<DeleteQdisc>() as u32,
        kind: libc::RTM_DELQDISC,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        sequence: 1,
        port: 0,
        family: 0,
        pad: [0; 3],
        ifindex: ifindex.cast_signed(),
        handle: TC_H_CLSACT & 0xffff_0000,
        parent: TC_H_CLSACT,
        info: 0,
    };
    // SAFETY: `repr(C)`, integers only, no implicit padding (36 bytes, asserted below).
    let bytes =
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&request).cast::<u8>(), size_of::<DeleteQdisc>()) };
    send(fd.as_raw_fd(), bytes, MsgFlags::empty())?;
    let mut answer = [0u8; 256];
    let n = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let Some(code) = answer[..n].get(16..20) else { return Err(io::ErrorKind::InvalidData.into()) };
    match -i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 | libc::ENOENT | libc::EINVAL | libc::ENODEV => Ok(()),
        e => Err(io::Error::from_raw_os_error(e)),
    }
}

const _: () = assert!(size_of::<DeleteQdisc>() == 36);
