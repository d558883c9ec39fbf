//! Attaching to interfaces, and detaching without a trace.

use std::os::{linux::net::SocketAddrExt as _, unix::net::UnixDatagram};

use anyhow::{Context as _, anyhow};
use aya::{
    maps::HashMap,
    programs::{
        LinkOrder, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
};

use super::{Dataplane, ShieldKind, interfaces::Link, load::load_classifier};
use crate::error::{Code, Fault};

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachKind {
    /// TCX where the kernel has it, clsact otherwise.
    #[default]
    Auto,
    /// TCX links (Linux 6.6).
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

/// Programs on one interface.
#[derive(Debug)]
pub struct Attached {
    /// The interface's name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its link layer.
    pub link: Link,
    /// TCX or clsact.
    pub kind: AttachKind,
    /// Where its shield is, if it has one.
    pub shield: Option<ShieldKind>,
    /// Held while the programs are: nobody else attaches to the interface.
    _claim: UnixDatagram,
}

/// Priority and handle of our filters: fixed, so that a later daemon finds and replaces them.
pub(super) const PRIORITY: u16 = 0x2121;
pub(super) const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Beginnings of the marks of interfaces with our filters, and with a clsact qdisc that we have made.
pub(super) const FILTER: &str = "filter-";
pub(super) const QDISC: &str = "qdisc-";

impl Dataplane {
    /// Attaches to an interface: both hooks, and the shield if there is to be one, or nothing. Programs that an earlier daemon left there are replaced atomically.
    ///
    /// # Errors
    /// When another instance holds the interface, the link layer is not followed, or the kernel refuses.
    pub fn attach(&mut self, name: &str, index: u32) -> anyhow::Result<()> {
        let claim = claim(name)?;
        let link = Link::of(name)?;
        // First: what comes in by another outside interface is not judged again where it leaves.
        self.set_outside(index, true)?;
        let attached = self.attach_hooks(name, index, link).and_then(|()| self.attach_shield(name, index, link));
        let shield = match attached {
            Ok(shield) => shield,
            Err(e) => {
                self.detach_hooks(name, index);
                self.set_outside(index, false)?;
                return Err(e.context(format!("can't attach to {name}")));
            }
        };
        self.attached.push(Attached { name: name.into(), index, link, kind: self.kind, shield, _claim: claim });
        Ok(())
    }

    /// Forgets an interface that is gone, or detaches from one that is not wanted any more.
    ///
    /// # Errors
    /// When the tables can't be written.
    pub fn detach(&mut self, name: &str) -> anyhow::Result<()> {
        let Some(at) = self.attached.iter().position(|a| a.name == name) else { return Ok(()) };
        let gone = self.attached.remove(at);
        self.detach_hooks(&gone.name, gone.index);
        self.set_outside(gone.index, false)
    }

    /// Detaches from everything and removes every pin.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn detach_all(mut self) -> anyhow::Result<()> {
        while let Some(a) = self.attached.pop() {
            self.detach_hooks(&a.name, a.index);
        }
        match self.pins.take() {
            Some(pins) => pins.remove_all(),
            None => Ok(()),
        }
    }

    fn attach_hooks(&mut self, name: &str, index: u32, link: Link) -> anyhow::Result<()> {
        if self.kind == AttachKind::Clsact {
            self.add_clsact(name)?;
        }
        for (direction, word) in [(TcAttachType::Ingress, "in"), (TcAttachType::Egress, "out")] {
            let pin = pin_name(index, word);
            let path = self.pins.as_ref().map(|p| p.pin(&pin));
            let kind = self.kind;
            let program = load_classifier(&mut self.ebpf, program_name(direction, link))?;
            let id = match kind {
                AttachKind::Clsact => {
                    let old = SchedClassifierLink::attached(name, direction, PRIORITY, HANDLE, None)?;
                    program.attach_to_link(old).or_else(|_| {
                        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
                        program.attach_with_options(name, direction, TcAttachOptions::Netlink(options))
                    })?
                }
                _ => {
                    let old = path
                        .as_ref()
                        .filter(|p| p.exists())
                        .and_then(|p| SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(p).ok()?)).ok());
                    let replaced = match old {
                        // A link whose interface was made anew under the same number can't be updated.
                        Some(old) => program.attach_to_link(old).ok(),
                        None => None,
                    };
                    match replaced {
                        // Pinned already: what we hold of it would outlive the pin.
                        Some(id) => {
                            drop(program.take_link(id)?);
                            continue;
                        }
                        None => program.attach_with_options(
                            name,
                            direction,
                            TcAttachOptions::TcxOrder(LinkOrder::default()),
                        )?,
                    }
                }
            };
            if kind != AttachKind::Clsact && path.is_some() {
                let link: FdLink = program.take_link(id)?.try_into().map_err(|e| anyhow!("{e}"))?;
                self.keep(link, &pin)?;
            } else if kind == AttachKind::Clsact && self.pins.is_some() {
                // The filter stays when the daemon dies; it is removed by name.
                std::mem::forget(load_classifier(&mut self.ebpf, program_name(direction, link))?.take_link(id)?);
            }
        }
        Ok(())
    }

    /// Removes the programs of both hooks, and the shield. The interface may be gone, and its links with it: then there is
    /// nothing to remove.
    fn detach_hooks(&mut self, name: &str, index: u32) {
        self.detach_shield(index);
        if self.kind == AttachKind::Clsact {
            if let Err(e) = self.remove_filters(name) {
                tracing::warn!("{e:#}");
            }
            return;
        }
        for word in words() {
            if let Some(path) = self.pins.as_ref().map(|p| p.pin(&pin_name(index, word))) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Adds the clsact qdisc unless somebody else has, and remembers which; the marks come first, so that a daemon that dies on
    /// the way leaves nothing that the next one would not remove.
    fn add_clsact(&mut self, name: &str) -> anyhow::Result<()> {
        let mark = format!("{QDISC}{}", as_pin(name));
        let marked = self.pins.as_ref().is_some_and(|p| p.has(&mark));
        if let Some(pins) = &self.pins {
            pins.mark(&format!("{FILTER}{}", as_pin(name)))?;
            pins.mark(&mark)?;
        }
        match tc::qdisc_add_clsact(name) {
            Ok(()) => Ok(()),
            Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => match &self.pins {
                Some(pins) if !marked => pins.remove(&mark),
                _ => Ok(()),
            },
            Err(e) => Err(e).with_context(|| format!("can't add the clsact qdisc to {name}")),
        }
    }

    fn set_outside(&mut self, index: u32, outside: bool) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("OUTSIDE").ok_or_else(|| anyhow!("no table OUTSIDE in the object"))?;
        let mut map = HashMap::<_, u32, u32>::try_from(map)?;
        if outside {
            map.insert(index, 1, 0).context("can't note an outside interface")
        } else {
            // It is no error if it is not there.
            let _ = map.remove(&index);
            Ok(())
        }
    }
}

