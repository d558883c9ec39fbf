//! Crafted captures: the same dialogue in every shape opens the same pinholes, and bad captures are named.

mod crafted;

use std::{collections::BTreeSet, path::PathBuf};

use ftp_helper_common::reason::Reason;
use pcap_file::DataLink;

use self::crafted::{
    ACK, CLIENT, LOGIN, RST, SERVER, SYN, Seg, TRANSFERS, Tcp, Turns, announced, bytes_of, control, cut, dialogue,
    expected, packet, pcap, pcap_at, pcapng, whole,
};
use super::*;
use crate::{engine::policy::Modes, event::Kind};

fn replay_with(file: &[u8], options: Options) -> (Vec<Event>, Result<Summary, ReplayError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    std::fs::write(&path, file).unwrap();
    let mut events = Vec::new();
    let result = run(
        &path,
        options,
        |_, _| {},
        |event| {
            events.push(event);
            Ok::<_, ReplayError>(())
        },
    );
    (events, result.map_err(|e| ReplayError { path: PathBuf::from("c.pcap"), ..e }))
}

fn events(segments: &[Seg]) -> Vec<Event> {
    let (events, result) = replay_with(&pcap(segments), Options::default());
    result.unwrap();
    events
}

/// What opened, each once: mode, initiator, responder, port.
fn opened(events: &[Event]) -> BTreeSet<String> {
    let pinholes = events.iter().filter(|e| e.event == Kind::Opened).map(|e| e.pinhole.as_ref().unwrap());
    let all: Vec<_> = pinholes
        .map(|p| {
            let mode = serde_json::to_value(p.mode).unwrap();
            format!("{} {} {} {}", mode.as_str().unwrap(), p.initiator, p.responder, p.port)
        })
        .collect();
    let set: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(set.len(), all.len(), "one announcement opened twice: {all:?}");
    set
}

fn kinds(events: &[Event]) -> Vec<Kind> {
    events.iter().map(|e| e.event).collect()
}

#[test]
fn the_plain_dialogue() {
    let events = events(&whole());
    assert_eq!(opened(&events), expected());
    let refused: Vec<_> = events.iter().filter(|e| e.event == Kind::Refused).filter_map(|e| e.reason).collect();
    assert!(refused.contains(&Reason::ThirdHost), "{refused:?}");
    assert_eq!(events[0].event, Kind::SessionStart);
    assert_eq!(events[0].client, Some("192.0.2.10:40000".parse().unwrap()));
    assert_eq!(events[0].ts.to_string(), "2023-11-14T22:13:20.000020Z");
}

#[test]
fn cut_at_every_byte() {
    let whole = whole();
    for (i, segment) in whole.iter().enumerate() {
        for at in 1..segment.payload.len() {
            let mut segments = whole.clone();
            segments.splice(i..=i, cut(segment, at));
            assert_eq!(opened(&events(&segments)), expected(), "segment {i} cut at {at}");
        }
    }
}

#[test]
fn one_byte_a_segment() {
    let segments: Vec<_> = whole().iter().flat_map(bytes_of).collect();
    assert_eq!(opened(&events(&segments)), expected());
}

#[test]
fn reordered() {
    let whole = whole();
    // The handshake has an order of its own; everything behind it may arrive before its neighbour.
    for i in 3..whole.len() - 1 {
        let mut segments = whole.clone();
        segments.swap(i, i + 1);
        assert_eq!(opened(&events(&segments)), expected(), "segments {i} and {} swapped", i + 1);
    }
    let mut segments: Vec<_> = whole.iter().flat_map(bytes_of).collect();
    for window in segments[3..].chunks_mut(7) {
        window.reverse();
    }
    assert_eq!(opened(&events(&segments)), expected(), "bytes reversed, seven at a time");
}

#[test]
fn retransmitted() {
    let whole = whole();
    for i in 0..whole.len() {
        for later in 1..4 {
            let mut segments = whole.clone();
            segments.insert((i + later).min(segments.len()), whole[i].clone());
            assert_eq!(opened(&events(&segments)), expected(), "segment {i} again {later} later");
        }
    }
    let twice: Vec<_> = whole.iter().flat_map(|s| [s.clone(), s.clone()]).collect();
    assert_eq!(opened(&events(&twice)), expected(), "everything twice");
}

