//! Dialogues made of bytes: legal ones, what may be done to them, and the segments that carry them.

use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use ftp_helper_common::{
    key::{CLIENT, SERVER},
    tcp,
};

use super::rig::{START, Setting, Wire};
use crate::oracle::{Happening, Side};

/// Exchanges of one dialogue at most.
const EXCHANGES: usize = 12;

/// What one side says at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// `CLIENT` or `SERVER`.
    pub side: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many bytes of what the other side has said by then have not arrived.
    pub late: u64,
}

/// A legal dialogue, login included.
///
/// # Errors
/// Never for bytes: those that are missing are zeros.
pub fn legal(u: &mut Unstructured<'_>, setting: &Setting) -> Result<Vec<Turn>> {
    let mut script = Script { turns: Vec::new(), client: setting.client(), server: setting.server() };
    let greeting = u.choose(&["220 ready", "220-hello\r\n there\r\n220 ready", "120 soon\r\n220 ready", "220 "])?;
    script.say(SERVER, greeting);
    script.login(u)?;
    for _ in 0..u.int_in_range(1..=EXCHANGES)? {
        script.exchange(u)?;
    }
    Ok(script.turns)
}

/// Does something to a dialogue that no good client or server would do.
///
/// # Errors
/// Never for bytes.
pub fn mutate(u: &mut Unstructured<'_>, turns: &mut Vec<Turn>) -> Result<()> {
    const BYTES: &[u8] = b"\r\n\0 -,.|!()0129aP\t\xff\xf4\xf1\xfb:/227";
    const LINES: &[&str] = &[
        "227 Entering Passive Mode (198,51,100,5,195,149)\r\n",
        "229 Extended (|||50069|)\r\n",
        "230 in\r\n",
        "200 ok\r\n",
        "220 again\r\n",
        "234 go on\r\n",
        "421 bye\r\n",
        "500 what\r\n",
        "150 coming\r\n",
        "250-\r\n",
        "250 done\r\n",
        "PORT 192,0,2,10,195,149\r\n",
        "EPRT |1|192.0.2.10|50070|\r\n",
        "EPRT |2|2001:db8::10|50070|\r\n",
        "PASV\r\n",
        "EPSV\r\n",
        "EPSV ALL\r\n",
        "AUTH TLS\r\n",
        "USER x\r\n",
        "REIN\r\n",
        "ABOR\r\n",
        "NOOP\r\n",
        "RETR x\r\n",
        "GET / HTTP/1.1\r\n",
        "\r\n",
        "PASV\n",
        "\u{ff}\u{f4}",
    ];
    // Telnet sequences, whole and cut off; those in the middle are a line end to one who knows no Telnet.
    const TELNET: &[&[u8]] = &[
        b"\xff\xf4\xff\xf2",
        b"\xff\xff",
        b"\xff\xfb\x01",
        b"\xff\xfb\r",
        b"\xff\xfe\n",
        b"\xff\xfd\r\n",
        b"\xff\xfa",
        b"\xff\xf0",
        b"\xff",
    ];
    let i = u.choose_index(turns.len().max(1))?;
    let many = turns.len();
    let Some(turn) = turns.get_mut(i) else { return Ok(()) };
    let len = turn.bytes.len();
    match u.int_in_range(0..=13)? {
        0 if len > 0 => {
            let at = u.choose_index(len)?;
            turn.bytes[at] = *u.choose(BYTES)?;
        }
        1 => {
            let at = u.int_in_range(0..=len)?;
            turn.bytes.insert(at, *u.choose(BYTES)?);
        }
        2 if len > 0 => {
            let at = u.choose_index(len)?;
            turn.bytes.remove(at);
        }
        3 => {
            // Another line end.
            let end = *u.choose(&[&b"\n"[..], b"\r", b"\r\0", b"\r\r\n", b"\n\r", b""])?;
            if turn.bytes.ends_with(b"\r\n") {
                turn.bytes.truncate(len - 2);
                turn.bytes.extend(end);
            }
        }
        4 => drop(turns.remove(i)),
        5 => {
            let again = turn.clone();
            turns.insert(i, again);
        }
        6 if i + 1 < many => turns.swap(i, i + 1),
        7 => {
            // What this side says next, at once: pipelining.
            let side = turn.side;
            if let Some(j) = (i + 1..turns.len()).find(|j| turns[*j].side == side) {
                let next = turns.remove(j);
                turns[i].bytes.extend(next.bytes);
            }
        }
        8 => turn.late = u.int_in_range(1..=30)?,
        9 => {
            let bytes = u.choose(LINES)?.chars().map(|c| c as u8).collect();
            turns.insert(i, Turn { side: u.int_in_range(CLIENT..=SERVER)?, bytes, late: 0 });
        }
        10 => {
            // The same digits, another code.
            let code =
                *u.choose(&[&b"227"[..], b"229", b"200", b"230", b"226", b"500", b"331", b"150", b"234", b"421"])?;
            if turn.side == SERVER && len >= 3 {
                turn.bytes[..3].copy_from_slice(code);
            }
        }
        11 => {
            let line = u.choose(LINES)?.chars().map(|c| c as u8);
            let at = u.int_in_range(0..=len)?;
            turn.bytes.splice(at..at, line);
        }
        12 => {
            let at = u.int_in_range(0..=len)?;
            turn.bytes.splice(at..at, u.choose(TELNET)?.iter().copied());
        }
        _ => {
            // Whatever bytes the fuzzer likes.
            let n = u.int_in_range(0..=24)?.min(u.len());
            let bytes = u.bytes(n)?.to_vec();
            let at = u.int_in_range(0..=len)?;
            turn.bytes.splice(at..at, bytes);
        }
    }
    Ok(())
}

