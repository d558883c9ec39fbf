//! What happens in a world, in the order in which it does.

use crate::sim::kernel::Packet;

/// What happens at some time.
#[derive(Debug)]
pub(super) enum Ev {
    /// A packet reaches the gateway.
    Gate(u8, Packet),
    /// A control segment that was judged is committed, and passes.
    Commit(usize),
    /// A packet reaches its host.
    Arrive(Packet),
    /// A socket's timer.
    Tick(usize),
    /// Somebody in a session has something to do.
    Drive(usize),
    /// An initiator tries again, from another port.
    Retry(usize),
    /// A SYN when the time of its pinhole is over.
    Late(usize, Packet),
    /// A session begins.
    Start(usize),
    /// A session that has not ended by itself is let go of.
    Reap(usize),
    /// The daemon looks at what there is.
    Daemon,
    /// The daemon's heartbeat.
    Beat,
    /// Somebody does something nasty.
    Attack,
    /// Something befalls the daemon.
    Outage,
    /// A dead daemon comes back.
    Back,
}

/// Something that happens at a time; of two at the same time, what was pushed first.
pub(super) struct Entry(pub(super) u64, pub(super) u64, pub(super) Ev);

impl PartialEq for Entry {
    fn eq(&self, o: &Self) -> bool {
        (self.0, self.1) == (o.0, o.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Entry {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(o.0, o.1))
    }
}
