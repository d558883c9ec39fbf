//! Captures of real servers and clients, kept in `captures`: each tells the events that are kept beside it, whole, with its
//! control connection cut at every byte, and through the programs in the kernel.
//!
//! `FTP_HELPER_RECORD=1 cargo test -p ftp-helper-tests --test captures` records them anew, in the lab, and writes what they
//! come to; what has changed is then to be looked at, and put right in `captures/README.md`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use ftp_helper::{
    event::{Event, Kind},
    lab::{
        Lab, LabOptions, OUTSIDE_INTERFACE,
        clients::{ClientKind, Family, Job, Mode},
        require_root,
        servers::{Server, ServerKind, ServerOptions},
    },
    replay::{self, Options},
};
use ftp_helper_tests::{capture, tap};

use ClientKind::{Curl, Lftp, Tnftp};
use Family::{V4, V6};
use Mode::{Eprt, Epsv, Pasv, Port};
use ServerKind::{Bundled, Proftpd, Pureftpd, Pyftpdlib, Vsftpd};

/// What is recorded: each server, each client, each mode over each family that has it; and whether it is encrypted.
const ALL: &[(ServerKind, ClientKind, Mode, Family, bool)] = &[
    (Vsftpd, Curl, Pasv, V4, false),
    (Vsftpd, Lftp, Epsv, V6, false),
    (Vsftpd, Tnftp, Port, V4, false),
    (Vsftpd, Curl, Epsv, V4, true),
    (Proftpd, Curl, Epsv, V4, false),
    (Proftpd, Lftp, Pasv, V4, false),
    (Proftpd, Tnftp, Eprt, V6, false),
    (Pureftpd, Lftp, Pasv, V4, false),
    (Pureftpd, Tnftp, Epsv, V6, false),
    (Pureftpd, Curl, Eprt, V4, false),
    (Pyftpdlib, Curl, Epsv, V6, false),
    (Pyftpdlib, Tnftp, Pasv, V4, false),
    (Pyftpdlib, Lftp, Port, V4, false),
    (Vsftpd, Lftp, Pasv, V4, true),
    (Bundled, Curl, Pasv, V4, false),
    (Bundled, Lftp, Epsv, V6, false),
];
/// Bytes of the files that are transferred.
const SIZE: usize = 500;
const LIMIT: Duration = Duration::from_secs(40);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("captures")
}

fn name(&(server, client, mode, family, tls): &(ServerKind, ClientKind, Mode, Family, bool)) -> String {
    format!("{server}-{client}-{mode}-{family}{}", if tls { "-tls" } else { "" })
}

/// Every capture tells what is beside it, however its control connection is cut.
#[test]
fn p21_captures_of_real_servers_and_clients_cut_at_every_byte() {
    if std::env::var_os("FTP_HELPER_RECORD").is_some_and(|v| v == "1") {
        record();
    }
    let mut opened = 0;
    for name in ALL.iter().map(name) {
        let file = std::fs::read(folder().join(format!("{name}.pcap"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = expected(&name);
        let events = told(&file);
        assert_eq!(show(&events), show(&expected), "{name}");
        opened += events.iter().filter(|e| e.event == Kind::Opened).count();
        let longest = frames_of(&file).iter().filter_map(|f| payload(f)).map(|p| p.len()).max().unwrap();
        for at in 1..longest {
            assert_eq!(show(&told(&recut(&file, |_| vec![at]))), show(&expected), "{name}, cut after {at} bytes");
        }
        let bytes = recut(&file, |len| (1..len).collect());
        assert_eq!(show(&told(&bytes)), show(&expected), "{name}, byte by byte");
    }
    // Three transfers each, but for the encrypted ones.
    assert_eq!(opened, 3 * ALL.iter().filter(|c| !c.4).count());
}

/// The same through the loaded programs: nothing is denied that was negotiated, and nothing opens beside it.
#[test]
fn p21_captures_of_real_servers_and_clients_through_the_kernel() {
    if !require_root() {
        return;
    }
    // What is encrypted opens nothing, so that its data connections are denied.
    for tls in [false, true] {
        let names: Vec<String> = ALL.iter().filter(|c| c.4 == tls).map(name).collect();
        let wanted: Vec<Event> = names.iter().flat_map(|n| expected(n)).collect();
        for bytewise in [false, true] {
            let places = |len| if bytewise { (1..len).collect() } else { Vec::new() };
            // One behind the other, since loading the programs takes its time.
            let mut file = Vec::new();
            for name in &names {
                let one = recut(&std::fs::read(folder().join(format!("{name}.pcap"))).unwrap(), places);
                file.extend(&one[if file.is_empty() { 0 } else { 24 }..]);
            }
            let kernel =
                with_file(&file, |path| capture::through_kernel(path, &Options::default(), &replay::guards()).unwrap());
            let (events, denied) = capture::as_alone(&kernel.events);
            let (events, wanted) = (unnumbered(&events), unnumbered(&wanted));
            for (event, wanted) in events.iter().zip(&wanted) {
                assert_eq!(event, wanted, "byte by byte: {bytewise}");
            }
            assert_eq!(events.len(), wanted.len(), "byte by byte: {bytewise}");
            assert_eq!(denied.is_empty(), !tls, "{denied:?}");
            assert_eq!(kernel.summary.kernel.map(|k| k.divergences), Some(0));
        }
    }
}

/// Without the numbers of sessions, each of which is the first of its capture; by session, since one begins before the end
/// of the one before it may be told.
fn unnumbered(events: &[Event]) -> Vec<String> {
    let mut events: Vec<Event> = events.iter().map(|e| Event { session: None, ..e.clone() }).collect();
    events.sort_by_key(|e| e.client);
    events.iter().map(|e| serde_json::to_string(e).unwrap()).collect()
}

/// What the engine alone tells, as [`capture::as_alone`] has it.
fn told(file: &[u8]) -> Vec<Event> {
    let replayed = with_file(file, |path| capture::alone(path, &Options::default()).unwrap());
    capture::as_alone(&replayed.events).0
}

fn with_file<T>(file: &[u8], f: impl FnOnce(&Path) -> T) -> T {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file).unwrap();
    f(path.path())
}

fn expected(name: &str) -> Vec<Event> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn show(events: &[Event]) -> String {
    events.iter().fold(String::new(), |mut text, e| {
        let _ = writeln!(text, "{}", serde_json::to_string(e).unwrap());
        text
    })
}

fn frames_of(file: &[u8]) -> Vec<&[u8]> {
    tap::frames(file).unwrap().into_iter().map(|(_, frame)| frame).collect()
}

/// What a segment of the control connection carries, if anything.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match packet.transport {
        Some(TransportSlice::Tcp(t)) if [t.source_port(), t.destination_port()].contains(&21) => {
            Some(t.payload()).filter(|p| !p.is_empty())
        }
        _ => None,
    }
}

