//! Dialogues of all kinds as segments, and what may be done to them on their way.

use std::net::IpAddr;

use ftp_helper_common::{
    key::{CLIENT, SERVER},
    tcp,
};
use ftp_helper_tests::dialogue::{Dialogue, six};
use proptest::{prelude::*, sample::Index};

/// Something that happens on the way.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Segment(Wire),
    /// The daemon brings the kernel back to sight, the client logged in or not, after EPSV ALL or not.
    Resync(bool, bool),
}

/// A segment as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) side: u8,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) data: Vec<u8>,
}

/// What is done to a dialogue before it is sent.
#[derive(Clone, Debug)]
pub(super) enum Mutation {
    Cut(Index, usize),
    Again(Index, usize),
    Differently(Index, Index, u8),
    /// Begins earlier, with old bytes before the new ones.
    Overlap(Index, usize),
    Swap(Index),
    Join(Index),
    Early(Index),
    Lost(Index),
    Byte(Index, Index, u8),
    Insert(Index, Index, u8),
    Remove(Index, Index),
    Long(Index, Index, usize),
    Flags(Index, u8),
    /// Nothing but a flag, at the next sequence number or not.
    Bare(Index, u8, i8),
    Resync(Index, bool, bool),
}

/// Exchanges, good ones and others; `C: ` and `S: ` tell who speaks.
fn exchanges(client: IpAddr, server: IpAddr) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut add = |lines: &[&str]| all.push(lines.iter().map(|l| (*l).to_owned()).collect());
    let (mine, theirs) = (six4(client, 50069), six4(server, 50069));
    for reply in [
        format!("227 Entering Passive Mode ({theirs})."),
        format!("227 Entering Passive Mode {theirs}"),
        format!("227 ={theirs}"),
        format!("227 {theirs} 1"),
        format!("227 (1,2,3,4,5,6) ({theirs})"),
        format!("227-x\r\n227 ({theirs})"),
        format!("227-({theirs})\r\n227 x"),
        format!("227 ({})", six4(server, 22)),
        format!("227 ({})", six4(server, 3306)),
        format!("227 ({})", six4(server, 65535)),
        format!("227 ({})", six4(server, 1023)),
        format!("227 ({})", six4(client, 50069)),
        format!("227 ({}256)", &theirs[..theirs.len() - 3]),
        format!("227 ({theirs}"),
        "227 none".into(),
        "227".into(),
        "425 no".into(),
        "200 what".into(),
        "150 wait\r\n421 no".into(),
        "229 (|||50069|)".into(),
    ] {
        add(&["C: PASV", &format!("S: {reply}")]);
    }
    for reply in [
        "229 Extended (|||50069|)",
        "229 Extended (!!!50070!).",
        "229 |||50069|",
        "229 ((|||1|)|||50069|)",
        "229 (foo) (|||50069|)",
        "229 (|||50069|) (x)",
        "229 (|2|2001:db8::5|50069|)",
        "229 (|||65558|)",
        "229 (|||050069|)",
        "229 (|||21|)",
        "229 (|||0|)",
        "229 (1115006911)",
        "229",
        "500 no",
        "227 Entering (1,2,3,4,5,6)",
    ] {
        add(&["C: EPSV", &format!("S: {reply}")]);
        add(&["C: epsv 1", &format!("S: {reply}")]);
    }
    for line in [
        format!("PORT {mine}"),
        format!("pOrT {mine}"),
        format!("PORT  {mine}"),
        format!("PORT {mine} "),
        format!("PORT {mine},1"),
        format!("PORT 0{mine}"),
        format!("PORT {}", six4(client, 80)),
        format!("PORT {}", six4(client, 3306)),
        format!("PORT {theirs}"),
        "PORT".into(),
        format!("EPRT |1|{client}|50072|"),
        format!("EPRT |2|{client}|50072|"),
        format!("EPRT !2!{client}!50072!"),
        format!("EPRT |2|{client}|50072"),
        format!("EPRT |2|{client}|50072||"),
        format!("EPRT |3|{client}|50072|"),
        format!("EPRT |1|{server}|50072|"),
        format!("EPRT |2|{server}|50072|"),
        format!("EPRT :2:{client}:50072:"),
        format!("EPRT a2a{client}a50072a"),
        "EPRT".into(),
    ] {
        add(&[&format!("C: {line}"), "S: 200 ok"]);
        add(&[&format!("C: {line}"), "S: 500 no"]);
        add(&[&format!("C: {line}"), "S: 200 ok", "C: RETR x", "S: 150 go", "S: 226 done"]);
        add(&[&format!("C: {line}"), "S: 200-a\r\n200 ok"]);
    }
    for text in texts_of(client) {
        add(&[&format!("C: EPRT |2|{text}|50072|"), "S: 200 ok"]);
    }
    for exchange in [
        &["C: RETR file", "S: 150-opening\r\n150 go", "S: 226-a\r\n226 done"][..],
        &["C: LIST", "S: 150 go\r\n226 done"],
        &["C: STOR x", "S: 150 go", "S: 426 no", "C: NOOP", "S: 200 ok"],
        &["C: TYPE A", "S: 200 ok"],
        &["C: PWD", "S: 257 \"/\""],
        &["C: CWD x", "S: 250-a\r\n 227 (1,2,3,4,5,6)\r\n250 ok"],
        &["C: FEAT", "S: 211-Features\r\n EPSV\r\n UTF8\r\n211 End"],
        &["C: FEAT", "S: 211-Features", "S:  EPSV", "S: 211-more", "S: 211 End"],
        &["C: STAT .", "S: 213-status\r\n227 Entering (198,51,100,5,200,1)\r\n213 end"],
        &["C: NOOP", "S: 227 Entering Passive Mode (198,51,100,5,200,6)"],
        &["C: NOOP", "S: 200"],
        &["C: NOOP", "S: 2000 x"],
        &["C: NOOP", "S: 600 x"],
        &["C: XYZZY", "S: 500 what"],
        &["C: AUTH TLS", "S: 502 no"],
        &["C: USER other", "S: 331 password", "C: PASS y", "S: 230 in"],
        &["C: USER other", "S: 331 password", "C: PASS y", "S: 530 no"],
        &["C: USER other", "S: 232 in"],
        &["C: REIN", "S: 220 again", "C: USER me", "S: 230-a\r\n230 in"],
        &["C: ABOR", "S: 226 ok"],
        &["C: EPSV ALL", "S: 200 ok"],
        &["C: EPSV 3", "S: 522 (1,2)"],
        &["C: LPSV", "S: 228 (4,4,198,51,100,5,2,200,7)"],
        &["C: SITE CHMOD 644 x", "S: 200-a\r\n200-b\r\n200 ok"],
        &["C: QUIT", "S: 221 bye"],
        &["S: 226 unasked"],
        &["C: NOOP", "C: NOOP", "S: 200 a", "S: 200 b"],
        &["C: ", "S: 500 what"],
    ] {
        add(exchange);
    }
    all
}