/// The dialogue for the oracle.
pub fn happenings(turns: &[Turn]) -> Vec<Happening> {
    let mut sent = [0u64; 2];
    let mut out = Vec::new();
    for Turn { side, bytes, late } in turns {
        let i = usize::from(*side);
        sent[i] += bytes.len() as u64;
        let side = if *side == CLIENT { Side::Client } else { Side::Server };
        out.push(Happening::Said { side, bytes: bytes.clone(), seen: sent[1 - i].saturating_sub(*late) });
    }
    out
}

/// The dialogue in segments, one for each turn.
pub fn wires(turns: &[Turn]) -> Vec<Wire> {
    let mut sent = [0u32; 2];
    let mut out = Vec::new();
    for Turn { side, bytes, late } in turns.iter().filter(|t| !t.bytes.is_empty()) {
        let i = usize::from(*side);
        let seen = sent[1 - i].saturating_sub(*late as u32);
        let (seq, ack) = (START[i].wrapping_add(sent[i]), START[1 - i].wrapping_add(seen));
        out.push(Wire { side: *side, flags: tcp::ACK, seq, ack, data: bytes.clone() });
        sent[i] += bytes.len() as u32;
    }
    out
}

/// Cuts, repeats and reorders segments: what the network does to a dialogue, and what must change nothing.
///
/// # Errors
/// Never for bytes.
pub fn carry(u: &mut Unstructured<'_>, wires: &mut Vec<Wire>) -> Result<()> {
    for _ in 0..u.int_in_range(0..=16)? {
        if wires.is_empty() {
            break;
        }
        let i = u.choose_index(wires.len())?;
        match u.int_in_range(0..=3)? {
            0 | 1 if wires[i].data.len() > 1 => {
                let n = u.int_in_range(1..=wires[i].data.len() - 1)?;
                let mut tail = wires[i].clone();
                tail.seq = tail.seq.wrapping_add(n as u32);
                tail.data.drain(..n);
                wires[i].data.truncate(n);
                wires.insert(i + 1, tail);
            }
            2 => {
                let again = wires[i].clone();
                let at = (i + u.int_in_range(1..=6)?).min(wires.len());
                wires.insert(at, again);
            }
            _ if i + 1 < wires.len() => wires.swap(i, i + 1),
            _ => {}
        }
    }
    Ok(())
}

struct Script {
    turns: Vec<Turn>,
    client: IpAddr,
    server: IpAddr,
}

impl Script {
    fn say(&mut self, side: u8, line: &str) {
        let mut bytes: Vec<u8> = line.chars().map(|c| c as u8).collect();
        bytes.extend(b"\r\n");
        self.turns.push(Turn { side, bytes, late: 0 });
    }

    fn both(&mut self, command: &str, reply: &str) {
        self.say(CLIENT, command);
        self.say(SERVER, reply);
    }

