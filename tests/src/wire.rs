//! Wires that a lab does not have by itself: interfaces that come and go, bridges, and taps with a thread between them that
//! carries frames, with tags or without.

use std::{
    fs::File,
    io::{PipeWriter, Read as _, Write as _},
    os::fd::AsRawFd as _,
    thread::JoinHandle,
};

use ftp_helper::{
    api::Status,
    lab::{
        Host, Lab,
        clients::{ClientKind, Family, Job, Mode},
        process::Process,
        servers::{Server, pattern},
    },
};

use crate::gateway::{Gateway, PATIENCE, counter, held_up, until};

/// One transfer each way and a listing in each mode and family that curl knows: data connections that have to be used.
pub const TRANSFERS: u64 = 15;

/// Makes them, from a host, by the address of the server's host.
///
/// # Panics
/// When one does not succeed.
pub fn transfers(lab: &Lab, from: &Host, server: &Server) {
    let upload = lab.directory().join("upload.bin");
    std::fs::write(&upload, pattern(50_000)).expect("room for a file");
    for (mode, family) in [
        (Mode::Pasv, Family::V4),
        (Mode::Epsv, Family::V6),
        (Mode::Port, Family::V4),
        (Mode::Eprt, Family::V4),
        (Mode::Eprt, Family::V6),
    ] {
        let client = ClientKind::Curl;
        let job = Job { from, client, mode, family, server, upload: &upload, limit: PATIENCE };
        let outcome = job.run().expect("curl");
        assert!(outcome.transferred_by(mode), "{mode} over IPv{family}:\n{}", outcome.output);
    }
    server.remove_uploads().expect("the server's directory");
}

/// The same from the lab's client through a gateway: each data connection had a pinhole, was followed to its start, and none
/// came in vain. How the gateway stands then.
///
/// # Panics
/// When it is not so.
pub fn pass_through(gateway: &Gateway, lab: &Lab, server: &Server) -> Status {
    let before = gateway.status().expect("the daemon answers");
    transfers(lab, lab.client(), server);
    let grown = |s: &Status, name| counter(s, name) - counter(&before, name);
    let all = || gateway.status().ok().filter(|s| grown(s, "used") >= TRANSFERS);
    let after = until("every data connection is counted", all).expect("they are followed");
    assert_eq!((grown(&after, "used"), held_up(&after)), (TRANSFERS, held_up(&before)), "{:?}", after.counters);
    after
}

/// Runs commands on a host, one a line, which have to succeed.
///
/// # Panics
/// When one does not.
pub fn run(host: &Host, lines: &[&str]) {
    for line in lines {
        let mut words = line.split_whitespace();
        let mut command = host.command(words.next().expect("a program"));
        command.args(words);
        let done = Process::spawn(command).expect("it starts").finish(PATIENCE).expect("it ends");
        assert!(done.success(), "{line} on {}: {}", host.name(), done.output);
    }
}

/// A tap interface of a host; frames are read from it and written to it as they are on a wire.
///
/// # Panics
/// When the host has no taps.
#[must_use]
pub fn tap(on: &Host, name: &str) -> File {
    open(on, name, libc::IFF_TAP)
}

/// The same without an Ethernet header: packets are read from it and written to it.
///
/// # Panics
/// When the host has no tunnels.
#[must_use]
pub fn tun(on: &Host, name: &str) -> File {
    open(on, name, libc::IFF_TUN)
}

fn open(on: &Host, name: &str, kind: libc::c_int) -> File {
    // linux/if_tun.h
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let make = || {
        let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // SAFETY: an all-zero ifreq is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open, and the request lives until the call returns.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        file
    };
    on.run_in(make).expect("the host's namespace")
}

/// A thread that carries frames between two taps, or packets between two tunnels, until this is dropped.
#[derive(Debug)]
pub struct Wire {
    pump: Option<JoinHandle<()>>,
    end: Option<PipeWriter>,
}

/// A VLAN tag: EtherType and VLAN id.
pub type Tag = (u16, u16);

impl Wire {
    /// What comes from `plain` goes to `tagged` with these tags, the outermost first; what comes from there goes back
    /// without them, and what lacks one of them goes nowhere. Without tags all goes both ways as it is.
    ///
    /// # Panics
    /// When no thread can be started.
    #[must_use]
    pub fn new(mut plain: File, mut tagged: File, tags: &[Tag]) -> Self {
        let (end, writer) = std::io::pipe().expect("a pipe");
        let header: Vec<u8> =
            tags.iter().flat_map(|(kind, id)| [kind.to_be_bytes(), id.to_be_bytes()].concat()).collect();
        let pump = std::thread::spawn(move || {
            let mut frame = vec![0; 70_000];
            loop {
                let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                let mut fds = [wait(plain.as_raw_fd()), wait(tagged.as_raw_fd()), wait(end.as_raw_fd())];
                // SAFETY: three descriptors that are open, in an array that lives until the call returns.
                if unsafe { libc::poll(fds.as_mut_ptr(), 3, -1) } <= 0 {
                    return;
                }
                let ready = fds.map(|f| f.revents != 0);
                if ready[2] {
                    return;
                }
                // An interface that is down, or a frame that the other end does not take: TCP sends it again.
                if ready[0] {
                    let n = plain.read(&mut frame).unwrap_or(0);
                    if let Some((addresses, rest)) = frame[..n].split_at_checked(12) {
                        drop(tagged.write(&[addresses, &header, rest].concat()));
                    }
                }
                if ready[1] {
                    let n = tagged.read(&mut frame).unwrap_or(0);
                    if let Some((addresses, rest)) = frame[..n].split_at_checked(12)
                        && let Some(rest) = rest.strip_prefix(header.as_slice())
                    {
                        drop(plain.write(&[addresses, rest].concat()));
                    }
                }
            }
        });
        Self { pump: Some(pump), end: Some(writer) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(pump) = self.pump.take() {
            // A panic in there has been told already.
            drop(pump.join());
        }
    }
}
