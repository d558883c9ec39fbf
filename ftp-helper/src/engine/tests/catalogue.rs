//! The catalogue of stimuli and verdicts, by its ids, as far as the engine can judge. Each is followed by a transfer
//! that opens, in the same session or, where the session is tainted, in a new one.

use super::*;
use crate::engine::{
    Visible,
    policy::{ActiveOpen, LineEndings, Server},
};

const P1: &[&str] = &["C: PASV", "S: 227 Entering Passive Mode (198,51,100,5,195,149)."];

/// Talks after a login; the ports that opened, and the session.
fn after_login(policy: Policy, lines: &[&str]) -> Sim {
    let mut sim = Sim::logged_in(policy);
    sim.talk(lines);
    sim
}

/// Opens nothing, and the session goes on.
fn opens_nothing(lines: &[&str], reason: &str) -> Sim {
    let mut sim = after_login(policy(), lines);
    assert_eq!(sim.opened(), [0u16; 0], "{lines:?}");
    if !reason.is_empty() {
        assert!(sim.reasons(Kind::Refused).contains(&reason), "{lines:?}: {:?}", sim.reasons(Kind::Refused));
    }
    sim.talk(P1);
    assert_eq!(sim.opened(), [PORT], "{lines:?} must not be the end");
    sim
}

/// Taints: nothing opens in this session any more.
fn taints(sim: &mut Sim, reason: &str) {
    assert_eq!(sim.reasons(Kind::Tainted), [reason], "{:?}", sim.events);
    let before = sim.opened().len();
    sim.talk(P1);
    sim.talk(P1);
    assert_eq!(sim.opened().len(), before);
    assert_eq!(sim.open_now(), 0);
    let asked = sim.commands.iter().any(|(c, _)| c.op == op::STANDING && c.flags & flag::TAINTED != 0);
    assert!(asked, "the kernel is told");
    assert_eq!(after_login(policy(), P1).opened(), [PORT]);
}

#[test]
fn p1_to_p8_open_exactly_one() {
    for (lines, kind) in [
        (&["C: PASV", "S: 227 Entering Passive Mode (198,51,100,5,195,149)."][..], "pasv"),
        (&["C: PASV", "S: 227 Entering Passive Mode 198,51,100,5,195,149"], "pasv"),
        (&["C: EPSV", "S: 229 ok (|||50069|)"], "epsv"),
        (&["C: epsv", "S: 229 ok (!!!50069!)"], "epsv"),
        (&["C: PORT 192,0,2,10,195,149", "S: 200 ok"], "port"),
        (&["C: EPRT |1|192.0.2.10|50069|", "S: 200 ok"], "eprt"),
        (&["C: RETR x", "S: 150 go\r\n226 done", "C: PASV", "S: 227 =198,51,100,5,195,149"], "pasv"),
    ] {
        let sim = after_login(policy(), lines);
        let opened: Vec<_> = sim.of(Kind::Opened).map(|e| e.pinhole.clone().unwrap()).collect();
        assert_eq!(opened.len(), 1, "{lines:?}");
        assert_eq!(serde_json::to_value(opened[0].mode).unwrap(), kind);
        let active = kind == "port" || kind == "eprt";
        let ends = if active { (sim.key.server, sim.key.client) } else { (sim.key.client, sim.key.server) };
        assert_eq!((opened[0].initiator, opened[0].responder), (ends.0.to_ip(), ends.1.to_ip()));
        assert_eq!((opened[0].port, sim.open_now()), (PORT, 1));
    }
    let v6 = SessionKey { client: addr("2001:db8::10"), server: addr("2001:db8:1::5"), ..key() };
    for lines in [["C: EPRT |2|2001:db8::10|50069|", "S: 200 ok"], ["C: EPSV 2", "S: 229 ok (|||50069|)"]] {
        let mut sim = Sim::between(policy(), v6, HOOK_IN, false).login();
        sim.talk(&lines);
        assert_eq!(sim.opened(), [PORT]);
    }
    let mut sim = Sim::between(policy(), v6, HOOK_IN, false).login();
    sim.talk(&["C: EPRT |1|192.0.2.10|50069|", "S: 200 ok", "C: PORT 192,0,2,10,195,149", "S: 200 ok"]);
    assert_eq!((sim.opened().len(), sim.reasons(Kind::Refused)), (0, vec!["address_family"; 2]));
}

