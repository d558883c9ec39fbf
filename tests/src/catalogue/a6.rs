//! A6: what TCP and IP allow, and what they do not.

use ftp_helper_common::{
    key::{CLIENT, SERVER},
    tcp,
};

use super::{
    Begin,
    Host::{C, S},
    PORT, Seen, Stimulus, Verdict, denied,
    p::ways,
    segment, stimulus, syn,
};
use crate::packet::{Checksum, Extension, Packet, VLAN};

const LINE: &[u8] = b"PORT 192,0,2,10,195,149\r\n";
const OTHER: &[u8] = b"PORT 192,0,2,10,200,100\r\n";
const LEN: i64 = LINE.len() as i64;

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = streams();
    all.extend(headers());
    all.extend(handshakes());
    all
}

fn streams() -> Vec<Stimulus> {
    let mut all = Vec::new();
    for (about, v6, command, reply) in ways() {
        let s = stimulus("A50", about).cut(CLIENT, command.as_bytes(), command.len() - 1);
        let s = s.cut(SERVER, reply.as_bytes(), reply.len() - 1).opens(&[PORT]).on_wire();
        all.push(if v6 { s.v6() } else { s });
    }
    let mut gap = stimulus("A51", "more behind a gap than is kept").on_wire();
    for i in 0..80 {
        gap = gap.segment(segment(CLIENT, &[b'x'; 900]).seq(1000 + i * 900).inserted());
    }
    all.push(gap.taints("reassembly_overflow"));
    all.push(
        stimulus("A51", "a gap that is filled")
            .segment(segment(CLIENT, &LINE[10..]).seq(10))
            .segment(segment(CLIENT, &LINE[..10]).seq(-LEN))
            .s("200 ok")
            .opens(&[PORT])
            .on_wire(),
    );
    // Opened at the command or at the reply: the 200 has come before the second copy.
    for (about, at, bytes) in [
        ("the same line with another port", 0, OTHER),
        ("one byte of it", 5, &b"203"[..]),
        ("backward: its end and what is new", 19, b"200,100\r\nNOOP\r\n"),
        ("more than the whole of it", 0, b"PORT 192,0,2,10,200,100\r\nNOOP\r\n"),
    ] {
        all.push(
            stimulus("A52", about)
                .raw(CLIENT, LINE)
                .s("200 ok")
                .segment(segment(CLIENT, bytes).seq(at - LEN).inserted())
                .kills()
                .opened(&[PORT], 0)
                .on_wire(),
        );
    }
    all.push(
        stimulus("A52", "two copies behind a gap that differ")
            .segment(segment(CLIENT, &LINE[5..]).seq(5).inserted())
            .segment(segment(CLIENT, &OTHER[5..]).seq(5).inserted())
            .kills()
            .on_wire(),
    );
    all.push(
        stimulus("A52", "the same bytes again, and more")
            .raw(CLIENT, LINE)
            .s("200 ok")
            .segment(segment(CLIENT, b"PORT 192,0,2,10,195,149\r\nNOOP\r\n").seq(-LEN))
            .s("200 ok")
            .opens(&[PORT])
            .on_wire(),
    );
    let ignored = |about, s: Stimulus| Stimulus { about, ..s.pasv().opens(&[PORT]).on_wire() };
    let s = || stimulus("A53", "");
    all.push(ignored(
        "a segment far outside the window",
        s().segment(segment(CLIENT, b"PASV\r\n").seq(1 << 25).inserted()),
    ));
    all.push(ignored("a segment far before it", s().segment(segment(CLIENT, b"PASV\r\n").seq(-(1 << 25)).inserted())));
    all.push(ignored(
        "acknowledging what nobody sent",
        s().segment(segment(CLIENT, b"QUIT\r\n").ack(1 << 25).inserted()),
    ));
    all.push(ignored(
        "a reset beside the next byte",
        s().segment(segment(CLIENT, b"").seq(5).with(tcp::RST).inserted()),
    ));
    all.push(ignored("a reset before it", s().segment(segment(SERVER, b"").seq(-5).with(tcp::RST).inserted())));
    let mut in_between = segment(CLIENT, b"").seq(77).inserted();
    in_between.flags = tcp::SYN;
    all.push(ignored("a SYN in between", s().segment(in_between)));
    let again = segment(SERVER, b"").seq(99).with(tcp::SYN).inserted();
    all.push(ignored("a SYN-ACK in between", s().segment(again)));
    all.push(
        stimulus("A53", "data behind a FIN")
            .flags(CLIENT, tcp::FIN | tcp::ACK)
            .segment(segment(CLIENT, b"PASV\r\n"))
            .s("227 (198,51,100,5,195,149)")
            .verdict(Verdict::Close, "")
            .no_reason()
            .on_wire(),
    );
    all
}

