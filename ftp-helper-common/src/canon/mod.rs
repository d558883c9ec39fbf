//! The reader of *canonical* dialogues: the part of FTP that the kernel understands by itself.
//!
//! Canonical means: the segment begins at the next sequence number; it is whole lines, printable, ended by CRLF and
//! within the line limit; no fragment, no urgent data. A segment of the client is exactly one line, sent while no
//! command is unanswered. A segment of the server is any number of preliminary replies and lines of one multi-line
//! reply, then at most one final reply. Whatever is not canonical makes the session blind ([`Made::blind`]): the
//! daemon, which reassembles and parses everything, carries on alone.
//!
//! [`judge`] looks and decides, [`apply`] changes a session's state accordingly. Both are pure; the kernel program
//! calls them on a snapshot and commits the result, the tests call them on the host. The reader opens nothing that the
//! engine would refuse: it is a subset by construction, and by test (`fast ⊆ full`).

pub mod host;
mod made;
mod number;
mod reply;
mod rewrite;
mod text;
mod verb;

pub use made::{Made, bit};
pub use reply::{LINES_MAX, read_227, read_229, read_line};
pub use rewrite::{REWRITE_MAX, REWRITTEN_MAX, Rewriting, SHEET, rewrite_byte, rewriting};
pub use text::{LINE_MAX, Rules, SEGMENT_MAX, Text, scan_line};
pub use verb::{read_eprt, read_port};

use crate::{
    key::{CLIENT, HOOK_IN, PinholeKey, SERVER, SessionKey},
    policy::{KernelPolicy, active_open, policy_flag},
    reason::Reason,
    state::{SessionState, flag, pending},
    tcp,
};

/// A segment of a control connection, without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// [`CLIENT`] or [`SERVER`].
    pub side: u8,
    /// TCP flags.
    pub flags: u8,
    /// Whether it is a fragment.
    pub fragment: bool,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Payload length.
    pub len: u32,
}

/// What a segment is to a session's state, and what must be remembered of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// The changes.
    pub made: Made,
    /// Hash of the segment, or 0 where it was not read.
    pub hash: u64,
}

/// Looks at a segment. `text` holds its bytes if `0 < len <= SEGMENT_MAX`. Nothing is changed.
#[inline(always)]
pub fn judge<T: Text, R: Rules>(
    text: T,
    segment: &Segment,
    key: &SessionKey,
    state: &SessionState,
    policy: &KernelPolicy,
    rules: R,
) -> Judgement {
    let next = if segment.side == CLIENT { state.next[0] } else { state.next[1] };
    let ahead = tcp::distance(segment.seq, next);
    let fin = if segment.side == CLIENT { flag::FIN_CLIENT } else { flag::FIN_SERVER };
    let ends = end_of_stream(segment, ahead, state.flags & fin != 0);
    let unread = |made: Made| Judgement { made: Made(made.0 | ends), hash: 0 };
    if segment.len == 0 {
        return unread(Made::NOTHING);
    }
    // A long segment has no hash; sent again, it blinds.
    let scanned = if segment.len <= LINE_MAX { text.scan_line(segment.len) } else { 0 };
    let (printable, hash) = (scanned & 1 != 0, scanned & !1);
    // What is announced together with the end of the stream would have to be taken back at once (rule 5).
    let opens = if ends == 0 { !0 } else { !bit::OPEN };
    let judgement = |made: Made| Judgement { made: Made(made.0 & opens | ends), hash };
    if state.flags & (flag::BLIND | flag::BARRED) != 0 {
        // The hash is kept up, so that the last segment sent again does not blind a session that was just resynced.
        return judgement(Made::NOTHING);
    }
    if segment.fragment {
        return unread(Made::blind(Reason::Fragment));
    }
    if segment.flags & tcp::URG != 0 {
        return unread(Made::blind(Reason::Urgent));
    }
    if ahead > 0 {
        return judgement(Made::blind(Reason::Gap));
    }
    // Acknowledging what was never sent: the other end's TCP discards it. A FIN counts for one.
    let peer = if segment.side == CLIENT { state.next[1] } else { state.next[0] };
    if tcp::distance(segment.ack, peer) > 1 {
        return judgement(Made::blind(Reason::Gap));
    }
    if segment.len > SEGMENT_MAX {
        return unread(Made::blind(Reason::TooLong));
    }
    let one_line =
        segment.len <= LINE_MAX && text.at(segment.len - 1) == b'\n' && text.at(segment.len.wrapping_sub(2)) == b'\r';
    if ahead < 0 {
        return Judgement { made: old(segment, state, ahead, hash), hash: 0 };
    }
    if segment.side == CLIENT {
        if !one_line {
            return judgement(Made::blind(if segment.len > LINE_MAX { Reason::TooLong } else { Reason::Split }));
        }
        if !printable {
            return judgement(Made::blind(Reason::NotText));
        }
        if state.unanswered != 0 {
            return judgement(Made::blind(Reason::Pipelined));
        }
        // Who begins without having seen the whole greeting does not speak FTP, which is the daemon's to say.
        if state.next[0] == state.start[0] && !tcp::reaches(segment.ack, state.next[1]) {
            return judgement(Made::blind(Reason::LeftToDaemon));
        }
        let made = verb::read_command(text, segment.len, &key.client);
        return judgement(command(made, key, state, policy, rules));
    }
    let replies = if one_line && printable && state.multiline == 0 {
        reply::read_single(text)
    } else {
        reply::read_lines(text, segment.len, state.multiline)
    };
    judgement(server(text, segment, &replies, key, state, policy, rules))
}