/// Exchanges as well-behaved hosts have them.
fn canonical(client: IpAddr, server: IpAddr) -> Vec<Vec<String>> {
    let (active, passive) = match client {
        IpAddr::V4(_) => (
            format!("C: PORT {}", six(client, 50069)),
            vec!["C: PASV".into(), format!("S: 227 Entering Passive Mode ({}).", six(server, 50068))],
        ),
        IpAddr::V6(_) => (
            format!("C: EPRT |2|{client}|50069|"),
            vec!["C: EPSV".into(), "S: 229 Entering Extended Passive Mode (|||50068|)".into()],
        ),
    };
    let lines = |all: &[&str]| all.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    vec![
        passive,
        lines(&["C: EPSV", "S: 229 Entering Extended Passive Mode (|||50067|)"]),
        lines(&[&active, "S: 200 ok"]),
        lines(&[&active, "S: 200 ok", "C: STOR x", "S: 150 go", "S: 226 done"]),
        lines(&["C: RETR file", "S: 150-opening\r\n150 go", "S: 226-a\r\n226 done"]),
        lines(&["C: TYPE I", "S: 200 ok"]),
        lines(&["C: FEAT", "S: 211-Features\r\n EPSV\r\n UTF8\r\n211 End"]),
    ]
}

/// `six`, of an IPv4 address however the dialogue goes.
fn six4(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(_) => six(ip, port),
        IpAddr::V6(_) => six([198, 51, 100, 5].into(), port),
    }
}