fn program_name(direction: TcAttachType, link: Link) -> &'static str {
    match (direction, link) {
        (TcAttachType::Ingress, Link::Ethernet) => "ftp_ingress",
        (TcAttachType::Ingress, Link::None) => "ftp_ingress_l3",
        (_, Link::Ethernet) => "ftp_egress",
        (_, Link::None) => "ftp_egress_l3",
    }
}

pub(super) fn pin_name(index: u32, word: &str) -> String {
    format!("link-{index}-{word}")
}

/// What the two hooks are called in the names of pins.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    ["in", "out"].into_iter()
}

/// An interface's name in that of a mark: bpffs reserves the dot.
pub(super) fn as_pin(name: &str) -> String {
    name.replace('.', "_")
}

/// Claims an interface for this process: an abstract socket, which the kernel keeps apart by network namespace and frees
/// when the process ends, however it ends.
fn claim(name: &str) -> anyhow::Result<UnixDatagram> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(format!("ftp-helper/interface/{name}"))?;
    UnixDatagram::bind_addr(&address).map_err(|e| {
        if e.kind() == std::io::ErrorKind::AddrInUse {
            Fault::new(
                Code::Failure,
                format!(
                    "another ftp-helper is attached to {name}: stop it first, or leave {name} out of watch.interfaces"
                ),
            )
            .into()
        } else {
            anyhow::Error::from(e).context(format!("can't claim {name}"))
        }
    })
}
