//! The seeds of `dialogue`, `canon` and `segments`: the decisions that make a dialogue worth beginning with, as the bytes
//! that [`super::script`] and [`super::segments`] take them from. Each decision is one byte, the number of the choice;
//! a port is two. `tests/tests/fuzz_corpus.rs` holds the files in `fuzz/seeds` to it, and writes them anew.

use crate::oracle::Way;

/// A dialogue, and what a strict reader makes of it.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Name of the file.
    pub name: &'static str,
    /// What opens, in order.
    pub opens: &'static [Way],
    /// Whether nothing may open any more at its end.
    pub barred: bool,
    setting: u16,
    exchanges: Vec<Vec<u8>>,
    mutations: Vec<Vec<u8>>,
}

// Bits of a setting.
const V6: u16 = 1;
const INSIDE: u16 = 1 << 1;
const AT_REPLY: u16 = 2 << 2;
const AT_TRANSFER: u16 = 3 << 2;
const LENIENT: u16 = 3 << 5;
const RANGE: u16 = 3 << 14;

/// A port of two bytes, not one of the list.
const PORT: [u8; 3] = [1, 0x95, 0xc3];
/// "220 ready", "USER me", "230 in".
const LOGIN: [u8; 3] = [0, 0, 2];
/// Turns before the first exchange: the greeting, USER, 230.
const FIRST: u8 = 3;

impl Seed {
    fn new(name: &'static str, setting: u16, exchanges: &[&[u8]], opens: &'static [Way]) -> Self {
        let exchanges = exchanges.iter().map(|e| e.to_vec()).collect();
        Self { name, opens, barred: false, setting, exchanges, mutations: Vec::new() }
    }

    fn mutated(self, mutations: &[&[u8]]) -> Self {
        Self { mutations: mutations.iter().map(|m| m.to_vec()).collect(), ..self }
    }

    fn barred(self) -> Self {
        Self { barred: true, ..self }
    }

    /// The bytes for `dialogue`: nothing is done to its segments.
    pub fn dialogue(&self) -> Vec<u8> {
        let mutations = self.mutations.len() as u8;
        [&[mutations][..], &self.setting.to_le_bytes(), &self.legal(), &self.mutations.concat(), &[0]].concat()
    }

    /// The bytes for `canon`.
    pub fn canon(&self) -> Vec<u8> {
        let mutations = self.mutations.len() as u8;
        [&self.setting.to_le_bytes()[..], &[mutations], &self.legal(), &self.mutations.concat(), &[0, 0]].concat()
    }

    fn legal(&self) -> Vec<u8> {
        let exchanges = self.exchanges.len() as u8 - 1;
        [&LOGIN[..], &[exchanges], &self.exchanges.concat()].concat()
    }
}

/// A 227 of the usual form to PASV.
fn pasv() -> Vec<u8> {
    [&[0, 2][..], &PORT, &[0, 0]].concat()
}

/// A 229 of the usual form to EPSV.
fn epsv() -> Vec<u8> {
    [&[2, 0, 0][..], &PORT, &[0, 0]].concat()
}

/// PORT, the reply of this number, and perhaps a transfer.
fn port(reply: u8, transfer: bool) -> Vec<u8> {
    let transfer: &[u8] = if transfer { &[1, 0, 0] } else { &[0] };
    [&[4, 2, 0][..], &PORT, &[reply], transfer].concat()
}

/// EPRT for IPv6, accepted, and a transfer.
fn eprt6() -> Vec<u8> {
    [&[6, 2, 0][..], &PORT, &[0, 0, 1, 0, 0]].concat()
}

/// RETR, 150 and 226.
const RETR: &[u8] = &[8, 0, 0];
/// CWD and 250.
const CWD: &[u8] = &[19, 4];
/// STAT, and a reply of several lines, with a 227 and a 229 in them.
const STAT: &[u8] = &[18, 1];

