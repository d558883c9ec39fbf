//! What `doctor` may find: a fixed, documented list of codes.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something would break, or is still open.
    Error,
    /// Something may be wrong.
    Warning,
    /// For information.
    Info,
}

impl Severity {
    /// The name in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal, )*) => {
        /// What was found.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Code {
            $( $(#[doc = $doc])+ $name, )*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// The name in tables, JSON and the documentation. Stable.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// What it means.
            pub const fn describe(self) -> &'static str {
                match self { $( Self::$name => concat!($($doc),+), )* }
            }
        }
    };
}

codes! {
    /// The kernel is as it should be.
    Kernel = "kernel",
    /// The kernel is too old, or lacks its type information (BTF).
    KernelUnfit = "kernel_unfit",
    /// A capability is missing that the daemon needs.
    NoRights = "no_rights",
    /// The BPF file system is not mounted.
    NoBpffs = "no_bpffs",
    /// There is no configuration to go by: only the host is looked at, and all its ports.
    NoConfiguration = "no_configuration",
    /// A configured interface is not there, or no interface matches a pattern.
    InterfaceMissing = "interface_missing",
    /// The interface has a link layer that is not followed.
    LinkUnsupported = "link_unsupported",
    /// The interface is a member of a bridge, a bond or a team. Only a port of a bridge without addresses sees everything.
    InterfaceEnslaved = "interface_enslaved",
    /// The default route leaves by an interface that is not watched.
    DefaultRouteElsewhere = "default_route_elsewhere",
    /// The interface carries PPPoE: IP comes and goes by the PPP link above it.
    BelowPpp = "below_ppp",
    /// A flow table forwards in hardware, around the hooks.
    FlowtableOffload = "flowtable_offload",
    /// The hardware may filter or forward by itself (hw-tc-offload), around the hooks.
    HardwareOffload = "hardware_offload",
    /// The interface merges packets in a way that can't be undone when they are forwarded (LRO).
    ReceiveOffload = "receive_offload",
    /// What the interface merges and splits in its driver.
    Offloads = "offloads",
    /// What is attached to the hooks.
    Hooks = "hooks",
    /// The shield in XDP, or where it can't be attached.
    Shield = "shield",
    /// The ruleset could not be read.
    RulesetUnread = "ruleset_unread",
    /// Tables of the old iptables are in use, which are not looked at.
    LegacyIptables = "legacy_iptables",
    /// A rule accepts new connections to many ports that nobody has negotiated.
    WideRange = "wide_range",
    /// A rule accepts new connections to many ports, for some peers or some hosts only.
    WideRangeLimited = "wide_range_limited",
    /// What no rule decides is accepted: all ports are open as far as the ruleset goes.
    PolicyAccepts = "policy_accepts",
    /// The ruleset would drop a connection for which there is a pinhole.
    PinholeDropped = "pinhole_dropped",
    /// The ruleset would drop a data connection that is translated: nothing accepts it by its mark.
    MarkUnaccepted = "mark_unaccepted",
    /// Ports of `[nat]` that this host also gives to connections of its own.
    ActivePortsShared = "active_ports_shared",
    /// Mode `mark`, and no rule looks at the mark.
    MarkUnread = "mark_unread",
    /// The kernel's own FTP helper follows control connections, and opens ports by its own reading.
    KernelHelper = "kernel_helper",
    /// Another program reads or answers control connections before the server does.
    SecondReader = "second_reader",
    /// The sets of `[nftables]` are missing or of the wrong type.
    SetsUnfit = "sets_unfit",
    /// The daemon is not running.
    NotRunning = "not_running",
    /// The daemon has seen no control packet, although something listens on a control port or is connected to one.
    ControlUnseen = "control_unseen",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub code: Code,
    /// What it is, in words.
    pub what: String,
    /// Where: an interface, or a rule's place.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The rule that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleAt>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The commands that do it, as far as commands can.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// A rule of nftables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleAt {
    /// The table's family.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; none where the chain's policy is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// How it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Finding {
    /// Something that was found, in words.
    pub fn new(severity: Severity, code: Code, what: impl Into<String>) -> Self {
        Self { severity, code, what: what.into(), place: None, rule: None, remedy: None, commands: Vec::new() }
    }

    /// The same with its place.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, code, what, place, rule, remedy, commands } = self;
        write!(f, "{severity} {code}")?;
        if let Some(place) = place {
            write!(f, ": {place}")?;
        }
        write!(f, "\n  {what}")?;
        if let Some(text) = rule.as_ref().and_then(|r| r.text.as_ref()) {
            write!(f, "\n  rule: {text}")?;
        }
        if let Some(remedy) = remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        for command in commands {
            write!(f, "\n    {command}")?;
        }
        Ok(())
    }
}