/// Changes a session's state as a judgement says, all but the pinhole.
#[inline(always)]
pub fn apply(state: &mut SessionState, segment: &Segment, judgement: &Judgement) {
    let Judgement { made, hash } = *judgement;
    let end = segment.seq.wrapping_add(segment.len);
    let client = segment.side == CLIENT;
    state.version = state.version.wrapping_add(1);
    if made.has(bit::BLIND) {
        state.flags |= flag::BLIND;
        state.epoch = state.epoch.wrapping_add(1);
        state.blind_reason = made.reason();
        state.multiline = 0;
        state.active_kind = 0;
    }
    // The high-water mark goes on in a blind session too; what lies absurdly far ahead is no part of the stream.
    let next = if client { state.next[0] } else { state.next[1] };
    let step = tcp::distance(end, next);
    if step > 0 && step <= WINDOW && segment.len > 0 {
        if client {
            state.next[0] = end;
            state.last_len[0] = segment.len;
            state.last_hash[0] = hash;
        } else {
            state.next[1] = end;
            state.last_len[1] = segment.len;
            state.last_hash[1] = hash;
        }
    }
    if made.has(bit::FIN) {
        state.flags |= if client { flag::FIN_CLIENT } else { flag::FIN_SERVER };
    }
    if made.has(bit::RESET) {
        state.flags |= flag::RESET;
    }
    if made.has(bit::LOGIN) {
        state.flags |= flag::LOGGED_IN;
    }
    if made.has(bit::LOGOUT) {
        state.flags &= !(flag::LOGGED_IN | flag::ARMED);
    }
    if made.has(bit::REVOKE) {
        state.flags &= !flag::ARMED;
        state.active_kind = 0;
    }
    if made.has(bit::PENDING) {
        state.unanswered = 1;
        state.pending = made.kind();
        state.command_end = end;
        if made.kind() == pending::PORT || made.kind() == pending::EPRT {
            state.active_port = made.port();
            state.active_kind = made.kind();
            state.flags &= !flag::ARMED;
        } else if made.kind() == pending::PASV || made.kind() == pending::EPSV || made.has(bit::OPEN) {
            state.active_kind = 0;
            state.flags &= !flag::ARMED;
        }
    }
    if made.has(bit::ANSWERED) {
        state.unanswered = 0;
        state.pending = pending::NONE;
        if made.has(bit::ARM) {
            state.flags |= flag::ARMED;
        }
    }
    if !client && made.has(bit::JUDGED) {
        state.multiline = made.multiline();
    }
}

