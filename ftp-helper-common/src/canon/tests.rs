//! Dialogues through the reader.

use std::net::IpAddr;

use super::{
    host::{HostRules, Machine},
    *,
};
use crate::{
    key::{HOOK_OUT, PinholeKey},
    policy::active_open,
};

struct Pair {
    machine: Machine,
    policy: KernelPolicy,
    next: [u32; 2],
}

impl Pair {
    fn new(client_hook: u8) -> Self {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap().into();
        let key =
            SessionKey { client: ip("192.0.2.10"), server: ip("198.51.100.5"), client_port: 40000, server_port: 21 };
        // Close to the wrap of sequence space on purpose.
        let next = [0xffff_fff0, 0xffff_ff00];
        let policy = KernelPolicy { modes: 0x3c, ..KernelPolicy::default() };
        Self { machine: Machine::new(key, client_hook, next), policy, next }
    }

    fn segment(&mut self, side: u8, text: &str) -> (Made, Option<PinholeKey>) {
        let i = side as usize;
        let segment = Segment {
            side,
            flags: tcp::ACK,
            fragment: false,
            seq: self.next[i],
            ack: self.next[1 - i],
            len: text.len() as u32,
        };
        self.next[i] = self.next[i].wrapping_add(text.len() as u32);
        let rules = HostRules { denied: &[21, 3306], range: (0, 65535) };
        let (judgement, opened) = self.machine.feed(&segment, text.as_bytes(), &self.policy, rules);
        (judgement.made, opened)
    }

    fn client(&mut self, text: &str) -> Option<u16> {
        self.segment(CLIENT, text).1.map(|k| k.port)
    }

    fn server(&mut self, text: &str) -> Option<u16> {
        self.segment(SERVER, text).1.map(|k| k.port)
    }

    fn login(&mut self) {
        for (c, s) in [
            ("", "220 ready\r\n"),
            ("USER me\r\n", "331 password\r\n"),
            ("PASS x\r\n", "230-hello\r\n230 in\r\n"),
            ("FEAT\r\n", "211-Features:\r\n EPSV\r\n211 End\r\n"),
        ] {
            if !c.is_empty() {
                assert_eq!(self.client(c), None);
            }
            assert_eq!(self.server(s), None);
        }
        assert!(!self.blind());
    }

    fn blind(&self) -> bool {
        self.machine.state.flags & flag::BLIND != 0
    }
}

#[test]
fn passive_transfers_open_at_the_reply() {
    let mut p = Pair::new(HOOK_IN);
    p.login();
    for _ in 0..3 {
        assert_eq!(p.client("PASV\r\n"), None);
        let (_, opened) = p.segment(SERVER, "227 Entering Passive Mode (198,51,100,5,195,149).\r\n");
        let key = opened.unwrap();
        assert_eq!((key.initiator, key.responder), (p.machine.key.client, p.machine.key.server));
        assert_eq!((key.port, key.hook), (50069, HOOK_IN));
        assert_eq!(p.client("RETR x\r\n"), None);
        assert_eq!(p.server("150-Accepted\r\n150 go\r\n"), None);
        assert_eq!(p.server("226-File\r\n226 done\r\n"), None);
        assert_eq!(p.client("EPSV\r\n"), None);
        assert_eq!(p.server("229 Extended (|||50070|)\r\n"), Some(50070));
    }
    assert!(!p.blind());
}

#[test]
fn the_first_command_comes_behind_the_greeting() {
    // A greeting that logs in, and a command that may have been sent before it came.
    for missing in [0, 1, 8] {
        let mut p = Pair::new(HOOK_IN);
        p.server("230 in\r\n");
        p.next[1] -= missing;
        assert_eq!(p.client("PORT 192,0,2,10,195,149\r\n").is_some(), missing == 0);
        assert_eq!(p.blind(), missing > 0);
    }
    // Later on a command may cross what the server says.
    let mut p = Pair::new(HOOK_IN);
    p.login();
    p.next[1] -= 5;
    assert!(p.client("PORT 192,0,2,10,195,149\r\n").is_some());
}

