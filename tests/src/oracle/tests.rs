//! The oracle against examples that one can check by eye.

use super::*;

fn rules() -> Rules {
    Rules {
        client: "192.0.2.10".parse().unwrap(),
        server: "198.51.100.5".parse().unwrap(),
        ways: [Way::Pasv, Way::Epsv, Way::Port, Way::Eprt].into(),
        active: Active::Command,
        denied: [21, 3306].into(),
        passive: 1024..=65535,
        lenient: false,
    }
}

/// Lines `C: ` and `S: `, each sent by one who has seen everything before it.
fn said(lines: &[&str]) -> Vec<Happening> {
    let mut sent = [0u64; 2];
    let mut dialogue = Vec::new();
    for line in lines {
        let (who, text) = line.split_at(3);
        let (side, i) = if who == "C: " { (Side::Client, 0) } else { (Side::Server, 1) };
        let bytes = format!("{text}\r\n").into_bytes();
        sent[i] += bytes.len() as u64;
        dialogue.push(Happening::Said { side, bytes, seen: sent[1 - i] });
    }
    dialogue
}

const LOGIN: &[&str] = &["S: 220 hi", "C: USER a", "S: 331 go on", "C: PASS b", "S: 230 in"];

fn ports_by(rules: &Rules, lines: &[&str]) -> Vec<u16> {
    let all: Vec<&str> = LOGIN.iter().chain(lines).copied().collect();
    read(rules, &said(&all)).opened.iter().map(|hole| hole.port).collect()
}

fn ports(lines: &[&str]) -> Vec<u16> {
    ports_by(&rules(), lines)
}

const GOOD: &str = "S: 227 Entering Passive Mode (198,51,100,5,195,149).";

#[test]
fn what_is_legal_opens() {
    assert_eq!(ports(&["C: PASV", GOOD]), [50069]);
    assert_eq!(ports(&["C: pasv", "S: 227 Entering Passive Mode 198,51,100,5,195,149"]), [50069]);
    assert_eq!(ports(&["C: EPSV", "S: 229 Extended (|||1024|)", "C: EPSV 1", "S: 229 (!!!65535!)"]), [1024, 65535]);
    assert_eq!(ports(&["C: PORT 192,0,2,10,195,149", "S: 200 ok"]), [50069]);
    assert_eq!(ports(&["C: EPRT |1|192.0.2.10|50069|", "S: 200 ok"]), [50069]);
    assert_eq!(ports(&["C: FEAT", "S: 211-x\r\n PASV\r\n211 end", "C: PASV", GOOD]), [50069]);
    assert_eq!(ports(&["C: EPSV ALL", "S: 500 no", "C: PASV", GOOD]), [50069]);
    assert_eq!(ports(&["C: NOOP\r\nPASV", "S: 200 ok", GOOD]), [50069]);
}

#[test]
fn what_is_not_does_not() {
    for lines in [
        &[GOOD][..],
        &["C: NOOP", GOOD],
        &["C: EPSV", GOOD],
        &["C: PASV", "S: 229 x (|||50069|)"],
        &["C: PASV", "S: 227 (198,51,100,6,195,149)"],
        &["C: PASV", "S: 227 (198,51,100,5,12,234)"],
        &["C: PASV", "S: 227 (198,51,100,5,3,255)"],
        &["C: PASV", "S: 227 (198,51,100,5,195,256)"],
        &["C: PASV", "S: 227 (198,51,100,5,0195,149)"],
        &["C: PASV", "S: 227 1,2,3 files (198,51,100,5,195,149)"],
        &["C: PASV", "S: 227 (198,51,100,5,195,149) or 198,51,100,5,195,150"],
        &["C: PASV", "S: 227-x\r\n227 (198,51,100,5,195,149)"],
        &["C: PASV", "S: 250-x\r\n227 (198,51,100,5,195,149)\r\n250 end"],
        &["C: PASV ", GOOD],
        &["C: EPSV", "S: 229 (a) (|||50069|)"],
        &["C: EPSV", "S: 229 |||50069|"],
        &["C: EPSV", "S: 229 (|||050069|)"],
        &["C: EPSV", "S: 229 (|||65536|)"],
        &["C: EPSV 3", "S: 229 (|||50069|)"],
        &["C: EPSV ALL", "S: 200 ok", "C: PASV", GOOD],
        &["C: PORT 192,0,2,11,195,149", "S: 200 ok"],
        &["C: PORT 192,0,2,10,195,149 ", "S: 200 ok"],
        &["C: PORT 192,0,2,10,195", "S: 200 ok"],
        &["C: EPRT |2|192.0.2.10|50069|", "S: 200 ok"],
        &["C: EPRT 1119112.0.2.1150069", "S: 200 ok"],
        &["C: AUTH TLS", "S: 234 go", "C: PASV", GOOD],
        &["C: USER b", "S: 331 go on", "C: PASV", GOOD],
        &["C: NOOP\nPASV", GOOD],
        &["C: 227 (192,0,2,10,195,149)", "S: 500 ?", "C: PASV", GOOD],
        &["S: PASV", "C: PASV", GOOD],
    ] {
        assert_eq!(ports(lines), [0; 0], "{lines:?}");
    }
}