#[test]
fn a01_echoes_at_the_start_of_a_segment() {
    for (a, b) in [
        ("550 aaaa", "227 Entering Passive Mode (198,51,100,5,12,234): No such file\r\n"),
        ("500 'XXXX", "227 (198,51,100,5,195,149)': command not understood\r\n"),
        ("331 Password required for ", "229 (|||50069|)\r\n"),
    ] {
        for pipelined in ["NLST x\r\n", "NLST x\r\nPASV\r\n"] {
            let mut sim = Sim::logged_in(policy());
            sim.client(pipelined);
            sim.server(a);
            sim.server(b);
            assert_eq!(sim.opened(), [0u16; 0]);
            if pipelined.len() < 10 {
                sim.client("PASV\r\n");
            }
            sim.server(PASV_OK);
            assert_eq!(sim.opened(), [PORT]);
        }
    }
    // (b) a retransmission that begins within the line.
    let mut sim = Sim::logged_in(policy());
    sim.client("NLST x\r\nPASV\r\n");
    let seq = sim.next[1];
    let line = b"550 aaaa227 Entering Passive Mode (198,51,100,5,195,149)\r\n";
    sim.say(SERVER, line);
    sim.wire(&Wire { side: SERVER, flags: tcp::ACK, seq: seq + 8, ack: sim.next[0], data: line[8..].to_vec() });
    assert_eq!(sim.opened(), [0u16; 0]);
    sim.server(PASV_OK);
    assert_eq!(sim.opened(), [PORT]);
}

#[test]
fn a02_a04_a05_not_ftp() {
    let mut sim = Sim::logged_in(policy());
    sim.client("RETR /aaaa");
    sim.client("PORT 192,0,2,10,195,149\r\n");
    sim.server("550 no\r\n");
    assert_eq!(sim.opened(), [0u16; 0]);
    for first in ["POST / HTTP/1.1\r\nHost: a\r\n\r\nPORT 192,0,2,10,195,149\r\n", "\r\nPORT 192,0,2,10,195,149\r\n"] {
        let mut sim = Sim::new(policy());
        sim.server("220 x\r\n");
        sim.client(first);
        taints(&mut sim, "not_ftp");
    }
    let mut sim = Sim::logged_in(policy());
    sim.client("Host: a\r\n");
    taints(&mut sim, "not_ftp");
    let mut sim = Sim::new(policy());
    sim.client("USER x\r\n");
    taints(&mut sim, "client_first");
    // Sent before the greeting came, seen after it.
    let mut sim = Sim::new(policy());
    sim.server("220 x\r\n");
    sim.wire(&Wire { side: CLIENT, flags: tcp::ACK, seq: START[0], ack: START[1], data: b"USER x\r\n".to_vec() });
    taints(&mut sim, "client_first");
}

#[test]
fn a06_injected_commands() {
    let mut sim = after_login(policy(), &[]);
    sim.client("CWD leet\nPORT 192,0,2,10,195,149\r\n");
    taints(&mut sim, "bare_lf");
    let poc = &["C: CWD leetXX", "S: 250 ok", "C: PORT 192,0,2,10,195,149", "S: 200 ok"];
    for (active_open, opens) in [(ActiveOpen::Reply, 1), (ActiveOpen::Auto, 1), (ActiveOpen::Transfer, 0)] {
        let sim = after_login(Policy { active_open, ..policy() }, poc);
        assert_eq!(sim.opened().len(), opens, "{active_open:?}");
    }
    let mut sim = after_login(Policy { active_open: ActiveOpen::Transfer, ..policy() }, poc);
    sim.talk(&["C: RETR x"]);
    assert_eq!(sim.opened(), [PORT]);
    sim.talk(&["S: 550 no"]);
    assert_eq!(sim.reasons(Kind::Revoked), ["negative_reply"]);
}

