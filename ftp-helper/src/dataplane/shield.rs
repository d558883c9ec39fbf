//! The shield: the program in XDP of an interface, before the TC programs.
//!
//! The driver's own XDP (native) is tried first. Where the driver has none the stack's (generic) takes its place, which comes
//! later and saves less; never nothing. An interface has room for one program: another's stays.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use aya::programs::{
    XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{Dataplane, interfaces::Link, load::load_xdp};
use crate::error::{Code, Fault};

/// Whether there is to be a shield, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shield {
    /// None: TC alone.
    #[default]
    Off,
    /// Native where the driver has it, generic otherwise.
    Auto,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
}

/// Where the shield of an interface is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShieldKind {
    /// In the driver.
    Native,
    /// In the stack, before TC.
    Generic,
}

impl ShieldKind {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn mode(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

impl Shield {
    /// What is tried, in this order.
    fn kinds(self) -> &'static [ShieldKind] {
        match self {
            Self::Off => &[],
            Self::Auto => &[ShieldKind::Native, ShieldKind::Generic],
            Self::Native => &[ShieldKind::Native],
            Self::Generic => &[ShieldKind::Generic],
        }
    }
}

impl Dataplane {
    /// Attaches the shield of an interface, if there is to be one; the program that an earlier daemon left there is replaced
    /// atomically. Where it is, then.
    ///
    /// # Errors
    /// When another program is there, or the interface takes none.
    pub(super) fn attach_shield(&mut self, name: &str, index: u32, link: Link) -> anyhow::Result<Option<ShieldKind>> {
        let shield = self.shield;
        for kind in shield.kinds() {
            if self.take_over_shield(index, link, *kind)? {
                return Ok(Some(*kind));
            }
        }
        let mut refused = Vec::new();
        for kind in shield.kinds() {
            let attached = load_xdp(&mut self.ebpf, program_name(link, *kind))?.attach_to_if_index(index, kind.mode());
            let e = match attached {
                Ok(id) => {
                    let link: XdpLink = load_xdp(&mut self.ebpf, program_name(link, *kind))?.take_link(id)?;
                    match FdLink::try_from(link) {
                        Ok(link) => {
                            self.keep(link, &pin_name(index, *kind))?;
                            if shield == Shield::Auto && *kind == ShieldKind::Generic {
                                tracing::warn!(
                                    "{name}: no native XDP ({}): the shield is generic, which the stack runs for each packet \
                                     and which saves less; hook = \"tc\" does without",
                                    refused.join("; ")
                                );
                            }
                            return Ok(Some(*kind));
                        }
                        // Without a link the program could be neither kept nor replaced; dropped, it is off again.
                        Err(e) => anyhow!("{e}"),
                    }
                }
                Err(e) => e.into(),
            };
            match os_error(&e) {
                Some(libc::EBUSY | libc::EEXIST) => return Err(occupied(name)),
                Some(libc::EOPNOTSUPP) => refused.push(format!("the driver has no {} XDP", kind.as_str())),
                Some(code) => {
                    refused.push(format!("{}: {}", kind.as_str(), std::io::Error::from_raw_os_error(code)));
                }
                None => refused.push(format!("{}: {e:#}", kind.as_str())),
            }
        }
        if refused.is_empty() {
            return Ok(None);
        }
        Err(Fault::new(
            Code::Failure,
            format!(
                "{name} takes no XDP program ({}): write hook = \"tc\", or leave {name} out of watch.interfaces",
                refused.join("; ")
            ),
        )
        .into())
    }

    /// Removes the shield of an interface. It may be gone with its interface.
    pub(super) fn detach_shield(&self, index: u32) {
        for kind in [ShieldKind::Native, ShieldKind::Generic] {
            if let Some(pins) = &self.pins {
                let _ = std::fs::remove_file(pins.pin(&pin_name(index, kind)));
            }
        }
    }

    /// Puts the program in the place of an earlier daemon's, of this layout of tables or of another; whether there was one.
    fn take_over_shield(&mut self, index: u32, link: Link, kind: ShieldKind) -> anyhow::Result<bool> {
        let Some(pins) = self.pins.clone() else { return Ok(false) };
        let pin = pin_name(index, kind);
        let places: Vec<PathBuf> = std::iter::once(pins.pin(&pin)).chain(pins.others(&pin)).collect();
        for path in places.into_iter().filter(|p| p.exists()) {
            let Ok(old) = PinnedLink::from_pin(&path) else { continue };
            let Ok(old) = XdpLink::try_from(FdLink::from(old)) else { continue };
            let program = load_xdp(&mut self.ebpf, program_name(link, kind))?;
            // A link whose interface was made anew under the same number can't be updated.
            let Ok(id) = program.attach_to_link(old) else { continue };
            let link = FdLink::try_from(program.take_link(id)?).map_err(|e| anyhow!("{e}"))?;
            if path != pins.pin(&pin) {
                self.keep(link, &pin)?;
                let _ = std::fs::remove_file(path);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Pins a link: it stays when the daemon dies, and for as long as the pin does.
    pub(super) fn keep(&self, link: FdLink, pin: &str) -> anyhow::Result<()> {
        let Some(pins) = &self.pins else { anyhow::bail!("programs are attached for an instance only") };
        let path = pins.pin(pin);
        let _ = std::fs::remove_file(&path);
        link.pin(&path).with_context(|| format!("can't pin a link at {}", path.display()))?;
        Ok(())
    }
}

/// The name of the pin.
pub(super) fn pin_name(index: u32, kind: ShieldKind) -> String {
    format!("link-{index}-xdp-{}", kind.as_str())
}

fn program_name(link: Link, kind: ShieldKind) -> &'static str {
    match (link, kind) {
        (Link::Ethernet, ShieldKind::Native) => "ftp_shield",
        (Link::Ethernet, ShieldKind::Generic) => "ftp_shield_generic",
        (Link::None, _) => "ftp_shield_l3",
    }
}

fn occupied(name: &str) -> anyhow::Error {
    Fault::new(
        Code::Failure,
        format!(
            "another XDP program is attached to {name}, and there is room for one: remove it (`ip link set dev {name} xdp \
             off`, or `bpftool link` where it is held by a link), or write hook = \"tc\""
        ),
    )
    .into()
}

/// What the kernel said.
fn os_error(e: &anyhow::Error) -> Option<i32> {
    e.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error())
}
