//! A3: numbers and syntax that parsers read differently.

use ftp_helper_common::key::CLIENT;

use super::{PORT, Stimulus, stimulus};

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = Vec::new();
    let port = |id, about, argument: &str| {
        stimulus(id, about).c(&format!("PORT {argument}")).s("200 ok").refused("bad_syntax")
    };
    let eprt = |id, about, argument: &str, reason| {
        stimulus(id, about).c(&format!("EPRT {argument}")).s("200 ok").refused(reason)
    };
    let pasv = |id, about, text: &str, reason| stimulus(id, about).c("PASV").s(&format!("227 {text}")).refused(reason);
    let epsv =
        |id, about, text: &str, reason| stimulus(id, about).c("EPSV").s(&format!("229 ok {text}")).refused(reason);
    all.push(port("A20", "an octet above 255", "192,0,2,10,256,22"));
    all.push(port("A20", "an octet above 255", "192,0,2,266,195,149"));
    for text in ["(1216,256,2,127,127,127)", "(198,51,100,5,195,256)", "(198,51,100,261,195,149)"] {
        all.push(pasv("A20", "an octet above 255", text, "bad_syntax"));
    }
    for n in ["65558", "65536", "1000000", "4294967318", "131072"] {
        all.push(epsv("A21", "a port above 65535", &format!("(|||{n}|)"), "bad_syntax"));
        all.push(eprt("A21", "a port above 65535", &format!("|1|192.0.2.10|{n}|"), "bad_syntax"));
    }
    all.push(port("A21", "a number that wraps to 192", "4294967488,0,2,10,195,149"));
    for argument in ["0300,0,02,012,0303,0225", "192,000,002,010,195,149", "192,0,2,10,195,0149", "192,0,2,010,195,149"]
    {
        all.push(port("A22", "leading zeros", argument));
    }
    all.push(epsv("A22", "leading zeros", "(|||050069|)", "bad_syntax"));
    all.push(eprt("A22", "leading zeros", "|1|192.0.2.010|50069|", "bad_syntax"));
    for argument in [
        "192,0,2,10,+195,149",
        "192,0,2,10,-1,149",
        "192,0,2,10,0xC3,149",
        "192,0,2,10,195 ,149",
        "192,0,2,10,195,149 ",
        " 192,0,2,10,195,149",
        "192,0,2,10,195,149xyz",
        "192,0,2,10,195,149,1",
        "192,0,2,10,195",
        "192,,2,10,195,149",
        "192.0.2.10.195.149",
        "192,0,2,10,195.149",
        "192,0,2,10,195\t,149",
    ] {
        all.push(port("A23", "signs, blanks, too few fields and too many", argument));
    }
    all.push(stimulus("A23", "a tab behind the verb").c("PORT\t192,0,2,10,195,149").s("500 no"));
    for argument in [
        &b"PORT 192,0,2,10,195,149\0\r\n"[..],
        b"PORT 192,0,2,10,195,\xef\xbc\x91\r\n",
        b"PORT\xa0192,0,2,10,195,149\r\n",
        b"PORT 192,0,2,10,195,149\xa0\r\n",
    ] {
        all.push(stimulus("A24", "NUL, full-width digits, a blank of eight bits").raw(CLIENT, argument).s("200 ok"));
    }
    for argument in
        ["|2|192.0.2.10|50069|", "|1|2001:db8::1|50069|", "||||", "||", "|1|192.0.2.10|65536|", "|1|192.0.2.10|-1|"]
    {
        all.push(eprt("A25", "an EPRT that is none", argument, "bad_syntax"));
    }
    for argument in [
        "|1|192.0.2.10|50069",
        "|1|192.0.2.10|50069||",
        "|1|192.0.2.10!50069|",
        ".1.192.0.2.10.50069.",
        "111192.0.2.10150069 1",
        " 1 192.0.2.10 50069 ",
        "\x7f1\x7f192.0.2.10\x7f50069\x7f",
        "|1|1.2.3.4.5|50069|",
        "|1|1.2.3.256|50069|",
    ] {
        all.push(eprt("A25", "delimiters", argument, "bad_syntax"));
    }
    all.push(eprt("A25", "an address family of nobody", "|3|192.0.2.10|50069|", "address_family"));
    all.push(eprt("A25", "IPv6 in a session over IPv4", "|2|2001:db8::10|50069|", "address_family"));
    all.push(eprt("A25", "IPv4 in a session over IPv6", "|1|192.0.2.10|50069|", "address_family").v6());
    all.push(
        stimulus("A25", "PORT in a session over IPv6")
            .v6()
            .c("PORT 192,0,2,10,195,149")
            .s("200 ok")
            .refused("address_family"),
    );
    all.push(stimulus("A25", "! is as good as |").c("EPRT !1!192.0.2.10!50069!").s("200 ok").opens(&[PORT]));
    for (text, reason) in [
        ("(|2|2001:db8::5|50069|)", "bad_syntax"),
        ("|||50069|", "bad_syntax"),
        ("(|||50069|", "bad_syntax"),
        ("(||50069|)", "bad_syntax"),
        ("((|||1|)|||50069|)", "ambiguous_reply"),
        ("(foo) (|||50069|)", "ambiguous_reply"),
        ("(|||50069|) (|||50070|)", "ambiguous_reply"),
    ] {
        all.push(epsv("A26", "forms of 229", text, reason));
    }
    all.push(stimulus("A26", "! is as good as |").c("EPSV").s("229 ok (!!!50069!)").opens(&[PORT]));
    for text in [
        "1,2,3 files (198,51,100,5,195,149)",
        "(1,2,3,4,5,6) (198,51,100,5,195,149)",
        "(198,51,100,5,195,149) (198,51,100,5,195,150)",
    ] {
        all.push(pasv("A27", "two candidates in a 227", text, "ambiguous_reply"));
    }
    all.push(stimulus("A27", "no parentheses").c("PASV").s("227 Entering 198,51,100,5,195,149").opens(&[PORT]));
    all.push(stimulus("A27", "an equals sign").c("PASV").s("227 =198,51,100,5,195,149").opens(&[PORT]));
    for verb in ["XPORT", "PORTX", " PORT", "POR", "PORT."] {
        let line = format!("{verb} 192,0,2,10,195,149");
        all.push(stimulus("A28", "verbs that are not PORT").c(&line).s("200 ok"));
    }
    all.push(stimulus("A28", "upper and lower case").c("pOrT 192,0,2,10,195,149").s("200 ok").opens(&[PORT]));
    all.push(
        stimulus("A28", "PASV with an argument").c("PASV x").s("227 (198,51,100,5,195,149)").refused("bad_syntax"),
    );
    for line in ["LPRT 4,4,192,0,2,10,2,195,149", "LPSV", "SPSV", "CPSV", "APSV"] {
        let s = stimulus("A29", "negotiations that are not followed").c(line);
        all.push(s.s("228 (4,4,198,51,100,5,2,195,149)").refused("unsupported_verb"));
    }
    all.push(stimulus("A29", "a 227 to SPSV").c("SPSV").s("227 (198,51,100,5,195,149)").refused("unsupported_verb"));
    for line in ["SSCN ON", "PRET RETR x"] {
        all.push(stimulus("A29", "SSCN, PRET").c(line).s("200 ok"));
    }
    all
}