#[test]
fn a10_to_a17_addresses_and_ports() {
    for (line, reason) in [
        ("PORT 203,0,113,77,0,25", "third_host"),
        ("PORT 10,0,0,5,0,22", "third_host"),
        ("PORT 192,0,2,10,0,22", "low_port"),
        ("PORT 192,0,2,10,0,0", "low_port"),
        ("PORT 192,0,2,10,3,255", "low_port"),
        ("PORT 192,0,2,10,12,234", "denied_port"),
        ("PORT 192,0,2,10,0,21", "control_port"),
        ("PORT 127,0,0,1,195,149", "third_host"),
        ("EPRT |2|::|50069|", "address_family"),
        ("EPRT |2|ff02::1|50069|", "address_family"),
        ("EPRT |1|0.0.0.0|50069|", "third_host"),
        ("EPRT |2|::ffff:192.0.2.10|50069|", "bad_syntax"),
    ] {
        opens_nothing(&[&format!("C: {line}"), "S: 200 ok"], reason);
    }
    for (reply, reason) in [
        ("227 (10,0,0,5,195,149)", "third_host"),
        ("227 (1,2,3,4,195,149)", "third_host"),
        ("227 (198,51,100,5,0,22)", "low_port"),
        ("227 (198,51,100,5,12,234)", "denied_port"),
        ("227 (198,51,100,5,0,21)", "control_port"),
        ("227 (0,0,0,0,195,149)", "third_host"),
    ] {
        opens_nothing(&["C: PASV", &format!("S: {reply}")], reason);
    }
    opens_nothing(&["C: EPSV", "S: 229 (|||22|)"], "low_port");
    for port in ["4,0", "255,255"] {
        assert_eq!(after_login(policy(), &["C: PASV", &format!("S: 227 (198,51,100,5,{port})")]).opened().len(), 1);
    }
    let ranged = Policy {
        servers: vec![Server {
            networks: vec!["198.51.100.5/32".parse().unwrap()],
            passive_ports: Some(50069..=50070),
            opaque: Default::default(),
        }],
        ..policy()
    };
    let sim = after_login(ranged, &["C: EPSV", "S: 229 (|||50071|)", "C: EPSV", "S: 229 (|||50069|)"]);
    assert_eq!((sim.opened(), sim.reasons(Kind::Refused)), (vec![PORT], vec!["outside_range"]));
}

#[test]
fn a20_to_a29_numbers_and_syntax() {
    for argument in [
        "192,0,2,10,256,22",
        "4294967488,0,2,10,195,149",
        "0300,0,02,012,0303,0225",
        "192,000,002,010,195,149",
        "192,0,2,10,+195,149",
        "192,0,2,10,0xC3,149",
        "192,0,2,10,195 ,149",
        "192,0,2,10,195,149 ",
        " 192,0,2,10,195,149",
        "192,0,2,10,195,149xyz",
        "192,0,2,10,195,149,1",
        "192,0,2,10,195",
        "192,,2,10,195,149",
        "192,0,2,10,195,149\0",
        "192,0,2,10,195,\u{ff11}",
    ] {
        opens_nothing(&[&format!("C: PORT {argument}"), "S: 200 ok"], "bad_syntax");
    }
    for argument in ["|1|192.0.2.10|65558|", "|1|192.0.2.10|131072|", "|1|192.0.2.10|50069", "||||", ".1.192.0.2.10.5."]
    {
        opens_nothing(&[&format!("C: EPRT {argument}"), "S: 200 ok"], "bad_syntax");
    }
    for text in ["(|||65558|)", "(|||65536|)", "(|||4294967318|)", "(|2|2001:db8::5|50069|)", "|||50069|"] {
        opens_nothing(&["C: EPSV", &format!("S: 229 ok {text}")], "bad_syntax");
    }
    for text in ["((|||1|)|||50069|)", "(foo) (|||50069|)"] {
        opens_nothing(&["C: EPSV", &format!("S: 229 ok {text}")], "ambiguous_reply");
    }
    for text in ["1,2,3 files (198,51,100,5,195,149)", "(1,2,3,4,5,6) (198,51,100,5,195,149)"] {
        opens_nothing(&["C: PASV", &format!("S: 227 {text}")], "ambiguous_reply");
    }
    for verb in ["XPORT", "PORTX", " PORT"] {
        opens_nothing(&[&format!("C: {verb} 192,0,2,10,195,149"), "S: 200 ok"], "");
    }
    for line in ["LPRT 4,4,192,0,2,10,2,195,149", "LPSV", "SPSV", "CPSV"] {
        opens_nothing(&[&format!("C: {line}"), "S: 228 (4,4,198,51,100,5,2,195,149)"], "unsupported_verb");
    }
}