#[test]
fn a_reply_that_was_sent_before_the_command_arrived_answers_nothing() {
    let mut dialogue = said(&[LOGIN, &["C: PASV", GOOD]].concat());
    assert_eq!(read(&rules(), &dialogue).opened.len(), 1);
    let Some(Happening::Said { seen, .. }) = dialogue.last_mut() else { panic!("the 227 is the last") };
    *seen -= 1;
    assert_eq!(read(&rules(), &dialogue).opened, []);
}

#[test]
fn active_mode_opens_when_the_rules_say() {
    let dialogue = &["C: PORT 192,0,2,10,195,149", "S: 200 ok", "C: RETR x"][..];
    for (active, when) in [(Active::Command, 1), (Active::Reply, 2), (Active::Transfer, 3), (Active::Never, 4)] {
        let rules = Rules { active, ..rules() };
        for n in 0..=3 {
            assert_eq!(ports_by(&rules, &dialogue[..n]).len(), usize::from(n >= when), "{active:?} {n}");
        }
    }
    let refused = &["C: PORT 192,0,2,10,195,149", "S: 500 no", "C: RETR x"];
    assert_eq!(ports_by(&Rules { active: Active::Reply, ..rules() }, refused), [0; 0]);
    let all: Vec<&str> = LOGIN.iter().chain(refused).copied().collect();
    let verdict = read(&rules(), &said(&all));
    assert_eq!((verdict.opened.len(), verdict.open), (1, None), "a refusal takes it back");
}

#[test]
fn commands_are_taken_one_after_the_other() {
    for lines in [&["C: PASV\r\nABOR", GOOD, "S: 226 aborted"], &["C: PASV\r\nUSER b", GOOD, "S: 331 go on"]] {
        let all: Vec<&str> = LOGIN.iter().chain(lines).copied().collect();
        let verdict = read(&rules(), &said(&all));
        assert_eq!((verdict.opened.len(), verdict.open), (1, None), "{lines:?}");
    }
    assert_eq!(ports(&["C: USER b\r\nPASV", "S: 331 go on", GOOD]), [0; 0]);
    assert_eq!(ports(&["C: REIN", "S: 502 no", "C: PASV", GOOD]), [50069], "what is refused has not happened");
    assert_eq!(ports(&["C: REIN", "S: 220 hi", "C: PASV", GOOD]), [0; 0]);
}

#[test]
fn the_greeting_comes_first() {
    for lines in [&["C: USER a"][..], &["S: HTTP/1.1 200 OK"], &["S: 220 hi", "C: GET / HTTP/1.1"]] {
        assert!(read(&rules(), &said(lines)).barred.is_some(), "{lines:?}");
    }
    let verdict = read(&rules(), &said(&["S: 120 soon", "S: 220-hi\r\n220 there", "C: USER a"]));
    assert_eq!(verdict.barred, None);
}

/// What makes it a second opinion.
#[test]
fn nothing_of_the_product_is_used() {
    for source in
        [include_str!("mod.rs"), include_str!("line.rs"), include_str!("endpoint.rs"), include_str!("reading.rs")]
    {
        assert!(!source.contains(concat!("ftp", "_helper")) && !source.contains("nom::"));
    }
}
