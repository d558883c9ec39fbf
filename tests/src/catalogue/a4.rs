//! A4: replies.

use ftp_helper::engine::policy::ActiveOpen;
use ftp_helper_common::key::{CLIENT, SERVER};

use super::{PORT, Stimulus, segment, stimulus};

const OTHER: &str = "(198,51,100,5,195,148)";

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = Vec::new();
    let pasv = |id, about, reply: &str, reason| stimulus(id, about).c("PASV").s(reply).refused(reason);
    for body in [
        "250-Message\r\n227 Entering Passive Mode (198,51,100,5,12,234)\r\n250 OK",
        "250-x\r\n229 (|||50069|)\r\n250 OK",
    ] {
        all.push(stimulus("A30", "a 227 or 229 inside a multi-line reply").c("CWD x").s(body));
    }
    all.push(
        stimulus("A30", "the same, with a PASV pipelined: only the real one opens")
            .raw(CLIENT, b"STAT .\r\nPASV\r\n")
            .s(&format!("213-status\r\n227 Entering {OTHER}\r\n213 End"))
            .s("227 ok (198,51,100,5,195,149)")
            .opens(&[PORT]),
    );
    all.push(
        stimulus("A31", "a multi-line reply that another code seems to end")
            .c("PASV")
            .s(&format!("230- WARNING\r\n226 x\r\n227 {OTHER}\r\n230 end"))
            .refused("multiline_reply"),
    );
    all.push(
        stimulus("A31", "one that does not end: everything is inside, until it does")
            .c("CWD x")
            .s("250-going on")
            .c("PASV")
            .s(&format!("227 {OTHER}"))
            .s("250 end")
            .s("500 no"),
    );
    all.push(pasv("A32", "a multi-line 227", &format!("227-x {OTHER}\r\n227 {OTHER}"), "multiline_reply"));
    all.push(
        stimulus("A32", "a multi-line 229")
            .c("EPSV")
            .s("229-x (|||50068|)\r\n229 (|||50068|)")
            .refused("multiline_reply"),
    );
    for code in ["2270 ", "227\t", "227:", "227(", " 227 ", "0227 ", "227", "227_"] {
        all.push(
            stimulus("A33", "codes that are not 227")
                .c("PASV")
                .s(&format!("{code}Entering {OTHER}"))
                .s("500 no")
                .refused("bad_syntax"),
        );
    }
    for code in ["999 ", "099 ", "600 "] {
        all.push(stimulus("A33", "codes of nobody").c("PASV").s(&format!("{code}Entering {OTHER}")).s("500 no"));
    }
    all.push(stimulus("A34", "a 227 that nobody asked for").s(&format!("227 {OTHER}")).refused("unsolicited_reply"));
    all.push(stimulus("A34", "a 227 to EPSV").c("EPSV").s(&format!("227 {OTHER}")).refused("unsolicited_reply"));
    all.push(stimulus("A34", "a 229 to PASV").c("PASV").s("229 (|||50068|)").refused("unsolicited_reply"));
    all.push(pasv("A34", "a 227 behind a 425", &format!("425 no\r\n227 {OTHER}"), "unsolicited_reply"));
    all.push(
        stimulus("A34", "a second 227 for one PASV")
            .c("PASV")
            .s(&format!("227 (198,51,100,5,195,149)\r\n227 {OTHER}"))
            .c("RETR x")
            .s("150 go\r\n226 done")
            .refused("unsolicited_reply")
            .opens(&[PORT]),
    );
    all.push(
        stimulus("A34", "a reply that was sent before its command came")
            .c("PASV")
            .segment(segment(SERVER, format!("227 {OTHER}\r\n").as_bytes()).ack(-6))
            .s("227 (198,51,100,5,195,149)")
            .refused("early_reply")
            .opens(&[PORT]),
    );
    all.push(
        stimulus("A35", "150 and 226 in one segment")
            .c("RETR x")
            .s("150 go\r\n226 done")
            .c("RETR y")
            .s(&format!("150 go\r\n227 {OTHER}")),
    );
    all.push(
        stimulus("A36", "a reply from the client")
            .c("227 Entering Passive Mode (198,51,100,5,195,149)")
            .taints("wrong_direction"),
    );
    all.push(stimulus("A36", "a command from the server").s("PORT 192,0,2,10,195,149").taints("wrong_direction"));
    for reply in ["500 no", "314 bluah", "421 bye"] {
        all.push(
            stimulus("A37", "PORT is not accepted, where it opens at the reply")
                .knob(|p| p.active_open = ActiveOpen::Reply, ["active_open = \"reply\"\n", ""])
                .c("PORT 192,0,2,10,195,149")
                .s(reply)
                .refused("refused_by_server"),
        );
        all.push(
            stimulus("A37", "PORT is not accepted, where it opened at the command: revoked")
                .outside()
                .c("PORT 192,0,2,10,195,149")
                .s(reply)
                .refused("negative_reply")
                .opened(&[PORT], 0),
        );
    }
    all.push(
        stimulus("A37", "a 200 for the NOOP before it")
            .knob(|p| p.active_open = ActiveOpen::Reply, ["active_open = \"reply\"\n", ""])
            .raw(CLIENT, b"NOOP\r\nPORT 192,0,2,10,195,149\r\n")
            .s("200 for the NOOP")
            .s("500 no")
            .refused("refused_by_server"),
    );
    let all_only = |about: &'static str| stimulus("A38", about).by_epsv().c("EPSV ALL").s("200 ok");
    all.push(all_only("PASV after EPSV ALL").c("PASV").s("227 (198,51,100,5,195,149)").refused("epsv_all"));
    all.push(all_only("PORT after EPSV ALL").c("PORT 192,0,2,10,195,149").s("200 ok").refused("epsv_all"));
    all.push(all_only("EPRT after EPSV ALL").c("EPRT |1|192.0.2.10|50069|").s("200 ok").refused("epsv_all"));
    all.push(all_only("EPSV after EPSV ALL").c("EPSV").s("229 (|||50069|)").opens(&[PORT]));
    all.push(stimulus("A38", "EPSV ALL refused: it is not in force").c("EPSV ALL").s("501 no").pasv().opens(&[PORT]));
    all
}