#[test]
fn several_commands_a_segment() {
    // All commands of the transfers at once, then all replies at once.
    let commands: String = TRANSFERS.iter().filter(|t| t.0 == CLIENT).map(|t| t.1).collect();
    let replies: String = TRANSFERS.iter().filter(|t| t.0 == SERVER).map(|t| t.1).collect();
    let turns = [LOGIN, &[(CLIENT, commands.as_str()), (SERVER, replies.as_str())]].concat();
    let segments = dialogue(&turns);
    assert_eq!(opened(&events(&segments)), expected());
    let bytes: Vec<_> = segments.iter().flat_map(bytes_of).collect();
    assert_eq!(opened(&events(&bytes)), expected(), "and one byte a segment");
}

#[test]
fn a_transfer_from_end_to_end() {
    let (mut control, mut segments) = announced();
    let mut data = Tcp::new("192.0.2.10", 40001, "198.51.100.5", 50069);
    segments.extend(data.handshake());
    segments.push(data.send(1, ACK, &[7; 1000]));
    segments.push(data.send(1, ACK, &[8; 500]));
    segments.push(segments.last().unwrap().clone());
    segments.push(data.send(0, ACK, b""));
    segments.extend(data.close());
    // Nothing is left to use.
    segments.extend(Tcp::new("192.0.2.10", 40002, "198.51.100.5", 50069).handshake());
    segments.push(control.send(CLIENT, ACK, b"QUIT\r\n"));
    segments.push(control.send(SERVER, ACK, b"221 bye\r\n"));
    segments.extend(control.close());
    for (name, file) in [("pcap", pcap(&segments)), ("pcapng", pcapng(&segments))] {
        let (events, result) = replay_with(&file, Options::default());
        let packets = segments.len() as u64;
        let expected =
            Summary { packets, sessions: 1, opened: 1, used: 1, still_open: 0, fragments: 0, short: 0, kernel: None };
        assert_eq!(result.unwrap(), expected, "{name}");
        use Kind::{DataEnd, Opened, SessionEnd, SessionStart, Used};
        assert_eq!(kinds(&events), [SessionStart, Opened, Used, DataEnd, SessionEnd], "{name}");
        assert_eq!(events[4].reason, Some(Reason::Closed), "{name}");
        let ended = events[3].connection.as_ref().unwrap();
        assert_eq!(ended.from, "192.0.2.10:40001".parse().unwrap());
        assert_eq!(ended.to, "198.51.100.5:50069".parse().unwrap());
        assert_eq!((ended.bytes_out, ended.bytes_back), (Some(0), Some(1500)));
        assert_eq!(events[0].ts.to_string(), "2023-11-14T22:13:20.000020Z", "{name}");
    }
}

#[test]
fn ipv6() {
    let mut tcp = Tcp::new("2001:db8::10", 40000, "2001:db8:1::5", 21);
    let mut segments = tcp.handshake();
    let turns: Turns<'_> = &[
        (CLIENT, "EPSV\r\n"),
        (SERVER, "229 Entering Extended Passive Mode (|||50070|)\r\n"),
        (CLIENT, "EPRT |2|2001:db8::10|51202|\r\n"),
        (SERVER, "200 ok\r\n"),
    ];
    segments.extend([LOGIN, turns].concat().iter().map(|(side, text)| tcp.send(*side, ACK, text.as_bytes())));
    let expected = ["epsv 2001:db8::10 2001:db8:1::5 50070", "eprt 2001:db8:1::5 2001:db8::10 51202"];
    assert_eq!(opened(&events(&segments)), expected.map(str::to_owned).into());
}

#[test]
fn which_side_is_outside_decides_about_active_mode() {
    let inside = |active_inbound| {
        let policy = Policy { active_inbound, ..Policy::default() };
        let options = Options { policy, outside: Outside::Server };
        let (events, result) = replay_with(&pcap(&whole()), options);
        result.unwrap();
        events
    };
    let events = inside(false);
    let passive: BTreeSet<_> =
        expected().into_iter().filter(|p| p.starts_with("pasv") || p.starts_with("epsv")).collect();
    assert_eq!(opened(&events), passive);
    assert!(events.iter().any(|e| e.reason == Some(Reason::ActiveInboundOff)));
    assert_eq!(opened(&inside(true)), expected());
}

#[test]
fn the_policy_is_applied() {
    let policy = Policy { modes: Modes::NONE, ..Policy::default() };
    let (events, result) = replay_with(&pcap(&whole()), Options { policy, ..Options::default() });
    assert_eq!(result.unwrap().opened, 0);
    assert!(events.iter().any(|e| e.event == Kind::Refused && e.reason == Some(Reason::ModeDisabled)));
}