#[test]
fn a30_to_a37_replies() {
    opens_nothing(&["C: CWD x", "S: 250-Message\r\n227 Entering Passive Mode (198,51,100,5,195,148)\r\n250 OK"], "");
    opens_nothing(&["C: PASV", "S: 230- WARNING\r\n226 x\r\n227 (198,51,100,5,195,148)\r\n230 end"], "multiline_reply");
    opens_nothing(&["C: PASV", "S: 227-x (198,51,100,5,195,148)\r\n227 (198,51,100,5,195,148)"], "multiline_reply");
    for reply in ["2270 ", "227\t", "227:", "227(", " 227 ", "0227 ", "227"] {
        opens_nothing(&["C: PASV", &format!("S: {reply}Entering (198,51,100,5,195,148)")], "bad_syntax");
    }
    opens_nothing(&["S: 227 (198,51,100,5,195,148)"], "unsolicited_reply");
    opens_nothing(&["C: EPSV", "S: 227 (198,51,100,5,195,148)"], "unsolicited_reply");
    opens_nothing(&["C: PASV", "S: 229 (|||50068|)"], "unsolicited_reply");
    opens_nothing(&["C: PASV", "S: 425 no", "S: 227 (198,51,100,5,195,148)"], "unsolicited_reply");
    opens_nothing(&["C: RETR x", "S: 150 go\r\n227 (198,51,100,5,195,148)"], "unsolicited_reply");
    let mut sim = after_login(policy(), &["C: PASV", "S: 227 (198,51,100,5,195,149)\r\n227 (198,51,100,5,195,148)"]);
    assert_eq!(sim.opened(), [PORT]);
    sim.talk(&["C: RETR x", "S: 150 go\r\n226 done"]);
    assert_eq!(sim.reasons(Kind::Refused), ["unsolicited_reply"]);
    for line in ["C: 227 Entering Passive Mode (198,51,100,5,195,149)", "S: PORT 192,0,2,10,195,149"] {
        taints(&mut after_login(policy(), &[line]), "wrong_direction");
    }
    let sim = after_login(policy(), &["C: PORT 192,0,2,10,195,149", "S: 500 no"]);
    assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec!["negative_reply"], 0));
    let reply = Policy { active_open: ActiveOpen::Reply, ..policy() };
    let mut sim = after_login(reply, &["C: NOOP\r\nPORT 192,0,2,10,195,149", "S: 200 for the noop"]);
    assert_eq!(sim.opened(), [0u16; 0]);
    sim.talk(&["S: 314 bluah"]);
    assert_eq!((sim.opened().len(), sim.reasons(Kind::Refused)), (0, vec!["refused_by_server"]));
}

#[test]
fn a38_epsv_all() {
    let all = &["C: EPSV ALL", "S: 200 ok"];
    for lines in [&["C: PASV", "S: 227 (198,51,100,5,195,149)"], &["C: PORT 192,0,2,10,195,149", "S: 200 ok"]] {
        let mut sim = after_login(policy(), all);
        sim.talk(lines);
        assert_eq!((sim.opened().len(), sim.reasons(Kind::Refused)), (0, vec!["epsv_all"]));
        sim.talk(&["C: EPSV", "S: 229 (|||50069|)"]);
        assert_eq!(sim.opened(), [PORT]);
    }
}