/// The seeds of `dialogue` and `canon`.
pub fn dialogues() -> Vec<Seed> {
    let (pasv, epsv, eprt6) = (&pasv()[..], &epsv()[..], &eprt6()[..]);
    let pipelined = [&[16, 1][..], &[0], &pasv[1..], &[1], &epsv[1..], &[4]].concat();
    let in_range = [&[0, 2, 1][..], &51000u16.to_le_bytes(), &[0, 0]].concat();
    // Where the last line of the reply to STAT begins.
    let end_of_stat = "213-status\r\n 227 Entering (198,51,100,5,200,1)\r\n229 (|||50001|)\r\n".len() as u8;
    let turn = |n: u8| FIRST + n;
    vec![
        Seed::new("pasv", 0, &[pasv, RETR], &[Way::Pasv]),
        Seed::new("epsv6", V6, &[epsv, RETR], &[Way::Epsv]),
        Seed::new("port-at-command", 0, &[&port(0, true)], &[Way::Port]),
        Seed::new("port-at-reply", AT_REPLY, &[&port(1, true)], &[Way::Port]),
        Seed::new("port-at-transfer", AT_TRANSFER, &[&port(0, true)], &[Way::Port]),
        Seed::new("port-refused", 0, &[&port(2, true), pasv], &[Way::Port, Way::Pasv]),
        Seed::new("eprt6-inside", V6 | INSIDE, &[eprt6], &[Way::Eprt]),
        Seed::new("range", RANGE, &[pasv, &in_range, RETR], &[Way::Pasv, Way::Pasv]),
        Seed::new("pipelined", 0, &[&pipelined, RETR], &[Way::Pasv, Way::Epsv]),
        Seed::new("abort", 0, &[pasv, &[12], epsv], &[Way::Pasv, Way::Epsv]),
        Seed::new("again-logged-in", 0, &[&[10, 0, 0, 0, 0], pasv], &[Way::Pasv]),
        Seed::new("auth-refused", 0, &[&[14, 0], epsv], &[Way::Epsv]),
        Seed::new("auth-accepted", 0, &[&[14, 3], epsv], &[]).barred(),
        Seed::new("epsv-all", 0, &[&[13, 0], pasv, epsv], &[Way::Epsv]),
        Seed::new("echo", 0, &[&[18, 0], STAT, pasv], &[Way::Pasv]),
        Seed::new("reply-before-command", 0, &[pasv, epsv], &[]).mutated(&[&[turn(1), 8, 5]]),
        // Of the greeting and the login only "230 in" is left, and the PORT behind it has not seen all of that.
        Seed::new("port-before-greeting", 0, &[&port(0, true)], &[Way::Port]).mutated(&[&[0, 4], &[0, 4], &[1, 8, 3]]),
        Seed::new("telnet-option-cr", 0, &[CWD, pasv], &[]).mutated(&[&[turn(0), 12, 4, 3]]).barred(),
        Seed::new("telnet-option-lf", LENIENT, &[CWD, pasv], &[]).mutated(&[&[turn(1), 12, 5, 4]]).barred(),
        Seed::new("telnet-in-multiline-227", 0, &[STAT, pasv], &[])
            .mutated(&[&[turn(1), 10, 0], &[turn(1), 11, 0, end_of_stat], &[turn(1), 12, end_of_stat + 5, 0]])
            .barred(),
        Seed::new("bare-epsv-all", LENIENT | AT_TRANSFER, &[&port(0, false), &[13, 1], RETR], &[]).mutated(&[&[
            turn(2),
            3,
            0,
        ]]),
    ]
}

/// The seeds of `segments`, each with what it is worth: through the kernel's reader where the first byte behind the setting
/// says so, after a login where the second does.
pub fn segments() -> Vec<(&'static str, Vec<u8>)> {
    const LOGGED_IN: [u8; 2] = [0, 1];
    const WITH_KERNEL: [u8; 2] = [1, 1];
    let line = |n: u8| vec![0, n];
    // The numbers of `segments::LINES`.
    let (pasv, is_227, port, is_200, retr, quit) = (line(3), line(4), line(7), line(10), line(11), line(15));
    let (connect, silence) = (vec![11, 0], vec![11, 3]);
    let seed = |how: [u8; 2], steps: &[&Vec<u8>]| -> Vec<u8> {
        let steps: Vec<u8> = steps.iter().flat_map(|s| s.iter().copied()).collect();
        [&0u16.to_le_bytes()[..], &how, &steps].concat()
    };
    vec![
        ("transfer", seed(WITH_KERNEL, &[&pasv, &is_227, &connect, &retr, &quit])),
        ("active", seed(WITH_KERNEL, &[&port, &is_200, &connect, &retr])),
        ("expires", seed(LOGGED_IN, &[&pasv, &is_227, &silence, &pasv, &is_227])),
        // The 227 comes twice; then again with another byte and more behind it.
        ("again", seed(LOGGED_IN, &[&pasv, &is_227, &vec![5, 1]])),
        ("conflict", seed(LOGGED_IN, &[&pasv, &is_227, &vec![6, 1, 4, 0, b'x', 0]])),
        // 54 ahead: the 227 waits for what is before it.
        ("ahead", seed(LOGGED_IN, &[&pasv, &vec![7, 4, 0, 254], &is_227])),
        // It acknowledges a byte less than the whole PASV.
        ("early", seed(LOGGED_IN, &[&pasv, &vec![8, 4, 39]])),
        ("fin", seed(WITH_KERNEL, &[&pasv, &is_227, &vec![9, 0, 0x11, 2], &pasv])),
        ("reset", seed(WITH_KERNEL, &[&pasv, &is_227, &vec![9, 1, 0x04, 2], &pasv])),
        ("urgent", seed(LOGGED_IN, &[&pasv, &is_227, &vec![9, 0, 0x30, 1, 2], &pasv, &is_227])),
    ]
}