/// The pinhole that an announcement of this session opens, for `kind` (`pending::PASV` and so on).
#[inline(always)]
pub fn pinhole_key(key: &SessionKey, client_hook: u8, kind: u8, port: u16) -> PinholeKey {
    if kind == pending::PASV || kind == pending::EPSV {
        PinholeKey { initiator: key.client, responder: key.server, port, hook: client_hook, pad: 0 }
    } else {
        PinholeKey { initiator: key.server, responder: key.client, port, hook: client_hook ^ 1, pad: 0 }
    }
}

/// What kind of announcement opened, when [`bit::OPEN`] is set: `state` is the one before [`apply`].
#[inline(always)]
pub fn opened_kind(state: &SessionState, made: Made) -> u8 {
    if made.has(bit::PENDING) {
        let kind = made.kind();
        if kind == pending::PORT || kind == pending::EPRT { kind } else { state.active_kind }
    } else {
        state.pending
    }
}

/// Sequence space around the next byte that can belong to a control connection's stream at all: the kernel's reader and the
/// daemon's must draw the line at the same place, or one forged segment would keep them apart for good.
pub const WINDOW: i32 = 1 << 20;

/// FIN at the end of what is in order, RST at exactly the next sequence number (RFC 5961 section 3.2): behind the FIN,
/// which counts for one, if the side has sent it.
#[inline(always)]
fn end_of_stream(segment: &Segment, ahead: i32, finished: bool) -> u64 {
    if segment.flags & tcp::RST != 0 {
        return if ahead == 0 || (finished && ahead == 1) { bit::RESET | bit::REVOKE } else { 0 };
    }
    if segment.flags & tcp::FIN != 0 && ahead == 0 {
        return bit::FIN | bit::REVOKE;
    }
    0
}

/// Bytes that were seen before: the last segment again, or the daemon's business.
#[inline(always)]
fn old(segment: &Segment, state: &SessionState, ahead: i32, hash: u64) -> Made {
    // A FIN behind old bytes is new: it takes up the next sequence number.
    let fin = (segment.flags & tcp::FIN != 0) as i32;
    if ahead + segment.len as i32 + fin > 0 {
        return Made::blind(Reason::OldAndNew);
    }
    let client = segment.side == CLIENT;
    let last_len = if client { state.last_len[0] } else { state.last_len[1] };
    let last_hash = if client { state.last_hash[0] } else { state.last_hash[1] };
    if ahead + segment.len as i32 == 0 && segment.len == last_len && hash == last_hash && hash != 0 {
        return Made(bit::OLD);
    }
    Made::blind(Reason::OldDiffers)
}

/// The policy's word on a command.
#[inline(always)]
fn command<R: Rules>(made: Made, key: &SessionKey, state: &SessionState, policy: &KernelPolicy, rules: R) -> Made {
    if !made.has(bit::PENDING) {
        return made;
    }
    let kind = made.kind();
    if kind == pending::PORT || kind == pending::EPRT {
        if refused(kind, made.port() as u32, key, state, policy, rules) {
            return Made::blind(Reason::LeftToDaemon);
        }
        return if opens_at_command(state, policy) { Made(made.0 | bit::OPEN) } else { made };
    }
    if made.has(bit::ARM) {
        let made = Made(made.0 & !bit::ARM);
        if state.flags & flag::ARMED == 0 || state.active_kind == 0 {
            return made;
        }
        if refused(state.active_kind, state.active_port as u32, key, state, policy, rules) {
            return Made::blind(Reason::LeftToDaemon);
        }
        return Made(made.0 | bit::OPEN).with_port(state.active_port as u32);
    }
    made
}