fn headers() -> Vec<Stimulus> {
    let mut all = Vec::new();
    let wrong: fn(&mut Packet) = |p| p.checksum = Checksum::Wrong;
    all.push(
        stimulus("A54", "a wrong TCP checksum: the genuine line opens")
            .segment(segment(CLIENT, OTHER).inserted().alter(wrong).seen(Seen::Drop("bad_checksum")))
            .raw(CLIENT, LINE)
            .segment(segment(SERVER, b"500 no\r\n").inserted().alter(wrong).seen(Seen::Drop("bad_checksum")))
            .s("200 ok")
            .opens(&[PORT])
            .on_wire(),
    );
    all.push(
        stimulus("A54", "a wrong one in a 229 over IPv6")
            .v6()
            .c("EPSV")
            .segment(segment(SERVER, b"229 (|||50068|)\r\n").inserted().alter(wrong).seen(Seen::Drop("bad_checksum")))
            .s("229 (|||50069|)")
            .opens(&[PORT])
            .on_wire(),
    );
    let partial: fn(&mut Packet) = |p| p.checksum = Checksum::Partial;
    for v6 in [false, true] {
        let s = stimulus("A54", "the sum of the pseudo-header alone, as virtual devices leave it")
            .segment(segment(CLIENT, b"EPSV\r\n").alter(partial))
            .segment(segment(SERVER, b"229 (|||50069|)\r\n").alter(partial))
            .opens(&[PORT]);
        all.push(if v6 { s.v6() } else { s });
    }
    all.push(
        stimulus("A54", "a wrong IP checksum")
            .segment(
                segment(CLIENT, OTHER).inserted().alter(|p| p.bad_ip_checksum = true).seen(Seen::Drop("bad_checksum")),
            )
            .raw(CLIENT, LINE)
            .s("200 ok")
            .opens(&[PORT]),
    );
    let pasv = |about, alter: fn(&mut Packet), seen| {
        let s = stimulus("A54", about).segment(segment(CLIENT, b"PASV\r\n").inserted().alter(alter).seen(seen));
        s.s("227 (198,51,100,5,195,149)").refused("unsolicited_reply")
    };
    all.push(pasv("the payload is Ethernet padding", |p| p.length = Some(40), Seen::Unread));
    all.push(pasv("the packet is shorter than it says", |p| p.length = Some(300), Seen::Drop("unreadable_headers")));
    all.push(pasv("a TCP header of four words", |p| p.data_offset = Some(4), Seen::DropHeaders("unreadable_headers")));
    all.push(pasv(
        "a TCP header beyond the packet",
        |p| p.data_offset = Some(15),
        Seen::DropHeaders("unreadable_headers"),
    ));
    all.push(
        stimulus("A55", "a PASV that dies on its way: no reply acknowledges it, and the genuine line conflicts")
            .segment(segment(CLIENT, b"PASV\r\n").inserted().alter(|p| p.ttl = 1))
            .s("227 (198,51,100,5,195,149)")
            .c("NOOP")
            .kills(),
    );
    let tiny: fn(&mut Packet) = |p| {
        p.fragment = Some((0, true));
        p.truncate = Some(14 + 20 + 8);
    };
    all.push(pasv_fragment("the first fragment", |p| p.fragment = Some((0, true)), Seen::Drop("fragment")));
    all.push(pasv_fragment("a later fragment", |p| p.fragment = Some((3, false)), Seen::DropHeaders("fragment")));
    all.push(pasv_fragment(
        "a fragment that ends within the TCP header",
        tiny,
        Seen::DropHeaders("unreadable_headers"),
    ));
    let fragmented = |about, alter: fn(&mut Packet), counts| {
        let s = stimulus("A56", about).pasv().data(syn((C, 45000), (S, PORT)).alter(alter).denied_for(counts));
        s.data(syn((C, 45001), (S, PORT))).opens(&[PORT]).on_wire()
    };
    all.push(fragmented("a SYN in fragments", |p| p.fragment = Some((0, true)), &[("fragment", 1), ("syn_denied", 1)]));
    all.push(fragmented("its later fragment", |p| p.fragment = Some((1, true)), &[("fragment", 1)]));
    let v6 = |about, alter: fn(&mut Packet), seen| {
        let s = stimulus("A56", about).v6().segment(segment(CLIENT, b"EPSV\r\n").inserted().alter(alter).seen(seen));
        s.s("229 (|||50069|)").refused("unsolicited_reply").on_wire()
    };
    all.push(v6(
        "IPv6: the first fragment",
        |p| p.extensions = vec![Extension::Fragment(0, true)],
        Seen::Drop("fragment"),
    ));
    all.push(v6(
        "IPv6: a later one",
        |p| p.extensions = vec![Extension::Fragment(3, false)],
        Seen::DropHeaders("fragment"),
    ));
    for (about, alter) in [
        (
            "hop-by-hop, destination and routing headers",
            (|p| p.extensions = vec![Extension::HopByHop(0), Extension::Destination(1)]) as fn(&mut Packet),
        ),
        ("an authentication header", |p| p.extensions = vec![Extension::Authentication]),
        ("an atomic fragment", |p| p.extensions = vec![Extension::Fragment(0, false)]),
    ] {
        all.push(
            stimulus("A57", about)
                .v6()
                .segment(segment(CLIENT, b"EPSV\r\n").alter(alter))
                .segment(segment(SERVER, b"229 (|||50069|)\r\n").alter(alter))
                .data(denied((C, 45000), (S, PORT + 1)).alter(alter))
                .data(syn((C, 45000), (S, PORT)).alter(alter))
                .opens(&[PORT]),
        );
    }
    all.push(
        stimulus("A57", "more extension headers than are followed")
            .v6()
            .c("EPSV")
            .s("229 (|||50069|)")
            .data(
                syn((C, 45000), (S, PORT))
                    .alter(|p| p.extensions = vec![Extension::Destination(0); 9])
                    .denied_for(&[("unreadable_headers", 1)]),
            )
            .opens(&[PORT]),
    );
    for (about, alter) in [
        ("loose source routing", (|p| p.source_route = vec![131, 7, 4, 198, 51, 100, 5, 0]) as fn(&mut Packet)),
        ("strict source routing, behind another option", |p| {
            p.source_route = vec![1, 148, 4, 0, 0, 137, 7, 4, 198, 51, 100, 5]
        }),
    ] {
        let seen = Seen::DropHeaders("source_route");
        all.push(
            stimulus("A57", about)
                .segment(segment(CLIENT, b"PASV\r\n").inserted().alter(alter).seen(seen))
                .pasv()
                .data(syn((C, 45000), (S, PORT)).alter(alter).denied_for(&[("source_route", 1)]))
                .opens(&[PORT])
                .on_wire(),
        );
    }
    all.push(
        stimulus("A57", "other IP options")
            .segment(segment(CLIENT, b"PASV\r\n").alter(|p| p.ip_options = 8))
            .s("227 (198,51,100,5,195,149)")
            .opens(&[PORT]),
    );
    for (about, alter) in [
        ("GRE", (|p| p.protocol = 47) as fn(&mut Packet)),
        ("IP in IP", |p| p.protocol = 4),
        ("UDP", |p| p.protocol = 17),
        ("three VLAN tags", |p| p.tags = vec![VLAN; 3]),
    ] {
        all.push(
            stimulus("A59", about)
                .segment(segment(CLIENT, b"PASV\r\n").inserted().alter(alter).seen(Seen::Unread))
                .s("227 (198,51,100,5,195,149)")
                .refused("unsolicited_reply"),
        );
    }
    let lines = "214-".to_owned() + &"help ".repeat(500) + "\r\n227 (198,51,100,5,195,148)\r\n214 end";
    all.push(stimulus("A60", "a segment longer than one record").c("HELP").s(&lines).pasv().opens(&[PORT]));
    let lines = "230-".to_owned() + &"x".repeat(2500) + "\r\n230 in\r\n227 (198,51,100,5,195,149)";
    all.push(
        stimulus("A60", "two replies in one, the second behind the record's end")
            .raw(CLIENT, b"PASS x\r\nPASV\r\n")
            .s(&lines)
            .opens(&[PORT]),
    );
    all
}