/// An IPv6 address in all its forms (RFC 4291 section 2.2), and in some that are none.
fn texts_of(ip: IpAddr) -> Vec<String> {
    let IpAddr::V6(ip) = ip else { return vec!["2001:db8::1".into(), "::ffff:192.0.2.1".into(), "::".into()] };
    let groups = ip.segments().map(|g| format!("{g:x}"));
    let full = groups.join(":");
    let padded = ip.segments().map(|g| format!("{g:04X}")).join(":");
    let mut all = vec![
        ip.to_string(),
        full.clone(),
        padded.clone(),
        format!("0{padded}"),
        format!(":{full}"),
        format!("{full}:"),
        format!("{full}::"),
        format!("::{full}"),
        format!("{full}:0"),
        full.replacen(':', "::", 1),
        full.replacen(':', ":::", 1),
        groups[..7].join(":"),
        "::".into(),
        ":".into(),
        "g::1".into(),
        format!("{ip}%eth0"),
    ];
    // "::" in every place, for every number of groups.
    for from in 0..8 {
        for to in from..8 {
            all.push(format!("{}::{}", groups[..from].join(":"), groups[to + 1..].join(":")));
        }
    }
    all
}

const LOGIN: [&str; 5] = ["S: 220 ready", "C: USER me", "S: 331 password", "C: PASS x", "S: 230-hello\r\n230 in"];

/// A dialogue as segments, each sent when everything before it has come.
pub(super) fn wires(d: &Dialogue, login: bool, picked: &[(bool, Index)]) -> Vec<Wire> {
    let (canonical, any) = (canonical(d.client.ip(), d.server.ip()), exchanges(d.client.ip(), d.server.ip()));
    let lines = LOGIN.iter().filter(|_| login).map(|l| (*l).to_owned());
    let lines = lines.chain(picked.iter().flat_map(|(tame, i)| {
        let known = if *tame { &canonical } else { &any };
        known[i.index(known.len())].clone()
    }));
    let mut next = d.start;
    lines
        .map(|line| {
            let (side, text) = line.split_at(3);
            let side = if side == "C: " { CLIENT } else { SERVER };
            let data = format!("{text}\r\n").into_bytes();
            let i = usize::from(side);
            let wire = Wire { side, flags: tcp::ACK, seq: next[i], ack: next[1 - i], data };
            next[i] = next[i].wrapping_add(wire.data.len() as u32);
            wire
        })
        .collect()
}

/// Something to do to a dialogue.
pub(super) fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"0123456789(),|: -\r\n\0\xff".to_vec())];
    prop_oneof![
        (at(), 1usize..60).prop_map(|(i, n)| Mutation::Cut(i, n)),
        (at(), 1usize..5).prop_map(|(i, n)| Mutation::Again(i, n)),
        (at(), at(), byte()).prop_map(|(i, p, b)| Mutation::Differently(i, p, b)),
        (at(), 1usize..8).prop_map(|(i, n)| Mutation::Overlap(i, n)),
        at().prop_map(Mutation::Swap),
        at().prop_map(Mutation::Join),
        at().prop_map(Mutation::Early),
        at().prop_map(Mutation::Lost),
        (at(), at(), byte()).prop_map(|(i, p, b)| Mutation::Byte(i, p, b)),
        (at(), at(), byte()).prop_map(|(i, p, b)| Mutation::Insert(i, p, b)),
        (at(), at()).prop_map(|(i, p)| Mutation::Remove(i, p)),
        (at(), at(), prop_oneof![1usize..40, 480usize..560, 1900usize..2600])
            .prop_map(|(i, p, n)| Mutation::Long(i, p, n)),
        (at(), prop::sample::select(vec![tcp::URG, tcp::FIN, tcp::RST])).prop_map(|(i, f)| Mutation::Flags(i, f)),
        (at(), prop::sample::select(vec![tcp::FIN, tcp::RST]), -1i8..=1).prop_map(|(i, f, d)| Mutation::Bare(i, f, d)),
        (at(), any::<bool>(), any::<bool>()).prop_map(|(i, l, e)| Mutation::Resync(i, l, e)),
        (at(), Just(true), Just(false)).prop_map(|(i, l, e)| Mutation::Resync(i, l, e)),
    ]
}

