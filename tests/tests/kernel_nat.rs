//! Translated data connections by test runs, byte for byte: packets with options and extension headers, fragments, and ICMP
//! errors about them.

use std::net::{IpAddr, SocketAddr};

use ftp_helper::{
    dataplane::Options,
    engine::policy::{Mode, Nat},
    lab,
};
use ftp_helper_common::{
    command::{Outcome, op},
    key::{HOOK_IN, HOOK_OUT},
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, six},
    packet::{Extension, Icmp, Packet, VLAN},
    testrun::{Kernel, Verdict, at, guards, options, policy},
};

/// The port that inside clients announce.
const INSIDE: u16 = 40_123;
/// The mark of what was translated: the default of `[mark]`.
const MARK: u32 = 0x0f00_0000;

fn kernel(nat: bool) -> Kernel {
    let mut k = Kernel::load(&Options { nat, ..options() });
    mode(&mut k, Mode::Drop);
    k
}

fn mode(k: &mut Kernel, mode: Mode) {
    let mut p = policy();
    p.mode = mode;
    p.nat = Some(Nat { active_ports: 61_000..=61_999 });
    k.set(&p, &guards());
}

/// A data connection in active mode to an inside client, translated and established.
struct Translated {
    /// As it is outside; the server outside is its initiator.
    outside: Data,
    /// The same as it is inside.
    inside: Data,
}

impl Translated {
    fn open(k: &mut Kernel, v6: bool) -> Self {
        let mut d = Dialogue::ready(k, HOOK_OUT, v6);
        let host: IpAddr =
            if v6 { "fd00:0:0:7::5".parse().expect("an address") } else { "10.9.8.7".parse().expect("an address") };
        assert_eq!(d.command(k, op::ALIAS, |c| c.pinhole.initiator = host.into()), Outcome::Done);
        let line = if v6 { format!("EPRT |2|{host}|{INSIDE}|") } else { format!("PORT {}", six(host, INSIDE)) };
        d.client(k, &line);
        // What the kernel has of it is longer or shorter.
        let grown = d.state(k).next[0].wrapping_sub(d.next[0]);
        d.next[0] = d.next[0].wrapping_add(grown);
        d.server(k, "200 ok");
        let (key, _) = k.pinholes().into_iter().find(|(p, _)| p.responder == d.client.ip().into()).expect("a pinhole");
        assert!((61_000..=61_999).contains(&key.port), "{key:?}");
        let outside = Data::through(&key, 20);
        let translated = Self { outside, inside: Data { to: at(host, INSIDE), ..outside } };
        translated.arrives(k, &outside.syn(), &translated.inside.syn());
        translated.leaves(k, &translated.inside.syn_ack(), &outside.syn_ack());
        k.restart_counting();
        translated
    }

    #[track_caller]
    fn arrives(&self, k: &mut Kernel, packet: &Packet, becomes: &Packet) {
        assert_eq!(k.change(HOOK_IN, &packet.frame()), (Verdict::Pass, becomes.frame()), "{packet:?}");
        assert_eq!(k.marked, MARK, "{packet:?}");
    }

    #[track_caller]
    fn leaves(&self, k: &mut Kernel, packet: &Packet, becomes: &Packet) {
        assert_eq!(k.change(HOOK_OUT, &packet.frame()), (Verdict::Pass, becomes.frame()), "{packet:?}");
    }

    fn public(&self) -> SocketAddr {
        self.outside.to
    }
}

/// Variants of one packet, all of which are whole.
fn dressed(v6: bool) -> Vec<Box<dyn Fn(Packet) -> Packet>> {
    let mut all: Vec<Box<dyn Fn(Packet) -> Packet>> = vec![
        Box::new(|p| p),
        Box::new(|p| Packet { tcp_options: 12, ..p }),
        Box::new(|p| Packet { tags: vec![VLAN], ..p }),
        Box::new(|p| Packet { padding: 3, ..p }),
    ];
    if v6 {
        for extensions in [
            vec![Extension::HopByHop(0)],
            vec![Extension::HopByHop(1), Extension::Destination(2)],
            vec![Extension::Fragment(0, false)],
            vec![Extension::Destination(0), Extension::Fragment(0, false), Extension::Destination(0)],
        ] {
            all.push(Box::new(move |p| Packet { extensions: extensions.clone(), ..p }));
        }
    } else {
        for n in [4, 20, 40] {
            all.push(Box::new(move |p| Packet { ip_options: n, ..p }));
        }
        all.push(Box::new(|p| Packet { ip_options: 40, tcp_options: 40, tags: vec![VLAN], ..p }));
    }
    all
}

