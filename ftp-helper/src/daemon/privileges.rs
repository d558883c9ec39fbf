//! Giving up every right that the daemon does not need once its tables are there.

use std::collections::HashSet;

use anyhow::Context as _;
use caps::{CapSet, Capability};

use crate::dataplane::NEEDED;

/// Keeps the capabilities that programs, interfaces, connection tracking, sets of nftables and parked SYNs take, and gives up
/// all others for good: of this thread and of those that it starts, and of what it might execute.
///
/// # Errors
/// When the kernel refuses, which leaves more rights than there should be.
pub(super) fn give_up() -> anyhow::Result<()> {
    nix::sys::prctl::set_no_new_privs().context("can't give up new privileges")?;
    let needed: HashSet<Capability> = NEEDED.into();
    let held = caps::read(None, CapSet::Permitted).context("can't read the capabilities")?;
    // Without CAP_SETPCAP the bounding set stays as it is; by then nothing can be gained from it any more.
    if held.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).context("can't read the bounding set")?;
        for capability in bounding.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability).with_context(|| format!("can't drop {capability}"))?;
        }
    }
    // CAP_SYS_ADMIN may stand for what was split off it, where that is all there is.
    let stands_in = held.contains(&Capability::CAP_SYS_ADMIN) && !needed.is_subset(&held);
    let kept: HashSet<Capability> =
        held.into_iter().filter(|c| needed.contains(c) || stands_in && *c == Capability::CAP_SYS_ADMIN).collect();
    caps::clear(None, CapSet::Ambient).context("can't clear the ambient capabilities")?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let kept = if matches!(set, CapSet::Inheritable) { HashSet::new() } else { kept.clone() };
        caps::set(None, set, &kept).with_context(|| format!("can't give up capabilities ({set:?})"))?;
    }
    Ok(())
}
