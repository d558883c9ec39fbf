//! A8: the life of a pinhole.

use ftp_helper::engine::policy::SourcePort;
use ftp_helper_common::{
    key::{CLIENT, SERVER},
    tcp,
};

use super::{
    Data,
    Host::{A, C, S},
    PORT, Stimulus, Verdict, answer, denied, segment, stimulus, syn,
};

pub(super) fn stimuli() -> Vec<Stimulus> {
    let (c, s, a) = ((C, 45000), (S, PORT), (A, 45000));
    let mut all = vec![
        stimulus("A70", "another host connects first: denied, and it uses nothing up")
            .pasv()
            .data(denied(a, s))
            .data(syn(c, s))
            .data(answer(c, s))
            .opened(&[PORT], 0)
            .verdict_open()
            .on_wire(),
        stimulus("A71", "another source port of the same host, behind the first")
            .pasv()
            .data(syn(c, s))
            .data(syn((C, 45001), s).denied_for(&[("other_source_port", 1), ("syn_denied", 1)]))
            .data(syn(c, s))
            .data(answer(c, s))
            .opened(&[PORT], 0)
            .verdict_open()
            .on_wire(),
        stimulus("A72", "a forged SYN is answered and reset: once more, and no oftener")
            .pasv()
            .data(syn((C, 41000), s))
            .data(answer((C, 41000), s))
            .data(reset((C, 41000), s))
            .data(syn((C, 41001), s))
            .data(answer((C, 41001), s))
            .data(reset((C, 41001), s).counts(&[("flows_ended", 1), ("records", 1)]))
            .data(denied((C, 41002), s))
            .opened(&[PORT], 0)
            .verdict_open()
            .on_wire(),
        stimulus("A72", "a SYN that its responder resets")
            .pasv()
            .data(syn((C, 41000), s))
            .data(answer((C, 41000), s).flags(tcp::RST | tcp::ACK).counts(&[("rearmed", 1)]))
            .data(syn(c, s))
            .data(answer(c, s))
            .opened(&[PORT], 0)
            .verdict_open()
            .on_wire(),
        stimulus("A73", "the same ports again, after the end")
            .pasv()
            .data(syn(c, s))
            .data(answer(c, s))
            .data(Data { seq: 5, ..denied(c, s) })
            .data(denied((C, 45001), s))
            .opened(&[PORT], 0)
            .verdict_open()
            .on_wire(),
        stimulus("A73", "what was replaced")
            .c("PASV")
            .s("227 (198,51,100,5,195,148)")
            .pasv()
            .data(denied(c, (S, PORT - 1)))
            .data(syn(c, s))
            .opens(&[PORT - 1, PORT])
            .on_wire(),
        stimulus("A73", "the new one is active")
            .c("PASV")
            .s("227 (198,51,100,5,195,148)")
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .data(denied(c, (S, PORT - 1)))
            .data(syn((S, 20), (C, PORT)))
            .opens(&[PORT - 1, PORT])
            .on_wire(),
        stimulus("A74", "a passive pinhole the other way round")
            .pasv()
            .data(denied((S, 45000), (C, PORT)))
            .data(denied((S, PORT), (C, PORT)))
            .data(syn(c, s))
            .opens(&[PORT])
            .on_wire(),
        stimulus("A74", "an active one the other way round")
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .data(denied((C, PORT), (S, 20000)))
            .data(denied((C, 45000), (S, PORT)))
            .data(syn((S, 20), (C, PORT)))
            .opens(&[PORT])
            .on_wire(),
        stimulus("A74", "a SYN with FIN, and with RST")
            .pasv()
            .data(syn(c, s).flags(tcp::SYN | tcp::FIN).denied_for(&[("syn_denied", 1), ("syn_flags", 1)]))
            .data(syn(c, s).flags(tcp::SYN | tcp::RST).denied_for(&[("syn_denied", 1), ("syn_flags", 1)]))
            .data(syn(c, s))
            .opens(&[PORT])
            .on_wire(),
        stimulus("A74", "UDP")
            .pasv()
            .data(syn(c, s).alter(|p| p.protocol = 17).counts(&[]))
            .data(syn(c, s))
            .opens(&[PORT])
            .on_wire(),
        stimulus("A75", "any source port, unless policy says 20")
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .data(syn((S, 2020), (C, PORT)))
            .opens(&[PORT])
            .on_wire(),
        stimulus("A75", "only port 20, where policy says so")
            .knob(|p| p.active_source_port = SourcePort::Twenty, ["active_source_port = 20\n", ""])
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .data(syn((S, 2020), (C, PORT)).denied_for(&[("source_port_not_20", 1), ("syn_denied", 1)]))
            .data(syn((S, 20), (C, PORT)))
            .opens(&[PORT])
            .on_wire(),
        stimulus("A75", "a passive connection is not held to it")
            .knob(|p| p.active_source_port = SourcePort::Twenty, ["active_source_port = 20\n", ""])
            .pasv()
            .data(syn(c, s))
            .opens(&[PORT])
            .on_wire(),
    ];
    for (about, flags) in [
        ("a first segment that is an ACK", tcp::ACK),
        ("a FIN", tcp::FIN | tcp::ACK),
        ("a reset", tcp::RST),
        ("a SYN-ACK", tcp::SYN | tcp::ACK),
        ("no flag at all", 0),
        ("FIN, PSH and URG", 0x29),
    ] {
        all.push(
            stimulus("A74", about)
                .pasv()
                .data(syn(c, s).flags(flags).counts(&[]))
                .data(syn(c, s))
                .opens(&[PORT])
                .on_wire(),
        );
    }
    for (about, line, reply, reason) in [
        ("QUIT", "QUIT", "221 bye", "quit"),
        ("ABOR", "ABOR", "226 ok", "abor"),
        ("AUTH, refused", "AUTH TLS", "500 no", "auth"),
    ] {
        let revoked = stimulus("A76", about).pasv().c(line).data(denied(c, s)).s(reply);
        all.push(revoked.data(denied(c, s)).refused(reason).opened(&[PORT], 0).on_wire());
    }
    for (about, line, reason) in [("REIN", "REIN", "rein"), ("a new USER", "USER you", "relogin")] {
        let revoked = stimulus("A76", about).pasv().c(line).data(denied(c, s));
        let reply = if line == "REIN" { "220 ready" } else { "331 password" };
        let again = revoked.s(reply).c("PASV").s("227 (198,51,100,5,195,149)").data(denied(c, s));
        all.push(again.c("USER me").s("230 in").refused(reason).opened(&[PORT], 0).on_wire());
    }
    for (about, side, flags) in [
        ("FIN of the client", CLIENT, tcp::FIN | tcp::ACK),
        ("FIN of the server", SERVER, tcp::FIN | tcp::ACK),
        ("RST of the client", CLIENT, tcp::RST | tcp::ACK),
        ("RST of the server", SERVER, tcp::RST | tcp::ACK),
    ] {
        all.push(
            stimulus("A76", about)
                .pasv()
                .flags(side, flags)
                .data(denied(c, s))
                .verdict(Verdict::Close, "control_closed")
                .opened(&[PORT], 0)
                .on_wire(),
        );
    }
    all.push(
        stimulus("A76", "a 227 together with the end")
            .c("PASV")
            .segment(segment(SERVER, b"227 (198,51,100,5,195,149)\r\n").with(tcp::FIN))
            .data(denied(c, s))
            .verdict(Verdict::Close, "session_closing")
            .on_wire(),
    );
    all
}

/// The reset of a host that never sent that SYN.
fn reset(from: (super::Host, u16), to: (super::Host, u16)) -> Data {
    let syn = syn(from, to);
    Data { seq: syn.seq.wrapping_add(1), flags: tcp::RST, counts: &[("rearmed", 1), ("records", 1)], ..syn }
}
