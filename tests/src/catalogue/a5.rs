//! A5: Telnet and line endings.

use ftp_helper::engine::policy::LineEndings;
use ftp_helper_common::{
    key::{CLIENT, SERVER},
    tcp,
};

use super::{
    Host::{C, S},
    PORT, Stimulus, denied, segment, stimulus,
};

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = Vec::new();
    for interrupt in [&b"\xff\xf4\xff\xf2ABOR\r\n"[..], b"ABOR\r\n", b"\xff\xf2abor\r\n"] {
        all.push(
            stimulus("A40", "ABOR behind Telnet's IP and DM takes back what is open")
                .pasv()
                .raw(CLIENT, interrupt)
                .s("226 closed")
                .data(denied((C, 45000), (S, PORT)))
                .refused("abor")
                .opened(&[PORT], 0),
        );
    }
    all.push(
        stimulus("A40", "the same as urgent data, in two segments")
            .pasv()
            .segment(segment(CLIENT, b"\xff\xf4\xff").with(tcp::URG))
            .segment(segment(CLIENT, b"\xf2ABOR\r\n").with(tcp::URG))
            .s("226 closed")
            .refused("abor")
            .opened(&[PORT], 0),
    );
    for line in [
        &b"PO\xff\xf1RT 192,0,2,10,195,149\r\n"[..],
        b"PORT 192,0,2,10,195,\xff\xfb\x01149\r\n",
        b"\xff\xfa\x01\xff\xf0PASV\r\n",
        b"\xff\xf1PASV\r\n",
        b"EPSV\xff\xf1\r\n",
    ] {
        all.push(
            stimulus("A41", "a Telnet sequence in a command that negotiates")
                .raw(CLIENT, line)
                .taints("telnet_in_command"),
        );
    }
    all.push(
        stimulus("A41", "cut within the sequence")
            .raw(CLIENT, b"PASV\xff")
            .raw(CLIENT, b"\xf4\r\n")
            .taints("telnet_in_command"),
    );
    all.push(
        stimulus("A41", "a Telnet sequence in a 227")
            .c("PASV")
            .raw(SERVER, b"227\xff\xf1 Entering (198,51,100,5,195,149)\r\n")
            .taints("telnet_in_command"),
    );
    all.push(stimulus("A41", "options alone, and in another command").raw(CLIENT, b"\xff\xfb\x01NOOP\r\n").s("200 ok"));
    for (line, reason) in [
        (&b"PORT 192,0,2,10,195,149\n"[..], "bare_lf"),
        (b"PORT 192,0,2,10,195,149\rLIST\r\n", "bare_cr"),
        (b"PORT 192,0,2,10,195,149\r\0", "bare_cr"),
        (b"PASV\r\r\n", "bare_cr"),
        (b"PASV\n\r", "bare_lf"),
    ] {
        all.push(stimulus("A42", "lines that do not end in CRLF").raw(CLIENT, line).taints(reason));
    }
    all.push(
        stimulus("A42", "a 227 that ends in a bare LF")
            .c("PASV")
            .raw(SERVER, b"227 (198,51,100,5,195,149)\n")
            .taints("bare_lf"),
    );
    all.push(
        stimulus("A42", "where a bare LF is allowed, it opens nothing all the same")
            .knob(|p| p.line_endings = LineEndings::Lenient, ["line_endings = \"lenient\"\n", ""])
            .raw(CLIENT, b"PORT 192,0,2,10,195,149\n")
            .s("200 ok")
            .raw(CLIENT, b"NOOP\n")
            .s("200 ok")
            .refused("bare_lf"),
    );
    for at in (127..1500).step_by(229) {
        let mut line = vec![b'A'; 20_000];
        line[..4].copy_from_slice(b"CWD ");
        line[at..at + 27].copy_from_slice(b"PORT 192,0,2,10,195,149    ");
        line.extend(b"\r\n");
        all.push(stimulus("A43", "PORT within a line of 20 KB").cut(CLIENT, &line, 1000).s("250 ok"));
        // A segment begins with it.
        let s = stimulus("A43", "the same at the start of a segment").raw(CLIENT, &line[..at]);
        all.push(s.cut(CLIENT, &line[at..], 1400).s("250 ok"));
    }
    let long = format!("PORT 192,0,2,10,195,149{}", " ".repeat(3000));
    all.push(stimulus("A43", "PORT with a long tail").c(&long).s("200 ok").refused("bad_syntax"));
    let long = format!("227 {} (198,51,100,5,195,149)", "x".repeat(3000));
    all.push(stimulus("A43", "a long 227").c("PASV").s(&long).refused("bad_syntax"));
    all.push(
        stimulus("A44", "urgent data that a server may or may not see")
            .segment(segment(CLIENT, b"PORTX 192,0,2,10,195,149\r\n").with(tcp::URG).alter(|p| p.urgent = 5))
            .taints("urgent_data"),
    );
    all.push(
        stimulus("A44", "the other way round, from the server")
            .c("PASV")
            .segment(segment(SERVER, b"227 (198,51,100,5,195,1499)\r\n").with(tcp::URG).alter(|p| p.urgent = 26))
            .taints("urgent_data"),
    );
    all
}
