//! What daemons before this one have left that this one does not take over: it goes once our own programs are in place. And what
//! they have left when there is to be no other.

use aya::programs::{TcAttachType, tc::SchedClassifierLink};

use super::{AttachKind, Attached, Dataplane, PinDir, attach, netlink, shield};

/// Whether daemons of this instance that are gone have left anything in the kernel.
///
/// # Errors
/// When the BPF file system can't be looked at.
pub fn is_left(instance: &str) -> anyhow::Result<bool> {
    Ok(!PinDir::left(instance)?.is_empty())
}

/// Detaches what daemons of this instance that are gone have left, and removes their tables, whatever version they were of; whether
/// there was anything. Nothing is loaded for it. No daemon of this instance may be running.
///
/// # Errors
/// When something can't be removed.
pub fn detach_left(instance: &str) -> anyhow::Result<bool> {
    let layouts = PinDir::left(instance)?;
    for pins in &layouts {
        for name in marked(pins)? {
            remove_filters(Some(pins), &name)?;
        }
    }
    // Links end with their pins.
    layouts.first().map_or(Ok(false), |pins| pins.remove_all().map(|()| true))
}

impl Dataplane {
    /// Removes the tables and links of daemons of other versions or sizes, and programs on interfaces that are not attached to any
    /// more, or were attached to in another way, or in XDP where there is to be no shield.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove_leftovers(&self) -> anyhow::Result<()> {
        let Some(pins) = &self.pins else { return Ok(()) };
        let of_others = pins.remove_others()?;
        if of_others > 0 {
            tracing::warn!(
                "a daemon of another version, or with other sizes, has left its tables: they are rebuilt. Connections that it had \
                 followed pass and open nothing any more; what it guarded was guarded all the time"
            );
        }
        for pin in pins.names("link-") {
            let attached = |a: &Attached| {
                let by_link = a.kind != AttachKind::Clsact;
                by_link && attach::words().any(|word| attach::pin_name(a.index, word) == pin)
                    || a.shield.is_some_and(|kind| shield::pin_name(a.index, kind) == pin)
            };
            if !self.attached.iter().any(attached) {
                pins.remove(&pin)?;
            }
        }
        for name in marked(pins)? {
            let attached = |a: &Attached| attach::as_pin(&a.name) == attach::as_pin(&name);
            if !self.attached.iter().any(|a| a.kind == AttachKind::Clsact && attached(a)) {
                self.remove_filters(&name)?;
            }
        }
        Ok(())
    }

    /// Removes our filters from an interface, and its clsact qdisc if a daemon has made it. The interface may be gone.
    pub(super) fn remove_filters(&self, name: &str) -> anyhow::Result<()> {
        remove_filters(self.pins.as_ref(), name)
    }
}

fn remove_filters(pins: Option<&PinDir>, name: &str) -> anyhow::Result<()> {
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        if let Ok(link) = SchedClassifierLink::attached(name, direction, attach::PRIORITY, attach::HANDLE, None) {
            drop(link);
        }
    }
    let qdisc = format!("{}{}", attach::QDISC, attach::as_pin(name));
    if pins.is_none_or(|p| p.has(&qdisc))
        && let Ok(index) = nix::net::if_::if_nametoindex(name)
        && let Err(e) = netlink::delete_clsact(index)
    {
        tracing::warn!("can't remove the clsact qdisc of {name}: {e}");
    }
    if let Some(pins) = pins {
        pins.remove(&qdisc)?;
        pins.remove(&format!("{}{}", attach::FILTER, attach::as_pin(name)))?;
    }
    Ok(())
}

/// The interfaces that are marked as having our filters or a qdisc that we have made. One that is gone has the name that its mark
/// has.
fn marked(pins: &PinDir) -> anyhow::Result<Vec<String>> {
    let interfaces = super::interfaces()?;
    let mut names: Vec<String> = Vec::new();
    for prefix in [attach::FILTER, attach::QDISC] {
        for pin in pins.names(prefix) {
            let mark = pin.strip_prefix(prefix).unwrap_or(&pin);
            let there = interfaces.keys().find(|name| attach::as_pin(name) == mark);
            names.push(there.map_or(mark, String::as_str).to_owned());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}