#[test]
fn a40_to_a44_telnet_and_line_endings() {
    let mut sim = after_login(policy(), P1);
    assert_eq!(sim.open_now(), 1);
    sim.say(CLIENT, b"\xff\xf4\xff\xf2ABOR\r\n");
    assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec!["abor"], 0));
    sim.talk(&["S: 226 ok"]);
    sim.talk(P1);
    assert_eq!(sim.opened(), [PORT, PORT]);
    for data in [
        &b"PO\xff\xf1RT 192,0,2,10,195,149\r\n"[..],
        b"PORT 192,0,2,10,195,\xff\xfb\x01149\r\n",
        b"PASV\xff\xff\r\n",
        b"\xff\xfa\x01\xff\xf0PASV\r\n",
    ] {
        let mut sim = Sim::logged_in(policy());
        sim.say(CLIENT, data);
        if !data.ends_with(b"\xff\xff\r\n") {
            taints(&mut sim, "telnet_in_command");
        }
    }
    let mut sim = after_login(policy(), &["C: PASV"]);
    sim.say(SERVER, b"227\xff\xf1 Entering (198,51,100,5,195,149)\r\n");
    taints(&mut sim, "telnet_in_command");
    for (data, reason) in [
        (&b"PORT 192,0,2,10,195,149\n"[..], "bare_lf"),
        (b"PORT 192,0,2,10,195,149\rLIST\r\n", "bare_cr"),
        (b"PORT 192,0,2,10,195,149\r\0", "bare_cr"),
        (b"PASV\r\r\n", "bare_cr"),
    ] {
        let mut sim = Sim::logged_in(policy());
        sim.say(CLIENT, data);
        taints(&mut sim, reason);
    }
    let mut sim = Sim::logged_in(Policy { line_endings: LineEndings::Lenient, ..policy() });
    sim.say(CLIENT, b"PORT 192,0,2,10,195,149\nNOOP\n");
    sim.talk(&["S: 200 ok", "S: 200 ok"]);
    assert_eq!((sim.opened().len(), sim.reasons(Kind::Refused)), (0, vec!["bare_lf"]));
    sim.talk(P1);
    assert_eq!(sim.opened(), [PORT]);
    // A44: urgent data.
    let mut sim = Sim::logged_in(policy());
    let urgent = |sim: &mut Sim, data: &[u8]| {
        let wire =
            Wire { side: CLIENT, flags: tcp::ACK | tcp::URG, seq: sim.next[0], ack: sim.next[1], data: data.to_vec() };
        sim.wire(&wire);
    };
    urgent(&mut sim, b"\xff\xf4\xff");
    urgent(&mut sim, b"\xf2ABOR\r\n");
    sim.talk(&["S: 226 ok"]);
    sim.talk(P1);
    assert_eq!(sim.opened(), [PORT]);
    urgent(&mut sim, b"PORTX 192,0,2,10,195,149\r\n");
    assert_eq!((sim.reasons(Kind::Tainted), sim.open_now()), (vec!["urgent_data"], 0));
}

#[test]
fn a43_long_lines() {
    for at in (127..1500).step_by(61) {
        let mut line = vec![b'A'; 20_000];
        line[..4].copy_from_slice(b"CWD ");
        line[at..at + 27].copy_from_slice(b"PORT 192,0,2,10,195,149    ");
        line.extend(b"\r\n");
        let mut sim = Sim::logged_in(policy());
        for part in line.chunks(1000) {
            sim.say(CLIENT, part);
        }
        sim.talk(&["S: 250 ok"]);
        assert_eq!(sim.opened(), [0u16; 0]);
        sim.talk(P1);
        assert_eq!(sim.opened(), [PORT], "{at}");
    }
    opens_nothing(&[&format!("C: PORT 192,0,2,10,195,149{}", " ".repeat(3000)), "S: 200 ok"], "bad_syntax");
}