/// The capture with each segment of the control connection cut where `places` says for its length; the times stay.
fn recut(file: &[u8], places: impl Fn(usize) -> Vec<usize>) -> Vec<u8> {
    let mut out = file[..24].to_vec();
    for (time, frame) in tap::frames(file).unwrap() {
        let len = payload(frame).map_or(0, <[u8]>::len);
        let mut ends: Vec<usize> = places(len).into_iter().filter(|at| *at < len).collect();
        ends.push(len);
        let mut from = 0;
        for end in ends {
            let part = if len == 0 { frame.to_vec() } else { piece(frame, from, end, len) };
            out.extend(time);
            for _ in 0..2 {
                out.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
            }
            out.extend(part);
            from = end;
        }
    }
    out
}

/// The bytes from `from` to `to` of what a segment carries, as a segment of their own.
fn piece(frame: &[u8], from: usize, to: usize, len: usize) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("TCP") };
    let (mut header, data) = (tcp.to_header(), tcp.payload());
    header.sequence_number = header.sequence_number.wrapping_add(from as u32);
    if to < len {
        (header.psh, header.fin) = (false, false);
    }
    let data = &data[from..to];
    let mut out = frame[..14].to_vec();
    match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let mut ip = ip.header().to_header();
            ip.set_payload_len(header.header_len() + data.len()).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            header.checksum = header.calc_checksum_ipv4(&ip, data).unwrap();
            ip.write(&mut out).unwrap();
        }
        NetSlice::Ipv6(ip) => {
            let mut ip = ip.header().to_header();
            ip.set_payload_length(header.header_len() + data.len()).unwrap();
            header.checksum = header.calc_checksum_ipv6(&ip, data).unwrap();
            ip.write(&mut out).unwrap();
        }
        NetSlice::Arp(_) => panic!("IP"),
    }
    header.write(&mut out).unwrap();
    out.extend(data);
    out
}

/// Records everything anew.
fn record() {
    assert!(require_root(), "recording takes root");
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let upload = lab.directory().join("upload");
    std::fs::write(&upload, vec![b'u'; SIZE]).unwrap();
    std::fs::create_dir_all(folder()).unwrap();
    for case in ALL {
        let &(server, client, mode, family, tls) = case;
        let options = ServerOptions { tls, size: SIZE, ..ServerOptions::default() };
        let server = Server::start(lab.server(), server, &options).unwrap();
        let tap = tap::Tap::start(lab.gateway(), OUTSIDE_INTERFACE).unwrap();
        let job = Job { from: lab.client(), client, mode, family, server: &server, upload: &upload, limit: LIMIT };
        let outcome = job.run().unwrap();
        assert!(outcome.transferred_by(mode), "{}:\n{}", name(case), outcome.output);
        // The last connection's end may still be on its way.
        std::thread::sleep(Duration::from_millis(300));
        let file = only_tcp(&tap.bytes().unwrap());
        std::fs::write(folder().join(format!("{}.pcap", name(case))), &file).unwrap();
        std::fs::write(folder().join(format!("{}.jsonl", name(case))), show(&told(&file))).unwrap();
    }
}

/// Without neighbour discovery and the like.
fn only_tcp(file: &[u8]) -> Vec<u8> {
    let mut out = file[..24].to_vec();
    for (time, frame) in tap::frames(file).unwrap() {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        if matches!(packet.transport, Some(TransportSlice::Tcp(_))) {
            out.extend(time);
            for _ in 0..2 {
                out.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
            }
            out.extend(frame);
        }
    }
    out
}
