//! P: what must work.

use ftp_helper_common::key::{CLIENT, SERVER};

use super::{
    Begin,
    Host::{C, S},
    PORT, Stimulus, answer, denied, segment, stimulus, syn,
};
use crate::packet::{QINQ, VLAN};

/// The four ways to announce [`PORT`]: the client's line and the server's.
pub(super) fn ways() -> [(&'static str, bool, &'static str, &'static str); 6] {
    [
        ("PASV", false, "PASV\r\n", "227 Entering Passive Mode (198,51,100,5,195,149).\r\n"),
        ("EPSV", false, "EPSV\r\n", "229 Entering Extended Passive Mode (|||50069|)\r\n"),
        ("PORT", false, "PORT 192,0,2,10,195,149\r\n", "200 ok\r\n"),
        ("EPRT, IPv4", false, "EPRT |1|192.0.2.10|50069|\r\n", "200 ok\r\n"),
        ("EPRT, IPv6", true, "EPRT |2|2001:db8::10|50069|\r\n", "200 ok\r\n"),
        ("EPSV, IPv6", true, "EPSV\r\n", "229 Entering Extended Passive Mode (|||50069|)\r\n"),
    ]
}

fn of(id: &'static str, about: &'static str, v6: bool) -> Stimulus {
    let s = stimulus(id, about);
    if v6 { s.v6() } else { s }
}

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = Vec::new();
    let transfer = |s: Stimulus| s.c("RETR x").s("150 go").s("226 done");
    let passive = |s: Stimulus| {
        let s = s.data(denied((C, 45000), (S, PORT + 1))).data(syn((C, 45000), (S, PORT)));
        transfer(s.data(answer((C, 45000), (S, PORT))).data(denied((C, 45001), (S, PORT)))).opened(&[PORT], 0)
    };
    let active = |s: Stimulus| {
        let s = s.data(denied((S, 20), (C, PORT + 1))).data(syn((S, 20), (C, PORT)));
        transfer(s.data(answer((S, 20), (C, PORT))).data(denied((S, 20021), (C, PORT)))).opened(&[PORT], 0)
    };
    let ids = ["P1", "P2", "P3", "P4", "P5", "P6"];
    for ((id, (about, v6, command, reply)), is_active) in
        ids.into_iter().zip(ways()).zip([false, false, true, true, true, false])
    {
        let s = of(id, about, v6).raw(CLIENT, command.as_bytes()).raw(SERVER, reply.as_bytes()).opens(&[PORT]);
        all.push(if is_active { active(s) } else { passive(s) });
    }
    all.push(passive(
        stimulus("P7", "a 227 without parentheses")
            .c("PASV")
            .s("227 Entering Passive Mode 198,51,100,5,195,149")
            .opens(&[PORT]),
    ));
    all.push(passive(stimulus("P8", "a 229 with !").c("EPSV").s("229 ok (!!!50069!)").opens(&[PORT])));
    for (about, v6, command, reply) in ways() {
        all.push(splits(of("P9", about, v6), command, reply));
        let bytes = of("P10", about, v6).cut(CLIENT, command.as_bytes(), 1).cut(SERVER, reply.as_bytes(), 1);
        all.push(bytes.opens(&[PORT]).on_wire());
        let (a, b) = command.as_bytes().split_at(3);
        let (x, y) = reply.as_bytes().split_at(4);
        let reordered = of("P11", about, v6)
            .segment(segment(CLIENT, b).seq(a.len() as i64))
            .segment(segment(CLIENT, a).seq(-(command.len() as i64)))
            .segment(segment(SERVER, y).seq(x.len() as i64))
            .segment(segment(SERVER, x).seq(-(reply.len() as i64)));
        all.push(reordered.opens(&[PORT]).on_wire());
        let again = of("P12", about, v6)
            .raw(CLIENT, command.as_bytes())
            .segment(segment(CLIENT, command.as_bytes()).seq(-(command.len() as i64)))
            .raw(SERVER, reply.as_bytes())
            .segment(segment(SERVER, reply.as_bytes()).seq(-(reply.len() as i64)))
            .segment(segment(CLIENT, command.as_bytes()).seq(-(command.len() as i64)));
        all.push(again.opens(&[PORT]).on_wire());
    }
    all.push(
        stimulus("P13", "multi-line replies")
            .begin(Begin::Connected)
            .raw(SERVER, b"220-hello\r\n  and\r\n220 ready\r\n")
            .c("USER me")
            .s("331 password")
            .c("PASS x")
            .raw(SERVER, b"230-hello\r\n230-again\r\n")
            .raw(SERVER, b"230 in\r\n")
            .c("FEAT")
            .raw(SERVER, b"211-Features\r\n EPSV\r\n UTF8\r\n211 End\r\n")
            .pasv()
            .opens(&[PORT]),
    );
    let mut ten = stimulus("P14", "ten transfers");
    for i in 0..10u16 {
        let port = PORT + i;
        ten = ten.c("PASV").s(&format!("227 ok (198,51,100,5,195,{})", 149 + i));
        ten = transfer(ten.data(syn((C, 45000 + i), (S, port))).data(answer((C, 45000 + i), (S, port))));
    }
    all.push(ten.opens(&(PORT..PORT + 10).collect::<Vec<_>>()).opened(&(PORT..PORT + 10).collect::<Vec<_>>(), 0));
    all.push(
        stimulus("P15", "Telnet IP and DM before ABOR, then a new transfer")
            .pasv()
            .raw(CLIENT, b"\xff\xf4\xff\xf2ABOR\r\n")
            .s("226 closed")
            .data(denied((C, 45000), (S, PORT)))
            .pasv()
            .opens(&[PORT, PORT]),
    );
    all.push(
        stimulus("P17", "nobody connects: it expires")
            .knob(
                |p| p.pinhole_timeout = std::time::Duration::from_millis(200),
                ["", "[pinhole]\ntimeout = \"200ms\"\n"],
            )
            .pasv()
            .wait(400)
            .data(denied((C, 45000), (S, PORT)))
            .opens(&[PORT])
            .opened(&[PORT], 0),
    );
    let tagged = |about, tag: fn(&mut crate::packet::Packet)| {
        stimulus("P18", about)
            .segment(segment(CLIENT, b"PASV\r\n").alter(tag))
            .segment(segment(SERVER, b"227 ok (198,51,100,5,195,149)\r\n").alter(tag))
            .data(denied((C, 45000), (S, PORT + 1)).alter(tag))
            .data(syn((C, 45000), (S, PORT)).alter(tag))
            .opens(&[PORT])
    };
    all.push(tagged("a VLAN tag", |p| p.tags = vec![VLAN]));
    all.push(tagged("two tags", |p| p.tags = vec![QINQ, VLAN]));
    all.push(
        stimulus("P19", "verbs in lower case")
            .c("pasv")
            .s("227 ok (198,51,100,5,195,149)")
            .c("epsv")
            .s("229 ok (|||50070|)")
            .c("port 192,0,2,10,195,151")
            .s("200 ok")
            .c("eprt |1|192.0.2.10|50072|")
            .s("200 ok")
            .opens(&[PORT, PORT + 1, PORT + 2, PORT + 3]),
    );
    all
}

/// One transfer after the other, the lines cut in two at every place.
fn splits(mut s: Stimulus, command: &str, reply: &str) -> Stimulus {
    let mut opens = Vec::new();
    let cut = |s: Stimulus, side, text: &str, at: usize| {
        let (a, b) = text.as_bytes().split_at(at);
        s.raw(side, a).raw(side, b)
    };
    for at in 1..command.len() {
        s = cut(s, CLIENT, command, at).raw(SERVER, reply.as_bytes());
        opens.push(PORT);
    }
    for at in 1..reply.len() {
        s = cut(s.raw(CLIENT, command.as_bytes()), SERVER, reply, at);
        opens.push(PORT);
    }
    s.opens(&opens).on_wire()
}
