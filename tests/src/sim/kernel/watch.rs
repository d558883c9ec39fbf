//! Control connections.

use ftp_helper_common::{
    canon::{
        self, Judgement, Made, Segment, bit,
        host::{HostRules, HostText},
    },
    command::Outcome,
    key::{CLIENT, PinholeKey, SERVER, SessionKey},
    policy::policy_flag,
    reason::Reason,
    record::{CHUNK, SegmentRecord, kind},
    state::{BlindPair, HalfOpen, PinholeState, SessionState, flag, pending, pinhole_flag},
    tcp,
};

use super::{Happened, InFlight, Kernel, Packet, Rec, Taken, Verdict, guard::pair, put_lru, range::range_key};

const SIGN_OF_LIFE: u64 = 1_000_000_000;
const PARK_FOR: u64 = 1_000_000_000;
const PARK_BUDGET: u32 = 8;

impl Kernel {
    pub(super) fn watch(&mut self, now: u64, hook: u8, side: u8, p: &Packet) -> Taken {
        let (c, s) = if side == CLIENT { (p.from, p.to) } else { (p.to, p.from) };
        let key = SessionKey { client: c.addr, server: s.addr, client_port: c.port, server_port: s.port };
        if p.flags & tcp::SYN != 0 {
            return Taken::Done(self.handshake(side, hook, p, &key));
        }
        let bare = p.data.is_empty() && p.flags & (tcp::FIN | tcp::RST) == 0;
        let waits = side == CLIENT && self.half_open.contains_key(&key);
        if bare {
            return Taken::Done(if waits { self.begin(now, hook, p, &key) } else { Verdict::Pass });
        }
        if waits && !self.sessions.contains_key(&key) {
            let verdict = self.begin(now, hook, p, &key);
            if verdict != Verdict::Pass {
                return Taken::Done(verdict);
            }
        }
        if self.sessions.contains_key(&key) {
            return self.followed(now, hook, side, p, &key);
        }
        if !p.data.is_empty() && self.midstream.insert(key) {
            let record = describe(now, hook, side, p, &key, &SessionState::default());
            self.stray(record, Reason::Midstream);
        }
        Taken::Done(Verdict::Pass)
    }

    /// Commits a segment that was judged: it passes.
    pub fn commit(&mut self, f: &InFlight) {
        let InFlight { key, snapshot, segment, judgement, opened, unseen, recorded, time } = f;
        let made = judgement.made;
        let (old, id) = (snapshot.pinhole, snapshot.id);
        let mut next = *snapshot;
        canon::apply(&mut next, segment, judgement);
        next.last = *time;
        if *recorded {
            next.flags &= !flag::UNRECORDED;
        }
        next.flags |= unseen;
        if made.has(bit::OPEN) {
            next.pinhole = *opened;
            next.pinhole_seq = segment.seq;
        } else if made.has(bit::REVOKE) {
            next.pinhole = PinholeKey::NONE;
        }
        let closing = next.flags & flag::CLOSING != 0;
        let ends = next.flags & flag::CLOSING & !snapshot.flags;
        let mut ranged = false;
        if closing {
            next.flags &= !flag::RANGE;
        }
        let (mut lost, mut twice, mut theirs) = (false, false, PinholeKey::NONE);
        if let Some(e) = self.sessions.get_mut(key).filter(|e| e.id == id) {
            if e.version == snapshot.version {
                ranged = closing && e.flags & flag::RANGE != 0;
                *e = next;
            } else {
                lost = true;
                twice = e.pinhole_seq == segment.seq && e.pinhole == *opened;
                e.version = e.version.wrapping_add(1);
                e.epoch = e.epoch.wrapping_add(1);
                e.flags |= flag::BLIND | unseen | ends;
                if ends != 0 {
                    ranged = e.flags & flag::RANGE != 0;
                    e.flags &= !flag::RANGE;
                }
                if made.has(bit::REVOKE) || (made.has(bit::OPEN) && !twice) {
                    theirs = std::mem::replace(&mut e.pinhole, PinholeKey::NONE);
                }
                e.blind_reason = Reason::Race as u16;
                let end = segment.seq.wrapping_add(segment.len);
                let mark = &mut e.next[usize::from(segment.side)];
                if tcp::distance(end, *mark) > 0 {
                    *mark = end;
                }
            }
        }
        if ranged {
            self.release_range(&range_key(key, snapshot.client_hook));
        }
        if lost {
            self.happened.push(Happened::Raced(id));
            if made.has(bit::OPEN) && !twice {
                self.remove_pinhole(opened, id);
            }
            self.remove_pinhole(&theirs, id);
        }
        let gone = made.has(bit::REVOKE) || (made.has(bit::OPEN) && !lost && old != *opened);
        if gone && old.port != 0 {
            self.remove_pinhole(&old, id);
        }
    }