#[test]
fn active_transfers_open_as_the_policy_says() {
    for (hook, open, flags, at) in [
        (HOOK_IN, active_open::AUTO, 0, "command"),
        (HOOK_IN, active_open::COMMAND, 0, "command"),
        (HOOK_IN, active_open::REPLY, 0, "reply"),
        (HOOK_IN, active_open::TRANSFER, 0, "transfer"),
        (HOOK_OUT, active_open::AUTO, 0, "never"),
        (HOOK_OUT, active_open::AUTO, policy_flag::ACTIVE_INBOUND, "reply"),
        (HOOK_OUT, active_open::COMMAND, policy_flag::ACTIVE_INBOUND, "reply"),
        (HOOK_OUT, active_open::REPLY, policy_flag::ACTIVE_INBOUND, "reply"),
        (HOOK_OUT, active_open::TRANSFER, policy_flag::ACTIVE_INBOUND, "transfer"),
    ] {
        for line in ["PORT 192,0,2,10,195,149\r\n", "EPRT |1|192.0.2.10|50069|\r\n"] {
            let mut p = Pair::new(hook);
            p.policy.active_open = open;
            p.policy.flags = flags;
            p.login();
            let name = format!("{hook} {open} {flags} {line}");
            assert_eq!(p.client(line).is_some(), at == "command", "{name}");
            assert_eq!(p.server("200 ok\r\n").is_some(), at == "reply", "{name}");
            if at == "never" {
                assert!(p.blind());
                continue;
            }
            assert_eq!(p.client("TYPE I\r\n"), None);
            assert_eq!(p.server("200 binary\r\n"), None);
            assert_eq!(p.client("RETR x\r\n").is_some(), at == "transfer", "{name}");
            assert_eq!(p.server("150 go\r\n226 done\r\n"), None);
            assert_eq!(p.client("RETR x\r\n"), None, "opens once: {name}");
            assert!(!p.blind());
        }
    }
}

#[test]
fn a_refusal_revokes_what_the_command_opened() {
    let mut p = Pair::new(HOOK_IN);
    p.login();
    assert_eq!(p.client("PORT 192,0,2,10,195,149\r\n"), Some(50069));
    assert!(p.segment(SERVER, "500 no\r\n").0.has(bit::REVOKE | bit::ANSWERED));
}

#[test]
fn what_opens_nothing() {
    // Not logged in.
    let mut p = Pair::new(HOOK_IN);
    p.server("220 ready\r\n");
    p.client("PASV\r\n");
    assert_eq!(p.server("227 (198,51,100,5,195,149)\r\n"), None);
    assert!(p.blind());
    for reply in [
        "227 Entering Passive Mode (198,51,100,5,0,22)\r\n",
        "227 Entering Passive Mode (198,51,100,5,12,234)\r\n",
        "227 Entering Passive Mode (203,0,113,66,195,149)\r\n",
        "227-x\r\n227 Entering Passive Mode (198,51,100,5,195,149)\r\n",
        "229 Extended (|||50069|)\r\n",
        "227 Entering Passive Mode (198,51,100,5,195,149)",
    ] {
        let mut p = Pair::new(HOOK_IN);
        p.login();
        p.client("PASV\r\n");
        assert_eq!(p.server(reply), None, "{reply}");
        assert!(p.blind());
    }
    // No PASV outstanding; nested in another reply; sent before the command came.
    let mut p = Pair::new(HOOK_IN);
    p.login();
    p.client("NLST x\r\n");
    assert_eq!(p.server("227 Entering Passive Mode (198,51,100,5,195,149)\r\n"), None);
    assert!(p.blind());
    let mut p = Pair::new(HOOK_IN);
    p.login();
    p.client("STAT .\r\n");
    assert_eq!(p.server("250-x\r\n227 Entering Passive Mode (198,51,100,5,195,149)\r\n250 OK\r\n"), None);
    assert!(p.blind());
    let mut p = Pair::new(HOOK_IN);
    p.login();
    let ack = p.next[0];
    p.client("PASV\r\n");
    let now = std::mem::replace(&mut p.next[0], ack);
    assert_eq!(p.server("227 Entering Passive Mode (198,51,100,5,195,149)\r\n"), None);
    p.next[0] = now;
    assert_eq!(p.machine.state.blind_reason, Reason::EarlyReply as u16);
    // Acknowledging what the client has not sent.
    let mut p = Pair::new(HOOK_IN);
    p.login();
    p.client("PASV\r\n");
    p.next[0] = p.next[0].wrapping_add(2);
    assert_eq!(p.server("227 Entering Passive Mode (198,51,100,5,195,149)\r\n"), None);
    assert_eq!(p.machine.state.blind_reason, Reason::Gap as u16);
}

