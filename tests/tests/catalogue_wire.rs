//! The catalogue on the wire: the daemon on a gateway, frames through veth.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use ftp_helper::{
    event::Kind,
    lab::{self, Host, INSIDE_INTERFACE, Lab, LabOptions, OUTSIDE_INTERFACE},
};
use ftp_helper_common::key::{HOOK_IN, HOOK_OUT};
use ftp_helper_tests::{
    catalogue::{self, Places, Step, wire::Wire},
    gateway::{Gateway, PATIENCE, Settings},
};

/// What is for the wire, with the client inside: each side's frames come by the other interface.
#[test]
fn every_stimulus_gets_its_verdict_with_the_client_inside() {
    if !lab::require_root() {
        return;
    }
    let mut wire = Wire::new(HOOK_OUT).unwrap();
    let mut wrong = Vec::new();
    let mut all = catalogue::all();
    // What somebody inside forges to a client inside does not cross the outside interface.
    let forged = |s: &Step| matches!(s, Step::Control(segment) if segment.elsewhere);
    all.retain(|s| s.on_wire && s.places != Places::Outside && !s.steps.iter().any(forged));
    all.sort_by_key(|s| s.knob.toml);
    assert!(all.len() > 80, "{} stimuli", all.len());
    for s in &all {
        if let Err(e) = wire.run(s) {
            wrong.push(format!("{} ({}): {e:#}", s.id, s.about));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn every_stimulus_gets_its_verdict() {
    if !lab::require_root() {
        return;
    }
    let mut wire = Wire::new(HOOK_IN).unwrap();
    let mut wrong = Vec::new();
    let mut all = catalogue::all();
    all.retain(|s| s.on_wire && s.places != Places::Inside);
    // The policy in force changes rarely in this order.
    all.sort_by_key(|s| s.knob.toml);
    assert!(all.len() > 90, "{} stimuli", all.len());
    for s in &all {
        if let Err(e) = wire.run(s) {
            wrong.push(format!("{} ({}): {e:#}", s.id, s.about));
        }
    }
    // Browsers do not connect to port 21, but to others: every configured port is read alike.
    wire.control_port = 2121;
    let elsewhere = |id| matches!(id, "P1" | "P3" | "A04" | "A05" | "A16");
    for s in catalogue::all().iter().filter(|s| elsewhere(s.id) && s.places != Places::Inside) {
        if let Err(e) = wire.run(s) {
            wrong.push(format!("{} ({}), port 2121: {e:#}", s.id, s.about));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn a82_a_flood_of_handshakes_evicts_no_session() {
    if lab::require_root() {
        Wire::new(HOOK_IN).unwrap().flood(20_000).unwrap();
    }
}

/// Replies of many kilobytes, as veth hands them on: in one packet that is not linear, put together by the sender's offload
/// and, in the second round, by the gateway's too.
#[test]
fn p20_a60_replies_beyond_a_packet_are_read_whole() {
    if !lab::require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let events = gateway.follow().unwrap();
    let mut expected = Vec::new();
    for round in 0..2 {
        if round == 1 {
            receive_offload(lab.gateway(), OUTSIDE_INTERFACE);
            receive_offload(lab.gateway(), INSIDE_INTERFACE);
        }
        let at = |port| SocketAddr::new(lab.server().v4().into(), port);
        let listener = lab.server().run_in(|| TcpListener::bind(at(21))).unwrap().unwrap();
        let connect = |to| lab.client().run_in(move || TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let (mut client, mut server) = (connect(at(21)).unwrap(), listener.accept().unwrap().0);
        let data = lab.server().run_in(|| TcpListener::bind(at(0))).unwrap().unwrap();
        let port = data.local_addr().unwrap().port();
        let six =
            |port: u16| format!("{},{},{}", lab.server().v4().to_string().replace('.', ","), port >> 8, port & 255);
        // What a reader would see that loses its place in a long reply.
        let bait = format!("227 ok ({})\r\n", six(port - 1));
        let body = format!("{bait} {}\r\n", "x".repeat(1000)).repeat(40);
        let (mut heard, mut said) =
            (BufReader::new(server.try_clone().unwrap()), BufReader::new(client.try_clone().unwrap()));
        server.write_all(b"220 ready\r\n").unwrap();
        for (command, reply, last) in [
            ("USER me", "230 in\r\n".to_owned(), "230 in"),
            ("STAT", format!("211-status\r\n{body}211 end\r\n"), "211 end"),
            ("FEAT", format!("211-features\r\n{body}211 end of it\r\n"), "211 end of it"),
            ("PASV", format!("227 ok ({})\r\n", six(port)), "227 ok"),
        ] {
            let mut line = String::new();
            client.write_all(format!("{command}\r\n").as_bytes()).unwrap();
            heard.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{command}\r\n"));
            let writer = std::thread::spawn({
                let mut server = server.try_clone().unwrap();
                move || server.write_all(reply.as_bytes())
            });
            while !line.starts_with(last) || line.starts_with(command) {
                line.clear();
                assert_ne!(said.read_line(&mut line).unwrap(), 0, "{command}");
                if command == "PASV" {
                    break;
                }
            }
            writer.join().unwrap().unwrap();
        }
        // Where the kernel reads or the daemon does: the SYN passes, perhaps a moment later.
        connect(at(port)).unwrap();
        expected.push(port);
    }
    events
        .wait("both are told", |e| e.event == Kind::Used && e.connection.as_ref().unwrap().to.port() == expected[1])
        .unwrap();
    let opened: Vec<u16> = events.of(Kind::Opened).iter().map(|e| e.pinhole.as_ref().unwrap().port).collect();
    assert_eq!(opened, expected);
    assert!(events.of(Kind::Tainted).is_empty() && events.of(Kind::Killed).is_empty());
    gateway.stop().unwrap();
}

/// Switches an interface's generic receive offload on, as `ethtool -K` does.
fn receive_offload(host: &Host, interface: &str) {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    /// `ETHTOOL_SGRO`, and on.
    const ON: [u32; 2] = [0x2c, 1];
    let socket = host.run_in(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let mut value = ON;
    // SAFETY: an all-zero `ifreq` is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request names an interface and a value of the command's size, both alive until the call is over.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(done, 0, "GRO of {interface}: {}", std::io::Error::last_os_error());
}