/// Does it.
pub(super) fn mutate(all: &mut Vec<Happening>, mutation: &Mutation) {
    let segments: Vec<usize> = (0..all.len()).filter(|i| matches!(all[*i], Happening::Segment(_))).collect();
    if segments.is_empty() {
        return;
    }
    let pick = |i: &Index| segments[i.index(segments.len())];
    let wire = |all: &Vec<Happening>, i: usize| match &all[i] {
        Happening::Segment(w) => w.clone(),
        Happening::Resync(..) => unreachable!("a segment was picked"),
    };
    let put = |all: &mut Vec<Happening>, i: usize, w: Wire| all[i] = Happening::Segment(w);
    match mutation {
        Mutation::Cut(i, n) => {
            let i = pick(i);
            let mut w = wire(all, i);
            let n = n % w.data.len().max(1);
            if n > 0 {
                let tail = Wire { seq: w.seq.wrapping_add(n as u32), data: w.data.split_off(n), ..w.clone() };
                put(all, i, w);
                all.insert(i + 1, Happening::Segment(tail));
            }
        }
        Mutation::Again(i, n) => {
            let i = pick(i);
            let w = wire(all, i);
            all.insert((i + n).min(all.len()), Happening::Segment(w));
        }
        Mutation::Differently(i, p, b) => {
            let i = pick(i);
            let mut w = wire(all, i);
            if !w.data.is_empty() {
                let p = p.index(w.data.len());
                w.data[p] = *b;
                all.insert(i + 1, Happening::Segment(w));
            }
        }
        Mutation::Overlap(i, n) => {
            let i = pick(i);
            let mut w = wire(all, i);
            w.seq = w.seq.wrapping_sub(*n as u32);
            w.data.splice(0..0, std::iter::repeat_n(b'x', *n));
            put(all, i, w);
        }
        Mutation::Swap(i) => {
            let i = pick(i);
            if i + 1 < all.len() {
                all.swap(i, i + 1);
            }
        }
        Mutation::Join(i) => {
            let i = pick(i);
            let mut w = wire(all, i);
            let end = w.seq.wrapping_add(w.data.len() as u32);
            let next = segments
                .iter()
                .copied()
                .find(|j| *j > i && matches!(&all[*j], Happening::Segment(o) if o.side == w.side && o.seq == end));
            if let Some(j) = next {
                w.data.extend(wire(all, j).data);
                all.remove(j);
                put(all, i, w);
            }
        }
        Mutation::Early(i) => {
            let i = pick(i);
            let mut w = wire(all, i);
            w.ack = w.ack.wrapping_sub(3);
            put(all, i, w);
        }
        Mutation::Lost(i) => {
            all.remove(pick(i));
        }
        Mutation::Byte(i, p, b) => edit(all, pick(i), |d| {
            if !d.is_empty() {
                let p = p.index(d.len());
                d[p] = *b;
            }
        }),
        // These two shift what follows in the segment, not the segments behind it: a gap or an overlap.
        Mutation::Insert(i, p, b) => edit(all, pick(i), |d| d.insert(p.index(d.len() + 1), *b)),
        Mutation::Remove(i, p) => edit(all, pick(i), |d| {
            if d.len() > 1 {
                d.remove(p.index(d.len()));
            }
        }),
        Mutation::Long(i, p, n) => {
            let i = pick(i);
            edit(all, i, |d| {
                let p = p.index(d.len() + 1);
                d.splice(p..p, std::iter::repeat_n(b'y', (*n).min(2700usize.saturating_sub(d.len()))));
            });
            shift(all, i);
        }
        Mutation::Flags(i, f) => {
            let i = pick(i);
            let mut w = wire(all, i);
            w.flags |= f;
            put(all, i, w);
        }
        Mutation::Bare(i, f, d) => {
            let i = pick(i);
            let w = wire(all, i);
            let seq = w.seq.wrapping_add_signed((*d).into());
            all.insert(i, Happening::Segment(Wire { flags: tcp::ACK | f, seq, data: Vec::new(), ..w }));
        }
        Mutation::Resync(i, login, all_epsv) => all.insert(pick(i), Happening::Resync(*login, *all_epsv)),
    }
}

fn edit(all: &mut [Happening], i: usize, change: impl FnOnce(&mut Vec<u8>)) {
    if let Happening::Segment(w) = &mut all[i] {
        change(&mut w.data);
    }
}

/// Moves what the same side sends after segment `i` up to its end.
fn shift(all: &mut [Happening], i: usize) {
    let Happening::Segment(w) = &all[i] else { return };
    let (side, mut end) = (w.side, w.seq.wrapping_add(w.data.len() as u32));
    for h in &mut all[i + 1..] {
        match h {
            Happening::Segment(w) if w.side == side => {
                w.seq = end;
                end = end.wrapping_add(w.data.len() as u32);
            }
            // The other side acknowledges all of it.
            Happening::Segment(w) => w.ack = end,
            Happening::Resync(..) => {}
        }
    }
}
