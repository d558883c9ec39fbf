//! A10: TLS, and what is no FTP.

use ftp_helper_common::key::{CLIENT, SERVER};

use super::{Begin, PORT, Stimulus, Verdict, stimulus};

const HELLO: &[u8] = &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];

pub(super) fn stimuli() -> Vec<Stimulus> {
    let connected = |id, about| stimulus(id, about).begin(Begin::Connected);
    let mut all = vec![
        stimulus("A90", "AUTH TLS accepted: nothing in clear opens")
            .c("AUTH TLS")
            .s("234 go")
            .pasv()
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .verdict(Verdict::Opaque, "auth_accepted"),
        stimulus("A90", "what is open when AUTH comes")
            .pasv()
            .c("AUTH TLS")
            .s("234 go")
            .verdict(Verdict::Opaque, "auth_accepted")
            .opened(&[PORT], 0),
        stimulus("A90", "AUTH TLS refused: it goes on in clear").c("AUTH TLS").s("500 no").pasv().opens(&[PORT]),
        stimulus("A90", "PASV pipelined behind AUTH")
            .raw(CLIENT, b"AUTH TLS\r\nPASV\r\n")
            .s("234 go")
            .s("227 (198,51,100,5,195,149)")
            .taints("pipelined_auth"),
        stimulus("A91", "AUTH GSSAPI").c("AUTH GSSAPI").s("334 more").pasv().verdict(Verdict::Opaque, "auth_accepted"),
        stimulus("A91", "and ADAT")
            .c("AUTH GSSAPI")
            .s("335 more")
            .c("ADAT eA==")
            .s("235 done")
            .pasv()
            .verdict(Verdict::Opaque, "auth_accepted"),
        stimulus("A92", "CCC: it stays opaque")
            .c("AUTH TLS")
            .s("234 go")
            .raw(CLIENT, HELLO)
            .c("CCC")
            .s("200 ok")
            .pasv()
            .verdict(Verdict::Opaque, "auth_accepted"),
        connected("A93", "TLS from the first byte")
            .raw(CLIENT, HELLO)
            .raw(SERVER, HELLO)
            .verdict(Verdict::Opaque, "implicit_tls"),
        connected("A94", "a server that says everything at once, to a client that says nothing")
            .s("220 x\r\n331 x\r\n230 x\r\n227 (198,51,100,5,195,149)")
            .c("USER me")
            .s("230 in"),
        connected("A95", "an announcement behind the greeting's first bytes")
            .raw(SERVER, b"22")
            .raw(SERVER, b"0 x\r\n227 (198,51,100,5,195,149)\r\n")
            .c("USER me")
            .s("230 in"),
    ];
    for first in ["SSH-2.0-OpenSSH_9", "200 x", "331 x", "227 (198,51,100,5,195,149)", "SIP/2.0 200 OK", "+OK ready"] {
        all.push(connected("A94", "a server that does not greet").s(first).c("PASV").taints("not_ftp"));
    }
    all.push(
        connected("A94", "SMTP: the greeting is FTP's, the client is not")
            .s("220 mail ESMTP")
            .c("EHLO a")
            .s("250-x\r\n250 y")
            .taints("not_ftp"),
    );
    all.push(
        connected("A96", "HTTP behind the control port")
            .s("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n500 Weird FTP Reply")
            .taints("not_ftp"),
    );
    for first in ["120 wait\r\n220 now", "220-a\r\n220 b", "230 in already"] {
        all.push(connected("A94", "greetings that are").s(first).c("USER me").s("230 in").pasv().opens(&[PORT]));
    }
    all
}
