//! Reading the ring buffers: at once when woken, by timer while records flow, asleep otherwise.
//!
//! The kernel wakes the daemon for the first record after a pause, and for every record of a blind session. In between
//! the daemon looks by itself every few milliseconds: each wake-up costs some microseconds on the packet path, and each look takes
//! a processor from whoever had it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{io::unix::AsyncFd, time::sleep};

use crate::dataplane::{Dataplane, Ring, RingReader};

/// How often the daemon looks while records flow.
pub const LOOK: Duration = Duration::from_millis(4);
/// Looks in vain before it sleeps.
const PATIENCE: u32 = 5;
/// Records of one ring buffer in a row; then others have their turn.
const BATCH: usize = 512;

/// The ring buffers.
pub(super) struct Rings {
    events: AsyncFd<RingReader>,
    telemetry: AsyncFd<RingReader>,
    parked: AsyncFd<RingReader>,
    in_vain: u32,
    awake: bool,
}

/// What a look into the ring buffers has found.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// Records.
    pub(super) any: bool,
    /// No more than were read of those that the engine decides by.
    pub(super) all: bool,
}

impl Rings {
    /// Takes the ring buffers of the kernel side.
    pub(super) fn open(plane: &mut Dataplane) -> anyhow::Result<Self> {
        let mut ring = |ring| -> anyhow::Result<AsyncFd<RingReader>> {
            // SAFETY: the reader owns its descriptor and keeps it open and the same for as long as it lives.
            unsafe { AsyncFd::register_with_interest(plane.take_ring(ring)?, tokio::io::Interest::READABLE) }
                .context("can't wait for the kernel's records")
        };
        // Awake from the start: a daemon before this one may have left records behind.
        Ok(Self {
            events: ring(Ring::Events)?,
            telemetry: ring(Ring::Telemetry)?,
            parked: ring(Ring::Parked)?,
            in_vain: 0,
            awake: true,
        })
    }

    /// Waits until there may be records.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let look = async { if self.awake { sleep(LOOK).await } else { std::future::pending().await } };
        tokio::select! {
            biased;
            r = self.events.readable() => r?.clear_ready(),
            r = self.parked.readable() => r?.clear_ready(),
            r = self.telemetry.readable() => r?.clear_ready(),
            () = look => {}
        }
        Ok(())
    }

    /// Hands some records to `f`, those that matter most first; what it found.
    pub(super) fn read(&mut self, mut f: impl FnMut(Ring, &[u8])) -> anyhow::Result<Found> {
        let mut found = Found { any: false, all: true };
        for (ring, reader) in [
            (Ring::Events, self.events.get_mut()),
            (Ring::Parked, self.parked.get_mut()),
            (Ring::Telemetry, self.telemetry.get_mut()),
        ] {
            let mut n = 0;
            while n < BATCH && reader.next(|record| f(ring, record))? {
                n += 1;
            }
            found.any |= n > 0;
            found.all &= n < BATCH || ring != Ring::Events;
        }
        Ok(found)
    }

    /// Goes to sleep after a while without records, stays awake while there are some. Returns true when it has just
    /// allowed the kernel to wake it: then it must look once more.
    pub(super) fn rest(&mut self, plane: &mut Dataplane, any: bool) -> anyhow::Result<bool> {
        if any {
            self.in_vain = 0;
            self.awake = true;
            return Ok(false);
        }
        self.in_vain += 1;
        if !self.awake || self.in_vain < PATIENCE {
            return Ok(false);
        }
        self.awake = false;
        plane.set_awake(Ring::Events, false)?;
        plane.set_awake(Ring::Telemetry, false)?;
        Ok(true)
    }
}