#[test]
fn options_and_extension_headers_stay_as_they_are() {
    if !lab::require_root() {
        return;
    }
    let mut k = kernel(true);
    for v6 in [false, true] {
        let t = Translated::open(&mut k, v6);
        for (i, dress) in dressed(v6).into_iter().enumerate() {
            let at = 1 + 100 * i as u64;
            let packet = |d: &Data| dress(d.forth(tcp::ACK, at, b"all of it"));
            t.arrives(&mut k, &packet(&t.outside), &packet(&t.inside));
            let packet = |d: &Data| dress(d.back(tcp::ACK, at, b"and back, of an odd length"));
            t.leaves(&mut k, &packet(&t.inside), &packet(&t.outside));
        }
        // Somebody else's port is nobody's.
        let other = Data { to: at(t.public().ip(), t.public().port() ^ 1), ..t.outside };
        let packet = other.forth(tcp::ACK, 1, b"x");
        assert_eq!(k.change(HOOK_IN, &packet.frame()), (Verdict::Pass, packet.frame()));
        assert_eq!(k.marked, 0);
        k.expect("nothing of it is counted", &[]);
    }
}

/// The first fragment has the ports, the others have none: nothing of such a packet is translated, and it is dropped.
#[test]
fn fragments_of_translated_connections_do_not_pass() {
    if !lab::require_root() {
        return;
    }
    let mut k = kernel(true);
    let cut = |packet: Packet, at: u16, more: bool| {
        if packet.from.is_ipv4() {
            Packet { fragment: Some((at, more)), ..packet }
        } else {
            Packet { extensions: vec![Extension::Fragment(at, more)], ..packet }
        }
    };
    for v6 in [false, true] {
        let t = Translated::open(&mut k, v6);
        let arriving = t.outside.forth(tcp::ACK, 1, b"12345678");
        let leaving = t.inside.back(tcp::ACK, 1, b"12345678");
        for observe in [false, true] {
            mode(&mut k, if observe { Mode::Observe } else { Mode::Drop });
            let verdict = if observe { Verdict::Pass } else { Verdict::Drop };
            for (hook, packet) in [(HOOK_IN, &arriving), (HOOK_OUT, &leaving)] {
                let first = cut(packet.clone(), 0, true).frame();
                assert_eq!(k.change(hook, &first), (verdict, first));
                k.expect("the first", &[("fragment_translated", 1)]);
            }
            // Both hosts are guarded: of the others it is not known whose they are.
            for (hook, packet) in [(HOOK_IN, &arriving), (HOOK_OUT, &leaving)] {
                let later = cut(packet.clone(), 40, false).frame();
                assert_eq!(k.change(hook, &later), (verdict, later));
                k.expect("a later one", &[("fragment", 1)]);
            }
        }
        mode(&mut k, Mode::Drop);
        // Connections that are not translated are none of ours.
        let other = cut(Data { to: at(t.public().ip(), 1024), ..t.outside }.forth(tcp::ACK, 1, b"x"), 0, true).frame();
        assert_eq!(k.change(HOOK_IN, &other), (Verdict::Pass, other));
    }
}

/// The errors of a family: type and code.
fn errors(v6: bool) -> Vec<[u8; 2]> {
    if v6 { vec![[2, 0], [1, 4], [3, 0], [4, 1]] } else { vec![[3, 4], [3, 1], [3, 13], [11, 0], [12, 0]] }
}

/// How much of a packet is quoted: all of it, its TCP header, and the least that there has to be.
fn quotations(packet: &Packet) -> Vec<Vec<u8>> {
    let whole = packet.bare();
    let tcp = whole.len() - packet.payload.len() - 20 - packet.tcp_options;
    [whole.len(), tcp + 20, tcp + 18, tcp + 16, tcp + 8].map(|n| whole[..n].to_vec()).to_vec()
}