    fn handshake(&mut self, side: u8, hook: u8, p: &Packet, key: &SessionKey) -> Verdict {
        let answer = p.flags & tcp::ACK != 0;
        if p.flags & (tcp::RST | tcp::FIN) != 0 || answer == (side == CLIENT) {
            return Verdict::Pass;
        }
        if !answer {
            if !p.data.is_empty() {
                let half = HalfOpen { data_in_syn: 1, client_hook: hook, ..HalfOpen::default() };
                put_lru(&mut self.half_open, *key, half);
            }
            return Verdict::Pass;
        }
        if self.sessions.get(key).is_some_and(|s| s.flags & flag::CLOSING == 0) {
            return Verdict::Pass;
        }
        let data_in_syn = self.half_open.get(key).map_or(0, |h| h.data_in_syn);
        let start = [p.ack, p.seq.wrapping_add(1)];
        put_lru(
            &mut self.half_open,
            *key,
            HalfOpen { start, client_hook: hook ^ 1, data_in_syn, ..HalfOpen::default() },
        );
        Verdict::Pass
    }

    fn begin(&mut self, now: u64, hook: u8, p: &Packet, key: &SessionKey) -> Verdict {
        let Some(half) = self.half_open.get(key).copied() else { return Verdict::Pass };
        if p.flags & (tcp::ACK | tcp::RST) != tcp::ACK
            || p.seq != half.start[0]
            || p.ack != half.start[1]
            || half.client_hook != hook
        {
            return Verdict::Pass;
        }
        self.half_open.remove(key);
        if let Some(old) = self.sessions.get(key).copied() {
            if old.flags & flag::CLOSING == 0 {
                return Verdict::Pass;
            }
            if old.flags & flag::RANGE != 0 {
                self.release_range(&range_key(key, old.client_hook));
            }
            self.remove_pinhole(&old.pinhole, old.id);
            self.sessions.remove(key);
        }
        self.last_id += 1;
        let state = SessionState {
            id: self.last_id,
            last: now,
            start: half.start,
            next: half.start,
            command_end: half.start[0],
            unanswered: 1,
            pending: pending::GREETING,
            client_hook: hook,
            ..SessionState::default()
        };
        let mut record = describe(now, hook, CLIENT, p, key, &state);
        (record.kind, record.segment_len) = (kind::SESSION, 0);
        if half.data_in_syn != 0 || self.sessions.len() >= self.sizes.sessions {
            let reason = if half.data_in_syn != 0 { Reason::DataInSyn } else { Reason::SessionsFull };
            self.stray(record, reason);
            self.midstream.insert(*key);
            return Verdict::Pass;
        }
        self.sessions.insert(*key, state);
        if !self.record(Rec::Session(record)) {
            let unseen = if self.is_stale(now) {
                flag::UNRECORDED
            } else if self.observes() {
                flag::LOST
            } else {
                self.sessions.remove(key);
                put_lru(&mut self.half_open, *key, half);
                return Verdict::Drop;
            };
            if let Some(s) = self.sessions.get_mut(key) {
                s.flags |= unseen;
            }
            self.happened.push(Happened::Unrecorded(self.last_id));
        }
        self.happened.push(Happened::Session(*key, self.last_id));
        Verdict::Pass
    }