    fn login(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let user = *u.choose(&["USER me", "user anonymous", "USER "])?;
        match u.int_in_range(0..=4)? {
            0 | 1 => {
                self.both(user, "331 password");
                self.both("PASS x", u.choose(&["230 in", "230-in\r\n and out\r\n230 in"])?);
            }
            2 => self.both(user, "230 in"),
            3 => {
                self.both(user, "331 password");
                self.both("PASS x", "332 account");
                self.both("ACCT y", "230 in");
            }
            _ => {
                self.both(user, "331 password");
                self.both("PASS x", "530 no");
            }
        }
        Ok(())
    }

    fn exchange(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=19)? {
            0 | 1 => self.pasv(u)?,
            2 | 3 => self.epsv(u)?,
            4 | 5 => self.port(u)?,
            6 | 7 => self.eprt(u)?,
            8 => self.transfer(u)?,
            9 => self.login(u)?,
            10 => {
                self.both("REIN", u.choose(&["220 again", "502 no", "120 soon\r\n220 again"])?);
                self.login(u)?;
            }
            11 => self.both("ABOR", u.choose(&["226 ok", "225 nothing to abort", "500 no"])?),
            12 => {
                self.say(CLIENT, "RETR big");
                self.say(SERVER, "150 coming");
                self.say(CLIENT, "\u{ff}\u{f4}\u{ff}\u{f2}ABOR");
                self.say(SERVER, "426 stopped");
                self.say(SERVER, "226 aborted");
            }
            13 => self.both("EPSV ALL", u.choose(&["200 ok", "500 what", "501 no"])?),
            14 => self.both("AUTH TLS", u.choose(&["502 no", "534 no", "500 what", "234 go on"])?),
            15 => {
                let reply = u.choose(&["425 no", "421 bye", "500 what", "530 log in"])?;
                self.both(u.choose(&["PASV", "EPSV", "EPSV 1"])?, reply);
            }
            16 => self.pipelined(u)?,
            17 => {
                let (command, reply) = u.choose(&[
                    ("LPSV", "228 (4,4,198,51,100,5,2,200,7)"),
                    ("SPSV", "227 (198,51,100,5,200,8)"),
                    ("CPSV", "227 (198,51,100,5,200,8)"),
                    ("LPRT 4,4,192,0,2,10,2,200,9", "200 ok"),
                ])?;
                self.both(command, reply);
            }
            18 => {
                // Text of the client's or of a file that comes back.
                let (command, reply) = u.choose(&[
                    ("NLST 227 (198,51,100,5,200,2)", "550 227 (198,51,100,5,200,2): no such file"),
                    ("STAT .", "213-status\r\n 227 Entering (198,51,100,5,200,1)\r\n229 (|||50001|)\r\n213 end"),
                    ("SITE MSG", "200-227 (198,51,100,5,200,1)\r\n200-PASV\r\n200 ok"),
                    ("CWD a\u{e9}b", "250-a\u{e9}\r\n \r\n\r\n250 done"),
                ])?;
                self.both(command, reply);
            }
            _ => {
                let (command, reply) = u.choose(&[
                    ("TYPE I", "200 ok"),
                    ("PWD", "257 \"/\" is it"),
                    ("FEAT", "211-Features\r\n EPSV\r\n PASV\r\n211 End"),
                    ("XYZZY", "500 what"),
                    ("CWD ..", "250 done"),
                    ("REST 100", "350 go on"),
                    ("OPTS UTF8 ON", "200 ok"),
                    ("PASS again", "503 USER first"),
                    ("ACCT y", "202 not needed"),
                    ("NOOP", "421 bye"),
                    ("MLST x", "250-\r\n type=file; x\r\n250 end"),
                    ("RNFR a", "350 go on"),
                    ("QUIT", "221 bye"),
                ])?;
                self.both(command, reply);
            }
        }
        Ok(())
    }

    fn pasv(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let host = host(u, self.server)?;
        let six = six(host, port(u)?);
        let reply = match u.int_in_range(0..=4)? {
            0 | 1 => format!("227 Entering Passive Mode ({six})."),
            2 => format!("227 Entering Passive Mode ({six})"),
            3 => format!("227 Entering Passive Mode {six}"),
            _ => format!("227 ={six}"),
        };
        self.both(u.choose(&["PASV", "pasv", "PaSv"])?, &reply);
        Ok(())
    }

    fn epsv(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let command = *u.choose(&["EPSV", "epsv", if self.server.is_ipv4() { "EPSV 1" } else { "EPSV 2" }])?;
        let (d, port) = (delimiter(u)?, port(u)?);
        let text = u.choose(&["Entering Extended Passive Mode ", "ok", "Extended 9 Mode ", ""])?;
        let end = u.choose(&["", ".", " "])?;
        self.both(command, &format!("229 {text}({d}{d}{d}{port}{d}){end}"));
        Ok(())
    }

    fn port(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let host = host(u, self.client)?;
        let verb = u.choose(&["PORT", "port"])?;
        let command = format!("{verb} {}", six(host, port(u)?));
        self.both(&command, u.choose(&["200 ok", "200-PORT\r\n200 ok", "500 what", "501 no", "425 no"])?);
        if u.arbitrary()? {
            self.transfer(u)?;
        }
        Ok(())
    }

    fn eprt(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (host, d, port) = (host(u, self.client)?, delimiter(u)?, port(u)?);
        let protocol = if host.is_ipv4() { 1 } else { 2 };
        let text = match host {
            IpAddr::V6(host) if u.arbitrary()? => host.segments().map(|s| format!("{s:04X}")).join(":"),
            _ => host.to_string(),
        };
        self.both(&format!("EPRT {d}{protocol}{d}{text}{d}{port}{d}"), u.choose(&["200 ok", "522 (1)", "501 no"])?);
        if u.arbitrary()? {
            self.transfer(u)?;
        }
        Ok(())
    }

    fn transfer(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.say(CLIENT, u.choose(&["RETR file", "STOR file", "LIST", "NLST", "MLSD", "APPE f", "STOU", "retr x"])?);
        match u.int_in_range(0..=3)? {
            0 => {
                self.say(SERVER, "150 coming");
                self.say(SERVER, "226 done");
            }
            1 => self.say(SERVER, "125-it\r\n125 comes\r\n226-that\r\n was it\r\n226 done"),
            2 => self.say(SERVER, "150 coming\r\n426 broken"),
            _ => self.say(SERVER, "550 no such file"),
        }
        Ok(())
    }

    /// Several commands at once, the replies in order.
    fn pipelined(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let from = self.turns.len();
        for _ in 0..u.int_in_range(2..=4)? {
            match u.int_in_range(0..=4)? {
                0 => self.pasv(u)?,
                1 => self.epsv(u)?,
                2 => self.port(u)?,
                3 => self.both("CWD x", "250 done"),
                _ => self.both("NOOP", "200 ok"),
            }
        }
        // At most eight of them.
        let said = self.turns.split_off(from);
        let mut commands = Vec::new();
        let mut unanswered = 0;
        let mut replies = Vec::new();
        for turn in said {
            if turn.side == CLIENT {
                unanswered += 1;
                if unanswered > 8 {
                    self.turns.push(Turn { side: CLIENT, bytes: std::mem::take(&mut commands), late: 0 });
                    self.turns.append(&mut replies);
                    unanswered = 1;
                }
                commands.extend(turn.bytes);
            } else {
                replies.push(turn);
            }
        }
        self.turns.push(Turn { side: CLIENT, bytes: commands, late: 0 });
        self.turns.append(&mut replies);
        Ok(())
    }
}