#[test]
fn a51_a52_a53_streams() {
    // More behind a gap than is kept.
    let mut sim = Sim::logged_in(policy());
    for i in 0..80u32 {
        let seq = sim.next[0].wrapping_add(1000 + i * 900);
        sim.engine.handle_record(
            sim.now,
            &Record::Segment(
                SegmentRecord {
                    kind: kind::SEGMENT,
                    tcp_flags: tcp::ACK,
                    seq,
                    ack: sim.next[1],
                    segment_len: 900,
                    ..sim.blank()
                },
                &[b'x'; 900],
            ),
        );
        sim.drain();
    }
    assert_eq!(sim.reasons(Kind::Tainted), ["reassembly_overflow"]);
    // The same bytes twice with different contents.
    for (offset, data) in [(0, &b"PORT 192,0,2,10,200,100\r\n"[..]), (5, b"203"), (0, b"PORT 192,0,2,10,195,149\r\nX")]
    {
        let mut sim = Sim::logged_in(policy());
        let seq = sim.next[0];
        let line = b"PORT 192,0,2,10,195,149\r\n";
        sim.say(CLIENT, line);
        sim.wire(&Wire { side: CLIENT, flags: tcp::ACK, seq, ack: sim.next[1], data: line.to_vec() });
        assert_eq!((sim.opened(), sim.open_now()), (vec![PORT], 1));
        let wire = Wire { side: CLIENT, flags: tcp::ACK, seq: seq + offset, ack: sim.next[1], data: data.to_vec() };
        sim.wire(&wire);
        let same = data.starts_with(line);
        assert_eq!(sim.reasons(Kind::Killed).len(), usize::from(!same), "{offset}");
        assert_eq!(sim.open_now(), usize::from(same));
        let killed = sim.commands.iter().any(|(c, _)| c.op == op::STANDING && c.flags & flag::KILLED != 0);
        assert_eq!(killed, !same);
    }
    // Outside the window, an absurd acknowledgement, a reset that is not exact: ignored.
    let mut sim = Sim::logged_in(policy());
    let (seq, ack) = (sim.next[0], sim.next[1]);
    let saved = sim.next;
    for wire in [
        Wire { side: CLIENT, flags: tcp::ACK, seq: seq.wrapping_add(1 << 25), ack, data: b"PASV\r\n".to_vec() },
        Wire { side: CLIENT, flags: tcp::ACK, seq, ack: ack.wrapping_add(1 << 25), data: b"QUIT\r\n".to_vec() },
        Wire { side: CLIENT, flags: tcp::RST, seq: seq.wrapping_add(5), ack, data: vec![] },
    ] {
        sim.wire(&wire);
        sim.next = saved;
    }
    sim.talk(P1);
    assert_eq!(sim.opened(), [PORT]);
    assert_eq!(sim.engine.stats().acks_from_nowhere, 1);
}

#[test]
fn a73_to_a76_lifetime() {
    let mut sim = after_login(policy(), &["C: PASV", "S: 227 (198,51,100,5,195,148)"]);
    sim.talk(P1);
    assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec!["replaced"], 1));
    sim.wait(11 * SECOND);
    assert_eq!((sim.of(Kind::Expired).count(), sim.open_now()), (1, 0));
    for (command, reason) in
        [("QUIT", "quit"), ("REIN", "rein"), ("USER x", "relogin"), ("ABOR", "abor"), ("AUTH TLS", "auth")]
    {
        let mut sim = after_login(policy(), P1);
        sim.talk(&[&format!("C: {command}")]);
        assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec![reason], 0), "{command}");
        assert!(sim.commands.iter().any(|(c, _)| c.op == op::REVOKE));
    }
    for (side, flags) in [(CLIENT, tcp::FIN), (SERVER, tcp::FIN), (CLIENT, tcp::RST), (SERVER, tcp::RST)] {
        let mut sim = after_login(policy(), P1);
        sim.flags(side, flags);
        assert_eq!((sim.reasons(Kind::Revoked), sim.open_now()), (vec!["control_closed"], 0));
        assert_eq!(sim.engine.sessions().next().unwrap().state, Visible::Closing);
        if side == CLIENT && flags == tcp::FIN {
            sim.talk(&["S: 226 late"]);
        }
    }
    // Half closed, nothing opens any more.
    let mut sim = after_login(policy(), &["C: PASV"]);
    sim.flags(CLIENT, tcp::FIN);
    sim.server(PASV_OK);
    assert_eq!((sim.opened().len(), sim.reasons(Kind::Refused)), (0, vec!["session_closing"]));
}

