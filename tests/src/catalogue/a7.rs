//! A7: who is on the wire, and where.

use ftp_helper_common::key::{CLIENT, SERVER};

use super::{Begin, PORT, Stimulus, segment, stimulus};

pub(super) fn stimuli() -> Vec<Stimulus> {
    let fake = b"227 Entering Passive Mode (198,51,100,5,195,148)\r\n";
    let fake6 = b"229 Extended Passive Mode OK (|||50068|)\r\n";
    let genuine = "227 ok (198,51,100,5,195,149)";
    vec![
        stimulus("A61", "a 227 forged on the client's side, no PASV asked for")
            .segment(segment(SERVER, fake).spoofed())
            .refused("wrong_hook")
            .on_wire(),
        stimulus("A61", "the same behind a PASV: the genuine 227 opens")
            .c("PASV")
            .segment(segment(SERVER, fake).spoofed())
            .s(genuine)
            .refused("wrong_hook")
            .opens(&[PORT])
            .on_wire(),
        stimulus("A61", "a forged 229 over IPv6")
            .v6()
            .c("EPSV")
            .segment(segment(SERVER, fake6).spoofed())
            .s("229 ok (|||50069|)")
            .refused("wrong_hook")
            .opens(&[PORT])
            .on_wire(),
        stimulus("A61", "forged on the server's own side, no PASV asked for: what the server says next conflicts")
            .segment(segment(SERVER, fake).inserted())
            .c("NOOP")
            .s("200 ok")
            .kills()
            .on_wire(),
        stimulus("A61", "the same behind a PASV: it opens, until the server answers")
            .c("PASV")
            .segment(segment(SERVER, fake).inserted())
            .s(genuine)
            .kills()
            .opened(&[PORT - 1], 0)
            .on_wire(),
        stimulus("A62", "a PORT forged on the server's side")
            .segment(segment(CLIENT, b"PORT 192,0,2,10,195,148\r\n").spoofed())
            .refused("wrong_hook"),
        stimulus("A62", "an ABOR forged there takes nothing back")
            .pasv()
            .segment(segment(CLIENT, b"ABOR\r\n").spoofed())
            .refused("wrong_hook")
            .opens(&[PORT]),
        stimulus("A63", "off-path: data at a guessed sequence number")
            .segment(segment(CLIENT, b"PORT 192,0,2,10,195,149\r\n").seq(5000).inserted())
            .s("200 ok")
            .blinds(),
        stimulus("A63", "off-path: the handshake's ACK is guessed")
            .segment(segment(CLIENT, b"PASV\r\n").seq(1 << 22).ack(1 << 22).inserted())
            .s(genuine)
            .refused("unsolicited_reply"),
        stimulus("A64", "a client that announces before it has logged in")
            .begin(Begin::Connected)
            .s("220 ready")
            .c("USER opensvp")
            .s("331 password")
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .c("PASS x")
            .s("230 in")
            .refused("not_logged_in"),
        stimulus("A64", "a client that opens a port of its own on purpose: as any other")
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .opens(&[PORT]),
    ]
}