/// A host that is named: mostly the right one.
fn host(u: &mut Unstructured<'_>, right: IpAddr) -> Result<IpAddr> {
    Ok(match u.int_in_range(0..=7)? {
        0 if right.is_ipv4() => IpAddr::from([203, 0, 113, 66]),
        1 if right.is_ipv4() => IpAddr::from([127, 0, 0, 1]),
        0 => "2001:db8::66".parse().expect("an address"),
        1 => IpAddr::from([192, 0, 2, 10]),
        _ => right,
    })
}

fn port(u: &mut Unstructured<'_>) -> Result<u16> {
    Ok(match u.int_in_range(0..=3)? {
        0 => *u.choose(&[0, 20, 21, 22, 1023, 1024, 3306, 5432, 65535, 50000, 51000, 49999, 51001])?,
        _ => u.arbitrary()?,
    })
}

fn delimiter(u: &mut Unstructured<'_>) -> Result<char> {
    Ok(*u.choose(&['|', '|', '|', '!', '#', '$', '%', '&', '*', '+', ',', '-', '/', '=', '@', '~'])?)
}

/// `h1,h2,h3,h4,p1,p2`; an IPv6 host has no such form, and another one stands for it.
fn six(host: IpAddr, port: u16) -> String {
    let host = if host.is_ipv4() { host.to_string() } else { "198.51.100.5".to_owned() };
    format!("{},{},{}", host.replace('.', ","), port >> 8, port & 255)
}