#[test]
fn errors_about_translated_connections_are_translated() {
    if !lab::require_root() {
        return;
    }
    let mut k = kernel(true);
    for v6 in [false, true] {
        let t = Translated::open(&mut k, v6);
        let router = |n: u8| -> IpAddr {
            if v6 { format!("2001:db8:77::{n}").parse().unwrap() } else { IpAddr::from([192, 0, 2, n]) }
        };
        let mut n = 0;
        for dress in dressed(v6) {
            for kind in errors(v6) {
                // Something outside says of what left that it did not get there.
                let left = dress(t.outside.back(tcp::ACK, 1, b"too long for the path"));
                let was = dress(t.inside.back(tcp::ACK, 1, b"too long for the path"));
                let (left, was) = (Packet { tags: vec![], ..left }, Packet { tags: vec![], ..was });
                for (outside, inside) in quotations(&left).into_iter().zip(quotations(&was)) {
                    let error = |to, quoted| Icmp { from: router(1), to, kind, rest: 1280, quoted }.frame();
                    let (arrives, becomes) = (error(t.public().ip(), outside), error(t.inside.to.ip(), inside));
                    assert_eq!(k.change(HOOK_IN, &arrives), (Verdict::Pass, becomes), "{kind:?} {left:?}");
                    assert_eq!(k.marked, MARK);
                    n += 1;
                }
                // The inside host, a router before it, or this gateway says it of what arrived.
                let arrived = dress(t.outside.forth(tcp::ACK, 1, b"too long as well"));
                let is = dress(t.inside.forth(tcp::ACK, 1, b"too long as well"));
                let (arrived, is) = (Packet { tags: vec![], ..arrived }, Packet { tags: vec![], ..is });
                for (inside, outside) in quotations(&is).into_iter().zip(quotations(&arrived)) {
                    for from in [t.inside.to.ip(), router(2), t.public().ip()] {
                        let error = |from, quoted| Icmp { from, to: t.outside.from.ip(), kind, rest: 1280, quoted };
                        let (leaves, becomes) = (error(from, inside.clone()), error(t.public().ip(), outside.clone()));
                        let changed = k.change(HOOK_OUT, &leaves.frame());
                        assert_eq!(changed, (Verdict::Pass, becomes.frame()), "{kind:?} {is:?} {from}");
                        n += 1;
                    }
                }
            }
        }
        k.expect("each is counted", &[("translated_icmp", n)]);
    }
}

#[test]
fn no_other_icmp_is_touched() {
    if !lab::require_root() {
        return;
    }
    let mut k = kernel(true);
    let mut plain = kernel(false);
    for v6 in [false, true] {
        let t = Translated::open(&mut k, v6);
        let (public, peer) = (t.public(), t.outside.from);
        let left = t.outside.back(tcp::ACK, 1, b"");
        let error = |packet: &Packet| Icmp {
            from: peer.ip(),
            to: public.ip(),
            kind: if v6 { [2, 0] } else { [3, 4] },
            rest: 1280,
            quoted: packet.bare(),
        };
        let about = error(&left);
        let stranger: IpAddr = if v6 { "2001:db8::99".parse().unwrap() } else { IpAddr::from([198, 51, 100, 9]) };
        let mut untouched = vec![
            // Another port or host at either end.
            error(&Packet { from: at(public.ip(), public.port() ^ 1), ..left.clone() }),
            error(&Packet { to: at(peer.ip(), 2020), ..left.clone() }),
            error(&Packet { to: at(stranger, peer.port()), ..left.clone() }),
            // It quotes what arrived, which no host does that got what left; and what the inside knows.
            error(&t.outside.forth(tcp::ACK, 1, b"")),
            error(&t.inside.back(tcp::ACK, 1, b"")),
            // UDP of the same ends.
            error(&Packet { protocol: 17, ..left.clone() }),
            // To another than the one who sent what it quotes.
            Icmp { to: stranger, ..about.clone() },
            // Too short for the ports.
            Icmp { quoted: left.bare()[..if v6 { 40 } else { 20 } + 3].to_vec(), ..about.clone() },
            Icmp { quoted: vec![], ..about.clone() },
        ];
        // No errors: echo, redirect, what has no meaning.
        let kinds: &[u8] = if v6 { &[0, 5, 128, 129, 137] } else { &[0, 4, 5, 8, 13] };
        untouched.extend(kinds.iter().map(|&kind| Icmp { kind: [kind, 0], ..about.clone() }));
        if v6 {
            let later = Packet { extensions: vec![Extension::Fragment(8, false)], ..left.clone() };
            untouched.push(error(&later));
        } else {
            untouched.push(error(&Packet { fragment: Some((8, false)), ..left.clone() }));
        }
        for icmp in &untouched {
            for hook in [HOOK_IN, HOOK_OUT] {
                // What leaves quotes what arrived, of which none of these is a translated connection's.
                let frame = icmp.frame();
                assert_eq!(k.change(hook, &frame), (Verdict::Pass, frame), "{icmp:?}");
                assert_eq!(k.marked, 0, "{icmp:?}");
            }
        }
        k.expect("none is counted", &[]);
        // A fragment of one can't be judged.
        let mut frame = about.frame();
        if !v6 {
            frame[20] |= 0x20;
            assert_eq!(k.change(HOOK_IN, &frame), (Verdict::Pass, frame));
        }
        // Without `[nat]` nothing looks at it.
        let frame = about.frame();
        assert_eq!(plain.change(HOOK_IN, &frame), (Verdict::Pass, frame.clone()));
        assert_ne!(k.change(HOOK_IN, &frame).1, frame);
    }
}
