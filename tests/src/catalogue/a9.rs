//! A9: floods, as far as one session can make them. The rest has tests of its own, see the table.

use ftp_helper_common::key::{CLIENT, SERVER};

use super::{PORT, Stimulus, stimulus};

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut flood = stimulus("A80", "500 PORTs: one pinhole at a time");
    let mut bounce = stimulus("A80", "500 PORTs for a third host");
    let mut passive = stimulus("A87", "200 PASVs");
    let (mut opens, mut passive_opens) = (Vec::new(), Vec::new());
    for i in 0..500u16 {
        let port = 10_240 + i;
        flood = flood.c(&format!("PORT 192,0,2,10,{},{}", port >> 8, port & 255)).s("200 ok");
        bounce = bounce.c(&format!("PORT 10,0,0,200,{},{}", port >> 8, port & 255)).s("200 ok");
        opens.push(port);
        if i < 200 {
            passive = passive.c("PASV").s(&format!("227 (198,51,100,5,{},{})", port >> 8, port & 255));
            passive_opens.push(port);
        }
    }
    let mut pipeline = stimulus("A81", "commands without end, none answered");
    for _ in 0..40 {
        pipeline = pipeline.c("NOOP");
    }
    let below = stimulus("A81", "ten commands at once are no attack")
        .raw(CLIENT, "NOOP\r\n".repeat(9).as_bytes())
        .c("PASV")
        .raw(SERVER, "200 ok\r\n".repeat(9).as_bytes())
        .s("227 (198,51,100,5,195,149)");
    vec![
        flood.opens(&opens),
        bounce.refused("third_host"),
        pipeline.taints("pipeline_overflow"),
        below.opens(&[PORT]),
        passive.opens(&passive_opens),
        stimulus("A85", "control characters in a user's name")
            .c("USER \x1b[2J\"\u{9b}x\x07")
            .s("331 password")
            .c("PASS x")
            .s("230 in")
            .c("PORT \x1b[2J\"\u{9b}x")
            .s("200 ok")
            .refused("bad_syntax"),
    ]
}
