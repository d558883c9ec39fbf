//! What a world has seen.

/// What a world has seen, so that a run can tell that it was about something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Steps.
    pub steps: u64,
    /// Sessions.
    pub sessions: u64,
    /// Announcements that opened by right.
    pub announcements: u64,
    /// Of them, opened by the fast path.
    pub fast: u64,
    /// Data connections.
    pub used: u64,
    /// SYNs that were denied.
    pub denied: u64,
    /// Parked SYNs that were sent on.
    pub unparked: u64,
    /// Times that a session was sighted again.
    pub resynced: u64,
    /// Two CPUs at one session.
    pub races: u64,
    /// Records that found no room.
    pub ring_full: u64,
    /// Segments that passed unrecorded.
    pub unrecorded: u64,
    /// Sessions that were tainted, killed, or opaque.
    pub barred: u64,
    /// Sessions that a daemon took over.
    pub adopted: u64,
    /// Announcements that were refused.
    pub refused: u64,
    /// SYNs into the range of an encrypted session.
    pub in_range: u64,
    /// Parked SYNs that were denied after all.
    pub given_up: u64,
    /// Pinholes that a reset gave back.
    pub rearmed: u64,
    /// Packets that the line has damaged.
    pub damaged: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, o: Self) {
        self.steps += o.steps;
        self.sessions += o.sessions;
        self.announcements += o.announcements;
        self.fast += o.fast;
        self.used += o.used;
        self.denied += o.denied;
        self.unparked += o.unparked;
        self.resynced += o.resynced;
        self.races += o.races;
        self.ring_full += o.ring_full;
        self.unrecorded += o.unrecorded;
        self.barred += o.barred;
        self.adopted += o.adopted;
        self.refused += o.refused;
        self.in_range += o.in_range;
        self.given_up += o.given_up;
        self.rearmed += o.rearmed;
        self.damaged += o.damaged;
    }
}
