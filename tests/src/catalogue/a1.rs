//! A1: segment boundaries, echoes, other protocols.

use ftp_helper::engine::policy::{ActiveOpen, Modes};
use ftp_helper_common::{
    key::{CLIENT, SERVER},
    state::pending,
};

use super::{Begin, PORT, Stimulus, segment, stimulus};

const PORT_LINE: &str = "PORT 192,0,2,10,195,149";

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = Vec::new();
    for (id, about, command, a, b) in [
        (
            "A01a",
            "a 227 that a server echoes, at the start of a segment",
            "NLST aaaa227 Entering Passive Mode (198,51,100,5,195,149)",
            "550 aaaa",
            "227 Entering Passive Mode (198,51,100,5,195,149): No such file\r\n",
        ),
        (
            "A01c",
            "the same in a 500",
            "XXXX227 (198,51,100,5,195,149)",
            "500 'XXXX",
            "227 (198,51,100,5,195,149)': command not understood\r\n",
        ),
        ("A01d", "the same with a 229", "NLST a229 (|||50069|)", "550 a", "229 (|||50069|): No such file\r\n"),
    ] {
        all.push(stimulus(id, about).c(command).raw(SERVER, a.as_bytes()).raw(SERVER, b.as_bytes()));
        all.push(
            stimulus("A01f", "the same with a PASV pipelined behind it: only the real 227 opens")
                .raw(CLIENT, format!("{command}\r\nPASV\r\n").as_bytes())
                .raw(SERVER, a.as_bytes())
                .raw(SERVER, b.replace("50069", "50068").replace("195,149", "195,148").as_bytes())
                .s("227 ok (198,51,100,5,195,149)")
                .opens(&[PORT]),
        );
    }
    let line = b"550 aaaa227 Entering Passive Mode (198,51,100,5,195,149)\r\n";
    all.push(
        stimulus("A01b", "a retransmission that begins at the 2")
            .c("NLST aaaa227 Entering Passive Mode (198,51,100,5,195,149)")
            .raw(SERVER, line)
            .segment(segment(SERVER, &line[8..]).seq(8 - line.len() as i64)),
    );
    all.push(
        stimulus("A01e", "an echo in the reply to USER")
            .c("USER 227 (198,51,100,5,195,149)")
            .raw(SERVER, b"331 Password required for ")
            .raw(SERVER, b"227 (198,51,100,5,195,149)\r\n")
            .c("PASS x")
            .s("230 in"),
    );
    all.push(
        stimulus("A02", "PORT at the start of a segment, within a file's name")
            .raw(CLIENT, b"RETR /aaaa")
            .raw(CLIENT, b"PORT 192,0,2,10,195,149\r\n")
            .s("550 no"),
    );
    all.push(
        stimulus("A03", "the same error string with the command in it")
            .c("RETR 227 (198,51,100,5,195,149)")
            .s("550 227 (198,51,100,5,195,149): no such file")
            .c("CWD PORT 192,0,2,10,195,149")
            .s("550 PORT 192,0,2,10,195,149: no such directory"),
    );
    let connected = |id, about| stimulus(id, about).begin(Begin::Connected).s("220 ready");
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    for replies in ["HTTP/1.1 200 OK", "331 x\r\n230 x\r\n200 PORT ok"] {
        all.push(
            connected("A04", "NAT slipstreaming: PORT begins a segment of an HTTP body")
                .raw(CLIENT, post.as_bytes())
                .c(PORT_LINE)
                .s(replies)
                .taints("not_ftp"),
        );
    }
    all.push(
        connected("A05", "PORT in an HTTP body")
            .raw(CLIENT, format!("{post}{PORT_LINE}\r\n").as_bytes())
            .taints("not_ftp"),
    );
    all.push(connected("A05", "an empty line first").raw(CLIENT, b"\r\n").c(PORT_LINE).taints("not_ftp"));
    all.push(
        stimulus("A05", "a header of HTTP in a session that is logged in").c("Host: a").c(PORT_LINE).taints("not_ftp"),
    );
    all.push(stimulus("A05", "a request of HTTP there").c("GET / HTTP/1.1").c(PORT_LINE).taints("not_ftp"));
    all.push(
        stimulus("A04", "the client speaks before the greeting")
            .begin(Begin::Connected)
            .c("USER me")
            .s("220 ready")
            .taints("client_first"),
    );
    all.push(
        connected("A04", "PORT before the login")
            .c(PORT_LINE)
            .s("200 ok")
            .c("USER me")
            .s("331 password")
            .c("PASS x")
            .s("230 in")
            .refused("not_logged_in"),
    );
    all.push(
        stimulus("A06", "CRLF injection with a bare LF")
            .raw(CLIENT, b"CWD leetXX\n")
            .s("250 ok")
            .c(PORT_LINE)
            .s("200 ok")
            .taints("bare_lf"),
    );
    let injected = |about| stimulus("A06", about).c("CWD leetXX").s("250 ok").c(PORT_LINE).s("200 ok");
    all.push(
        injected("well-formed, where active mode waits for a transfer")
            .knob(|p| p.active_open = ActiveOpen::Transfer, ["active_open = \"transfer\"\n", ""]),
    );
    all.push(
        injected("the transfer comes")
            .knob(|p| p.active_open = ActiveOpen::Transfer, ["active_open = \"transfer\"\n", ""])
            .c("RETR x")
            .s("150 go")
            .s("226 done")
            .opens(&[PORT]),
    );
    all.push(
        injected("well-formed, where it opens at the reply")
            .knob(|p| p.active_open = ActiveOpen::Reply, ["active_open = \"reply\"\n", ""])
            .opens(&[PORT]),
    );
    all.push(
        injected("well-formed, without active mode")
            .knob(|p| p.modes = Modes(1 << pending::PASV | 1 << pending::EPSV), ["modes = [\"pasv\", \"epsv\"]\n", ""])
            .refused("mode_disabled"),
    );
    all.push(
        injected("well-formed, inward, where that is not allowed: the default")
            .inside()
            .knob(|p| p.active_inbound = false, ["active_inbound = false\n", ""])
            .refused("active_inbound_off"),
    );
    all.push(
        stimulus("A07", "an announcement anywhere in a line")
            .c("CWD PASV")
            .s("250 227 Entering Passive Mode (198,51,100,5,195,149)")
            .c("SITE PORT 192,0,2,10,195,149")
            .s("200 PORT ok"),
    );
    all
}