#[test]
fn an_unused_pinhole_expires_on_the_captures_own_clock() {
    let (mut control, mut segments) = announced();
    let last = segments.len() as u64;
    segments.push(control.send(CLIENT, ACK, b"NOOP\r\n"));
    // The last packet comes a minute later.
    let times = (0..last).chain([60_000_000]);
    let file = pcap_at(times.zip(segments.iter().map(packet)), DataLink::RAW);
    let (events, result) = replay_with(&file, Options::default());
    assert_eq!(result.unwrap().still_open, 0);
    let expired = events.iter().find(|e| e.event == Kind::Expired).expect("expired");
    assert_eq!(expired.ts.to_string(), "2023-11-14T22:13:30.000009Z");
}

#[test]
fn only_the_announced_connection_uses_a_pinhole() {
    let (_, mut segments) = announced();
    for mut other in [
        Tcp::new("203.0.113.66", 40001, "198.51.100.5", 50069),
        Tcp::new("192.0.2.10", 40001, "198.51.100.5", 50068),
        Tcp::new("198.51.100.5", 50069, "192.0.2.10", 40001),
    ] {
        segments.extend(other.handshake());
    }
    // Refused once, then it comes again from another port; that one is reset at once and tried a third time.
    let mut data = Tcp::new("192.0.2.10", 40002, "198.51.100.5", 50069);
    segments.push(data.send(0, SYN, b""));
    segments.push(data.send(1, RST | ACK, b""));
    let mut again = Tcp::new("192.0.2.10", 40003, "198.51.100.5", 50069);
    segments.extend(again.handshake());
    segments.push(again.send(1, ACK, b"hello"));
    segments.push(again.send(1, RST | ACK, b""));
    let (events, result) = replay_with(&pcap(&segments), Options::default());
    let summary = result.unwrap();
    assert_eq!((summary.opened, summary.used, summary.still_open), (1, 1, 0));
    let ended = events.iter().find(|e| e.event == Kind::DataEnd).expect("data_end");
    assert_eq!(ended.reason, Some(Reason::Reset));
    assert_eq!(ended.connection.as_ref().unwrap().from.port(), 40003);
    assert_eq!(ended.connection.as_ref().unwrap().bytes_back, Some(5));
}

#[test]
fn more_than_four_gibibytes_are_counted_right() {
    let (_, mut segments) = announced();
    let mut data = Tcp::new("192.0.2.10", 40001, "198.51.100.5", 50069);
    segments.extend(data.handshake());
    let mut packets: Vec<_> = segments.iter().map(packet).collect();
    // Only the headers were captured, which is enough for data.
    let length = 65_000;
    let count = (5_u64 << 30) / length + 1;
    for _ in 0..count {
        let mut header = packet(&data.send(1, ACK, b""));
        header[2..4].copy_from_slice(&(40 + u16::try_from(length).unwrap()).to_be_bytes());
        data.next[1] = data.next[1].wrapping_add(u32::try_from(length).unwrap());
        packets.push(header);
    }
    packets.extend(data.close().iter().map(packet));
    let (events, result) = replay_with(&pcap_at((0..).zip(packets), DataLink::IPV4), Options::default());
    result.unwrap();
    let ended = events.iter().find(|e| e.event == Kind::DataEnd).expect("data_end");
    assert_eq!(ended.connection.as_ref().unwrap().bytes_back, Some(count * length));
}

#[test]
fn a_connection_whose_beginning_is_missing_opens_nothing() {
    let (events, result) = replay_with(&pcap(&whole()[3..]), Options::default());
    assert_eq!(result.unwrap().opened, 0);
    assert_eq!(kinds(&events), [Kind::SessionEnd]);
    assert_eq!(events[0].reason, Some(Reason::Midstream));
    let mut with_data = whole();
    with_data[0].payload = b"x".to_vec();
    let (events, _) = replay_with(&pcap(&with_data), Options::default());
    assert_eq!(events[0].reason, Some(Reason::DataInSyn));
    assert!(opened(&events).is_empty());
}

#[test]
fn the_ports_of_an_old_connection_are_used_anew() {
    let mut segments = whole();
    let mut second = control();
    second.next = [5000, 9000];
    segments.extend(second.handshake());
    for (side, text) in [LOGIN, &[(CLIENT, "EPSV\r\n"), (SERVER, "229 ok (|||50099|)\r\n")]].concat() {
        segments.push(second.send(side, ACK, text.as_bytes()));
    }
    let events = events(&segments);
    let mut all = expected();
    all.insert("epsv 192.0.2.10 198.51.100.5 50099".into());
    assert_eq!(opened(&events), all);
    assert!(events.iter().any(|e| e.event == Kind::SessionEnd));
}