fn pasv_fragment(about: &'static str, alter: fn(&mut Packet), seen: Seen) -> Stimulus {
    let s = stimulus("A56", about).segment(segment(CLIENT, b"PASV\r\n").inserted().alter(alter).seen(seen));
    s.s("227 (198,51,100,5,195,149)").refused("unsolicited_reply").on_wire()
}

fn handshakes() -> Vec<Stimulus> {
    let mut all = Vec::new();
    let nothing = |id, about| stimulus(id, about).begin(Begin::Nothing).on_wire();
    let sent = |side, flags, payload: &[u8]| {
        let mut s = segment(side, payload).seq(-1).inserted();
        s.flags = flags;
        s
    };
    let dialogue = |s: Stimulus| s.s("220 ready").c("USER me").s("230 in").pasv();
    all.push(dialogue(
        nothing("A58", "data in the SYN")
            .segment(sent(CLIENT, tcp::SYN, b"PASV\r\n").seen(Seen::Unread))
            .segment(sent(SERVER, tcp::SYN | tcp::ACK, b""))
            .raw(CLIENT, b"")
            .verdict(Verdict::Unfollowed, "data_in_syn"),
    ));
    for (about, flags) in
        [("SYN and FIN", tcp::SYN | tcp::FIN), ("all flags", 0xff), ("none", 0), ("a FIN alone", tcp::FIN)]
    {
        all.push(dialogue(
            nothing("A58", about)
                .segment(sent(CLIENT, flags, b"").seen(Seen::Unread))
                .raw(CLIENT, b"")
                .verdict(Verdict::Unfollowed, "midstream"),
        ));
    }
    all.push(dialogue(
        nothing("A58", "both sides send a SYN")
            .segment(sent(CLIENT, tcp::SYN, b"").seen(Seen::Unread))
            .segment(sent(SERVER, tcp::SYN, b"").seen(Seen::Unread))
            .raw(CLIENT, b"")
            .verdict(Verdict::Unfollowed, "midstream"),
    ));
    all.push(dialogue(nothing("A58", "a connection that was there before").verdict(Verdict::Unfollowed, "midstream")));
    all.push(dialogue(
        nothing("A58", "a handshake whose ACK acknowledges something else")
            .segment(sent(CLIENT, tcp::SYN, b"").seen(Seen::Unread))
            .segment(sent(SERVER, tcp::SYN | tcp::ACK, b""))
            .segment(segment(CLIENT, b"").ack(5))
            .segment(segment(SERVER, b"x"))
            .verdict(Verdict::Unfollowed, "midstream"),
    ));
    all
}