#[test]
fn the_last_segment_again_changes_nothing() {
    let mut p = Pair::new(HOOK_IN);
    p.login();
    p.client("PASV\r\n");
    p.server("227 Entering Passive Mode (198,51,100,5,195,149)\r\n");
    let before = p.machine.state;
    let reply = "227 Entering Passive Mode (198,51,100,5,195,149)\r\n";
    p.next[1] = p.next[1].wrapping_sub(reply.len() as u32);
    let (made, opened) = p.segment(SERVER, reply);
    assert_eq!((made, opened), (Made(bit::OLD), None));
    assert_eq!(p.machine.state, SessionState { version: before.version + 1, ..before });
    // Other bytes of the same length at the same place.
    p.next[1] = p.next[1].wrapping_sub(reply.len() as u32);
    let (made, opened) = p.segment(SERVER, &reply.replace("149", "148"));
    assert_eq!((made, opened), (Made::blind(Reason::OldDiffers), None));
}

#[test]
fn a_fin_behind_old_bytes_is_new() {
    let mut p = Pair::new(HOOK_IN);
    p.login();
    p.client("PASV\r\n");
    let again = |p: &mut Pair| {
        let seq = p.next[0].wrapping_sub(6);
        let segment =
            Segment { side: CLIENT, flags: tcp::ACK | tcp::FIN, fragment: false, seq, ack: p.next[1], len: 6 };
        let rules = HostRules { denied: &[21], range: (0, 65535) };
        p.machine.feed(&segment, b"PASV\r\n", &p.policy, rules).0.made
    };
    assert_eq!(again(&mut p), Made::blind(Reason::OldAndNew));
    assert_eq!(p.server("227 Entering Passive Mode (198,51,100,5,195,149)\r\n"), None, "the client has ended");
}

#[test]
fn every_cut_of_an_announcement_blinds_or_opens_whole() {
    let reply = "227 Entering Passive Mode (198,51,100,5,195,149)\r\n";
    for cut in 1..reply.len() {
        let mut p = Pair::new(HOOK_IN);
        p.login();
        p.client("PASV\r\n");
        assert_eq!(p.server(&reply[..cut]), None);
        assert_eq!(p.server(&reply[cut..]), None);
        assert!(p.blind(), "{cut}");
    }
}

#[test]
fn an_announcement_with_the_end_of_the_stream_opens_nothing() {
    for flags in [tcp::FIN | tcp::ACK, tcp::RST | tcp::ACK] {
        let mut p = Pair::new(HOOK_IN);
        p.login();
        p.client("PASV\r\n");
        let text = "227 Entering Passive Mode (198,51,100,5,195,149)\r\n";
        let segment =
            Segment { side: SERVER, flags, fragment: false, seq: p.next[1], ack: p.next[0], len: text.len() as u32 };
        let rules = HostRules { denied: &[], range: (0, 65535) };
        let (j, opened) = p.machine.feed(&segment, text.as_bytes(), &p.policy, rules);
        assert_eq!(opened, None);
        assert!(j.made.has(bit::REVOKE | bit::ANSWERED), "{:?}", j.made);
    }
}

#[test]
fn ends_of_the_stream() {
    let mut p = Pair::new(HOOK_IN);
    p.login();
    let segment =
        |p: &Pair, seq: u32, flags: u8| Segment { side: SERVER, flags, fragment: false, seq, ack: p.next[0], len: 0 };
    let rules = HostRules { denied: &[], range: (0, 65535) };
    let (j, _) = p.machine.clone().feed(&segment(&p, p.next[1].wrapping_add(1), tcp::RST), b"", &p.policy, rules);
    assert_eq!(j.made, Made::NOTHING, "a reset that is not exact ends nothing");
    let (j, _) = p.machine.clone().feed(&segment(&p, p.next[1], tcp::RST), b"", &p.policy, rules);
    assert_eq!(j.made, Made(bit::RESET | bit::REVOKE));
    let (j, _) = p.machine.clone().feed(&segment(&p, p.next[1], tcp::FIN | tcp::ACK), b"", &p.policy, rules);
    assert_eq!(j.made, Made(bit::FIN | bit::REVOKE));
}