/// What a segment of replies does.
#[inline(always)]
fn server<T: Text, R: Rules>(
    text: T,
    segment: &Segment,
    replies: &reply::Replies,
    key: &SessionKey,
    state: &SessionState,
    policy: &KernelPolicy,
    rules: R,
) -> Made {
    if replies.why != 0 {
        return Made(bit::BLIND | (replies.why as u64) << 48);
    }
    let open = Made(bit::JUDGED | ((replies.open & 0x3ff) as u64) << 22);
    if replies.code == 0 {
        return open;
    }
    if state.unanswered == 0 {
        return Made::blind(Reason::Unsolicited);
    }
    if !tcp::reaches(segment.ack, state.command_end) {
        return Made::blind(Reason::EarlyReply);
    }
    let answered = Made(open.0 | bit::ANSWERED);
    let code = replies.code;
    match state.pending {
        pending::GREETING => match code {
            220 => answered,
            230 => Made(answered.0 | bit::LOGIN),
            _ => Made::blind(Reason::BadCode),
        },
        pending::LOGIN => match code {
            230 => Made(answered.0 | bit::LOGIN),
            // 202 and 232: logged in or not? The daemon knows the whole exchange.
            200..=299 => Made::blind(Reason::LeftToDaemon),
            _ => answered,
        },
        pending::PASV | pending::EPSV => {
            if code != 227 && code != 229 {
                return if code < 300 { Made::blind(Reason::LeftToDaemon) } else { answered };
            }
            let port = if replies.multi || (code == 227) != (state.pending == pending::PASV) {
                0
            } else if code == 227 {
                text.read_227(replies.at, &key.server)
            } else {
                text.read_229(replies.at)
            };
            if port == 0 {
                return Made::blind(Reason::BadArgument);
            }
            if refused(state.pending, port, key, state, policy, rules) {
                return Made::blind(Reason::LeftToDaemon);
            }
            Made(answered.0 | bit::OPEN).with_port(port)
        }
        pending::PORT | pending::EPRT => {
            if code >= 300 {
                return Made(answered.0 | bit::REVOKE);
            }
            if code != 200 || replies.multi {
                return Made::blind(Reason::LeftToDaemon);
            }
            if opens_at_command(state, policy) {
                return answered;
            }
            if policy.active_open == active_open::TRANSFER {
                return Made(answered.0 | bit::ARM);
            }
            if refused(state.pending, state.active_port as u32, key, state, policy, rules) {
                return Made::blind(Reason::LeftToDaemon);
            }
            Made(answered.0 | bit::OPEN).with_port(state.active_port as u32)
        }
        _ => {
            // A 227 or 229 that no command asked for is the daemon's to report.
            if code == 227 || code == 229 { Made::blind(Reason::Unsolicited) } else { answered }
        }
    }
}

/// Whether PORT and EPRT open when the command is seen, in this session.
#[inline(always)]
fn opens_at_command(state: &SessionState, policy: &KernelPolicy) -> bool {
    state.client_hook == HOOK_IN
        && (policy.active_open == active_open::AUTO || policy.active_open == active_open::COMMAND)
}

/// Whether the policy says no, or leaves it to the daemon to say so.
#[inline(always)]
fn refused<R: Rules>(
    kind: u8,
    port: u32,
    key: &SessionKey,
    state: &SessionState,
    policy: &KernelPolicy,
    rules: R,
) -> bool {
    if state.flags & flag::LOGGED_IN == 0
        || policy.modes >> (kind & 7) & 1 == 0
        || port < 1024
        || policy.flags & policy_flag::NO_FAST_PATH != 0
        || rules.port_denied(port)
    {
        return true;
    }
    // After EPSV ALL nothing else is allowed (RFC 2428 section 4).
    if kind != pending::EPSV && state.flags & flag::EPSV_ALL != 0 {
        return true;
    }
    if kind == pending::PASV || kind == pending::EPSV {
        if policy.servers == 0 {
            return false;
        }
        let (low, high) = rules.passive_range(&key.server);
        return port < low || port > high;
    }
    // An outside server connecting in needs the administrator's word.
    state.client_hook != HOOK_IN && policy.flags & policy_flag::ACTIVE_INBOUND == 0
}

/// The other side.
#[inline(always)]
pub const fn other(side: u8) -> u8 {
    if side == CLIENT { SERVER } else { CLIENT }
}

#[cfg(test)]
mod tests;
