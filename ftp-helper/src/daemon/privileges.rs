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
    // A service manager that gives no more than is needed may also forbid capset(2): what is right already is not set again.
    for set in [CapSet::Effective, CapSet::Permitted] {
        let now = caps::read(None, set).context("can't read the capabilities")?;
        let kept: HashSet<Capability> = now.intersection(&kept).copied().collect();
        if kept != now {
            caps::set(None, set, &kept).with_context(|| format!("can't give up capabilities ({set:?})"))?;
        }
    }
    // What programs would inherit that the daemon executed. It executes none.
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        if caps::read(None, set).is_ok_and(|now| !now.is_empty())
            && let Err(e) = caps::clear(None, set)
        {
            tracing::debug!("can't clear the capabilities of other programs: {e}");
        }
    }
    Ok(())
}