    fn followed(&mut self, now: u64, hook: u8, side: u8, p: &Packet, key: &SessionKey) -> Taken {
        let snapshot = self.sessions[key];
        let len = p.data.len() as u32;
        let segment = Segment { side, flags: p.flags, fragment: false, seq: p.seq, ack: p.ack, len };
        let record = describe(now, hook, side, p, key, &snapshot);
        let wrong = if hook != snapshot.client_hook ^ side {
            Some(Reason::WrongHook)
        } else if snapshot.flags & flag::KILLED != 0 {
            Some(Reason::Killed)
        } else if p.damaged && snapshot.flags & (flag::OPAQUE | flag::TAINTED | flag::LOST) == 0 {
            Some(Reason::BadChecksum)
        } else {
            None
        };
        if let Some(reason) = wrong {
            self.stray(record, reason);
            return Taken::Done(self.drops());
        }
        let unread = snapshot.flags & (flag::OPAQUE | flag::TAINTED | flag::LOST) != 0;
        let (mut judgement, opened) = self.consider(now, &segment, p, key, &snapshot);
        let blind = !unread && (snapshot.flags & flag::BLIND != 0 || judgement.made.has(bit::BLIND));
        if blind && len != 0 {
            let entry = BlindPair { until: now + PARK_FOR, budget: PARK_BUDGET, pad: 0 };
            put_lru(&mut self.blind_pairs, pair(p), entry);
        }
        let made = judgement.made;
        let wanted =
            !unread || made.has(bit::FIN) || made.has(bit::RESET) || now.saturating_sub(snapshot.last) > SIGN_OF_LIFE;
        let record = SegmentRecord { made, endpoint_port: made.port(), ..record };
        let mut unseen = 0;
        if wanted && !self.record_segment(record, if unread { &[] } else { &p.data }) {
            if self.is_stale(now) {
                unseen = flag::UNRECORDED;
                if len != 0 && !blind && !made.has(bit::JUDGED) && !made.has(bit::OLD) {
                    judgement.made = Made(made.0 | Made::blind(Reason::DaemonLoss).0);
                }
            } else if self.observes() {
                unseen = flag::LOST;
            } else {
                if made.has(bit::OPEN) {
                    self.remove_pinhole(&opened, snapshot.id);
                }
                return Taken::Done(Verdict::Drop);
            }
            self.happened.push(Happened::Unrecorded(snapshot.id));
        }
        let recorded = wanted && unseen == 0;
        Taken::Judged(Box::new(InFlight {
            key: *key,
            snapshot,
            segment,
            judgement,
            opened,
            unseen,
            recorded,
            time: now,
        }))
    }

    fn consider(
        &mut self,
        now: u64,
        segment: &Segment,
        p: &Packet,
        key: &SessionKey,
        state: &SessionState,
    ) -> (Judgement, PinholeKey) {
        let mut text = HostText::new(&p.data);
        let rules = HostRules { denied: &self.denied, range: self.range };
        let judgement = canon::judge(text.handle(), segment, key, state, &self.policy, rules);
        let made = judgement.made;
        if !made.has(bit::OPEN) {
            return (judgement, PinholeKey::NONE);
        }
        let mode = canon::opened_kind(state, made);
        let pin = canon::pinhole_key(key, state.client_hook, mode, made.port());
        let active = mode == pending::PORT || mode == pending::EPRT;
        let source_20 = active && self.policy.flags & policy_flag::SOURCE_20 != 0;
        let hole = PinholeState {
            session: state.id,
            deadline: now + self.policy.timeout,
            seq: segment.seq,
            mode,
            flags: if source_20 { pinhole_flag::SOURCE_20 } else { 0 },
            control: [key.client_port, key.server_port],
            ..PinholeState::default()
        };
        let why = if self.is_closed(now) {
            Reason::DaemonLoss
        } else if self.open_pinhole(now, &pin, &hole, &state.pinhole) != Outcome::Done {
            Reason::LeftToDaemon
        } else {
            return (judgement, pin);
        };
        let made = Made(made.0 & (bit::FIN | bit::RESET | bit::REVOKE) | Made::blind(why).0);
        (Judgement { made, ..judgement }, PinholeKey::NONE)
    }

    /// Writes a segment, all of it or nothing.
    fn record_segment(&mut self, record: SegmentRecord, data: &[u8]) -> bool {
        if data.len() <= CHUNK {
            return self.record(Rec::Segment(record, data.to_vec()));
        }
        let needed = data.len() + (data.len() / CHUNK + 1) * (size_of::<SegmentRecord>() + 16);
        if self.events.room < needed {
            self.happened.push(Happened::RingFull);
            return false;
        }
        data.chunks(CHUNK).enumerate().all(|(i, part)| {
            self.record(Rec::Segment(SegmentRecord { offset: (i * CHUNK) as u32, ..record }, part.to_vec()))
        })
    }
}

fn describe(now: u64, hook: u8, side: u8, p: &Packet, key: &SessionKey, s: &SessionState) -> SegmentRecord {
    SegmentRecord {
        kind: kind::SEGMENT,
        side,
        tcp_flags: p.flags,
        hook,
        session: s.id,
        time: now,
        key: *key,
        seq: p.seq,
        ack: p.ack,
        segment_len: p.data.len() as u32,
        epoch: s.epoch,
        start: s.start,
        next: s.next,
        flags: s.flags,
        pending: s.pending,
        unanswered: s.unanswered,
        endpoint: if side == SERVER { key.server } else { key.client },
        client_hook: s.client_hook,
        ..SegmentRecord::default()
    }
}
