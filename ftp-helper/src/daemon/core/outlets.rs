//! Where the engine's word goes: to the kernel side, to whoever listens, and into sets of nftables.

use ftp_helper_common::{
    command::{Outcome, op},
    key::PinholeKey,
};

use crate::{
    api::History,
    daemon::clock,
    dataplane::{Dataplane, Parking},
    engine::{Action, Engine},
    event::SessionId,
    nft::Feeder,
};

/// Where the engine's word goes beside the kernel side: to whoever listens, and into sets of nftables.
pub(super) struct Outlets {
    pub(super) events: History,
    pub(super) feeder: Option<Feeder>,
}

impl Outlets {
    /// Makes the sets agree with what a session has open at this moment, or with an added pinhole, whatever has led there.
    pub(super) fn feed(&mut self, engine: &Engine, owner: u64) {
        if let Some(feeder) = &mut self.feeder {
            feeder.follow(owner, engine.pinhole(clock::now(), owner).as_ref());
        }
    }
}

/// Carries out what the engine wants.
pub(super) fn carry_out(
    engine: &mut Engine,
    plane: &mut Dataplane,
    parking: &mut Parking,
    outlets: &mut Outlets,
) -> anyhow::Result<()> {
    while let Some(action) = engine.poll_action() {
        match action {
            Action::Command(command) => {
                let outcome = plane.command(&command)?;
                if matches!(command.op, op::OPEN | op::ADD) && outcome == Outcome::Done {
                    release(parking, &command.pinhole);
                }
                engine.handle_outcome(clock::now(), &command, outcome);
            }
            Action::Event(event) => {
                if let Some(SessionId(owner)) = event.owner() {
                    outlets.feed(engine, owner);
                }
                outlets.events.push(event);
            }
        }
    }
    Ok(())
}

/// Sends on a SYN that was waiting for this pinhole.
pub(super) fn release(parking: &mut Parking, pinhole: &PinholeKey) {
    match parking.release(clock::now(), pinhole) {
        Ok(Some(waited)) => tracing::debug!("a SYN to port {} went on after {waited:?}", pinhole.port),
        Ok(None) => {}
        // Its sender tries again.
        Err(e) => tracing::warn!("a parked SYN to port {} could not be sent on: {e}", pinhole.port),
    }
}
