//! What the audit holds against the kernel's tables: the unconsumed pinholes, some at a time.

use ftp_helper_common::key::PinholeKey;

use super::{Engine, pinhole::Pinhole, table::ByResponder};

/// Where going through the unconsumed pinholes has come to; the beginning by default.
#[derive(Clone, Copy, Default, Debug)]
pub struct Place(Option<ByResponder>);

impl Engine {
    /// The next unconsumed pinholes, `n` at most: the session's id, or the added one's own, the kernel's key, and the sequence number
    /// that engine and kernel call the announcement by. At the end it begins anew with the next call.
    pub fn next_pinholes(&self, place: &mut Place, n: usize) -> Vec<(u64, PinholeKey, u32)> {
        let listed: Vec<ByResponder> = self.core.unconsumed.behind(place.0).take(n).collect();
        place.0 = if listed.len() < n { None } else { listed.last().copied() };
        let owners = listed.into_iter().map(|(.., owner)| owner);
        owners.filter_map(|owner| self.unconsumed_of(owner).map(|p| (owner, p.key, p.seq))).collect()
    }

    /// Whether this is the unconsumed pinhole of the session, or the added one, with this id.
    pub fn has_pinhole(&self, owner: u64, key: &PinholeKey) -> bool {
        self.unconsumed_of(owner).is_some_and(|p| p.key == *key)
    }

    /// The same, and still that of this announcement.
    pub fn holds_pinhole(&self, owner: u64, key: &PinholeKey, seq: u32) -> bool {
        self.unconsumed_of(owner).is_some_and(|p| p.key == *key && p.seq == seq)
    }

    fn unconsumed_of(&self, owner: u64) -> Option<Pinhole> {
        let own = self.sessions.get(&owner).and_then(|s| s.pinhole);
        own.or_else(|| self.added.get(&owner).map(|a| a.hole))
    }
}

#[cfg(test)]
mod tests {
    use ftp_helper_common::{addr::Addr, key::HOOK_IN};

    use super::*;
    use crate::engine::{Order, Policy};

    #[test]
    fn each_pinhole_comes_once_a_round_however_many_are_asked_for() {
        let mut engine = Engine::new(Policy::default(), 0);
        let key = |port| PinholeKey {
            initiator: Addr::v4([203, 0, 113, 7]),
            responder: Addr::v4([192, 0, 2, 1]),
            port,
            hook: HOOK_IN,
            pad: 0,
        };
        let order = Order { uid: 0, note: "test".to_owned() };
        let mut place = Place::default();
        assert!(engine.next_pinholes(&mut place, 2).is_empty());
        let owners: Vec<u64> =
            (0..5).map(|n| engine.add_pinhole(1, key(40_000 + n), 1_000_000_000, &order).unwrap()).collect();
        let mut round = || -> Vec<u16> { engine.next_pinholes(&mut place, 2).iter().map(|(_, k, _)| k.port).collect() };
        for _ in 0..2 {
            assert_eq!([round(), round(), round()], [vec![40_000, 40_001], vec![40_002, 40_003], vec![40_004]]);
        }
        assert!(engine.holds_pinhole(owners[3], &key(40_003), 0));
        assert!(!engine.holds_pinhole(owners[3], &key(40_003), 1));
        assert!(!engine.holds_pinhole(owners[3], &key(40_002), 0));
        assert!(!engine.holds_pinhole(owners[3] + 100, &key(40_003), 0));
    }
}
