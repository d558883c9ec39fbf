//! What daemons before this one have left that this one does not take over: it goes once our own programs are in place.

use aya::programs::{TcAttachType, tc::SchedClassifierLink};

use super::{AttachKind, Attached, Dataplane, attach, netlink, shield};

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
        let mut names: Vec<String> = Vec::new();
        for prefix in [attach::FILTER, attach::QDISC] {
            names.extend(pins.names(prefix).iter().filter_map(|n| n.strip_prefix(prefix)).map(str::to_owned));
        }
        names.sort();
        names.dedup();
        for name in names {
            if !self.attached.iter().any(|a| a.kind == AttachKind::Clsact && attach::as_pin(&a.name) == name) {
                self.remove_filters(&name)?;
            }
        }
        Ok(())
    }

    /// Removes our filters from an interface, and its clsact qdisc if a daemon has made it. The interface may be gone.
    pub(super) fn remove_filters(&self, name: &str) -> anyhow::Result<()> {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            if let Ok(link) = SchedClassifierLink::attached(name, direction, attach::PRIORITY, attach::HANDLE, None) {
                drop(link);
            }
        }
        let qdisc = format!("{}{}", attach::QDISC, attach::as_pin(name));
        if self.pins.as_ref().is_none_or(|p| p.has(&qdisc))
            && let Ok(index) = nix::net::if_::if_nametoindex(name)
            && let Err(e) = netlink::delete_clsact(index)
        {
            tracing::warn!("can't remove the clsact qdisc of {name}: {e}");
        }
        if let Some(pins) = &self.pins {
            pins.remove(&qdisc)?;
            pins.remove(&format!("{}{}", attach::FILTER, attach::as_pin(name)))?;
        }
        Ok(())
    }
}