/// Somebody else's SYN in the middle of a session ends nothing; nor does a SYN-ACK that answers none.
#[test]
fn a_forged_handshake_ends_no_session() {
    let mut segments = whole();
    let mut forged = control();
    forged.next = [7, 8];
    let [syn, syn_ack, ack] = <[Seg; 3]>::try_from(forged.handshake()).unwrap();
    let wrong = Seg { ack: 9999, ..syn_ack };
    segments.splice(6..6, [syn, wrong, ack]);
    let events = events(&segments);
    assert_eq!(opened(&events), expected());
    assert!(!kinds(&events).contains(&Kind::SessionEnd), "{events:?}");
}

/// Packets of a killed session are dropped: nothing that they say is told, but that it is so.
#[test]
fn a_killed_session_says_nothing_any_more() {
    let whole = whole();
    let i = whole.iter().position(|s| s.payload.starts_with(b"227 Entering")).unwrap();
    let mut other = whole[i].clone();
    other.payload[30] ^= 1;
    let mut segments = whole[..=i].to_vec();
    segments.push(other);
    segments.extend_from_slice(&whole[i + 1..]);
    segments.push(Seg { flags: RST, payload: Vec::new(), ..whole[i + 1].clone() });
    use Kind::{Denied, Killed, Opened, Revoked, SessionStart};
    let events = events(&segments);
    assert_eq!(kinds(&events), [SessionStart, Opened, Revoked, Killed, Denied]);
    assert_eq!(events[4].reason, Some(Reason::Killed));
}

#[test]
fn a_segment_longer_than_a_record() {
    let mut long = String::from("220-Welcome\r\n");
    while long.len() < 5000 {
        long.push_str(" and a very long story\r\n");
    }
    long.push_str("220 here\r\n");
    let turns = [&[(SERVER, long.as_str())], &LOGIN[1..], TRANSFERS].concat();
    assert_eq!(opened(&events(&dialogue(&turns))), expected());
}

#[test]
fn bad_captures_are_named() {
    let said = |file: &[u8]| replay_with(file, Options::default()).1.unwrap_err().to_string();
    let good = pcap(&whole());
    assert!(
        said(&good[..good.len() - 3]).starts_with("c.pcap: truncated: it ends within packet 22 that begins at byte ")
    );
    assert_eq!(said(b"MZ\0\0"), "c.pcap: byte 0: neither a pcap nor a pcapng file");
    let wifi = pcap_at([(0, vec![0; 60])].into_iter(), DataLink::IEEE802_11);
    assert!(
        said(&wifi).starts_with("c.pcap: packet 1 at byte 24: link type 105 is not supported; supported are Ethernet")
    );
    let mut cut = packet(&whole()[3]);
    let missing = 5;
    cut.truncate(cut.len() - missing);
    let packets: Vec<_> = whole()[..3].iter().map(packet).chain([cut]).enumerate().collect();
    let mut file = pcap_at(packets.into_iter().map(|(i, p)| (i as u64, p)), DataLink::RAW);
    // The length on the wire, in the header of the fourth packet.
    file[192 + 12] += u8::try_from(missing).unwrap();
    let message = said(&file);
    assert!(
        message
            .starts_with("c.pcap: packet 4 at byte 192: 5 bytes of a control connection's segment were not captured"),
        "{message}"
    );
    let missing: Result<_, ReplayError> =
        run(std::path::Path::new("/nonexistent/x.pcap"), Options::default(), |_, _| {}, |_| Ok(()));
    let message = missing.unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/x.pcap: can't be opened: No such file"), "{message}");
}

/// Whoever sends such a packet does not keep anybody from looking at the rest.
#[test]
fn a_packet_shorter_than_it_says_is_left_out() {
    let whole = whole();
    let mut packets: Vec<_> = whole.iter().map(packet).collect();
    let mut short = packet(&Seg { payload: b"PASV\r\n".to_vec(), ..whole[3].clone() });
    short[2..4].copy_from_slice(&300_u16.to_be_bytes());
    packets.insert(3, short);
    let (events, result) = replay_with(&pcap_at((0..).zip(packets), DataLink::RAW), Options::default());
    assert_eq!(opened(&events), expected());
    assert_eq!(result.unwrap().short, 1);
}

#[test]
fn what_came_before_the_damage_is_told() {
    let mut file = pcap(&whole());
    file.extend([0; 7]);
    let (events, result) = replay_with(&file, Options::default());
    assert_eq!(opened(&events), expected());
    assert!(matches!(result.unwrap_err().problem, CaptureProblem::Truncated { .. }));
}