#[test]
fn a80_a81_floods() {
    let mut sim = Sim::logged_in(policy());
    for i in 0..500 {
        sim.talk(&[&format!("C: PORT 192,0,2,10,{},{}", 10 + i / 250, i % 250), "S: 200 ok"]);
        assert!(sim.open_now() <= 1);
    }
    let mut sim = Sim::logged_in(policy());
    for _ in 0..10_000 {
        sim.client("NOOP\r\n");
    }
    taints(&mut sim, "pipeline_overflow");
    assert!(sim.engine.sessions.values().map(|s| s.heap()).sum::<usize>() < 4096);
}

#[test]
fn a85_nothing_from_the_wire_reaches_people_unescaped() {
    let sim = after_login(policy(), &["C: PORT \x1b[2J\"\u{9b}x", "S: 200 ok"]);
    let detail = sim.of(Kind::Refused).next().unwrap().detail.clone().unwrap();
    assert!(detail.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{detail}");
}

#[test]
fn a90_to_a96_tls_and_other_protocols() {
    let mut sim = after_login(policy(), P1);
    sim.talk(&["C: AUTH TLS", "S: 234 go"]);
    assert_eq!(sim.reasons(Kind::Opaque), ["auth_accepted"]);
    sim.talk(P1);
    sim.talk(&["C: CCC", "S: 200 ok", "C: PORT 192,0,2,10,195,149", "S: 200 ok"]);
    assert_eq!((sim.opened().len(), sim.open_now()), (1, 0));
    assert!(sim.commands.iter().any(|(c, _)| c.op == op::STANDING && c.flags == flag::OPAQUE));
    let sim = after_login(policy(), &["C: AUTH GSSAPI", "S: 334 more"]);
    assert_eq!(sim.reasons(Kind::Opaque), ["auth_accepted"]);
    opens_nothing(&["C: AUTH TLS", "S: 500 no"], "");
    taints(&mut after_login(policy(), &["C: AUTH TLS\r\nPASV"]), "pipelined_auth");
    let mut sim = Sim::new(policy());
    sim.say(CLIENT, &[0x16, 3, 1, 0, 5]);
    assert_eq!(sim.reasons(Kind::Opaque), ["implicit_tls"]);
    for first in
        ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\r\n", "200 x\r\n", "331 x\r\n", "227 (198,51,100,5,195,149)\r\n"]
    {
        let mut sim = Sim::new(policy());
        sim.server(first);
        taints(&mut sim, "not_ftp");
    }
    for first in ["120 wait\r\n220 now\r\n", "220-a\r\n220 b\r\n", "421 busy\r\n"] {
        let mut sim = Sim::new(policy());
        sim.server(first);
        sim.talk(&["C: USER x", "S: 230 in"]);
        sim.talk(P1);
        assert_eq!(sim.opened(), [PORT], "{first}");
    }
    let mut sim = Sim::new(policy());
    sim.server("220 x\r\n331 x\r\n230 x\r\n227 (198,51,100,5,195,149)\r\n");
    assert_eq!(sim.opened(), [0u16; 0]);
}

#[test]
fn replies_sent_before_the_command() {
    let mut sim = Sim::logged_in(policy());
    let ack = sim.next[0];
    sim.client("PASV\r\n");
    let seq = sim.next[1];
    sim.wire(&Wire { side: SERVER, flags: tcp::ACK, seq, ack, data: PASV_OK.replace("149", "148").into_bytes() });
    assert_eq!((sim.opened().len(), sim.reasons(Kind::Refused)), (0, vec!["early_reply"]));
    sim.server(PASV_OK);
    assert_eq!(sim.opened(), [PORT]);
}
