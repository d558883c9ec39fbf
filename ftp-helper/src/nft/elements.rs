//! Sets of an nftables ruleset, and their elements: an initiator, a responder and a port.

use std::{fmt, io, net::IpAddr, time::Duration};

use ftp_helper_common::addr::Addr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP};

use super::netlink::{self, Message, Netfilter, nested, plain, text};
use crate::error::{Code, Fault};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u8 = 10;

/// Messages (`enum nf_tables_msg_types`).
mod message {
    pub(super) const GETTABLE: u8 = 1;
    pub(super) const GETSET: u8 = 10;
    pub(super) const NEWSETELEM: u8 = 12;
    pub(super) const GETSETELEM: u8 = 13;
    pub(super) const DELSETELEM: u8 = 14;
}

/// Attributes, of several enumerations of linux/netfilter/nf_tables.h.
mod attr {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const SET_TABLE: u16 = 1;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const LIST_TABLE: u16 = 1;
    pub(super) const LIST_SET: u16 = 2;
    pub(super) const LIST_ELEMENTS: u16 = 3;
    pub(super) const LIST_ELEM: u16 = 1;
    pub(super) const ELEM_KEY: u16 = 1;
    pub(super) const ELEM_TIMEOUT: u16 = 4;
    pub(super) const ELEM_USERDATA: u16 = 6;
    pub(super) const DATA_VALUE: u16 = 1;
}

/// Flags of a set (`enum nft_set_flags`).
mod set_flag {
    pub(super) const CONSTANT: u32 = 0x2;
    pub(super) const INTERVAL: u32 = 0x4;
    pub(super) const MAP: u32 = 0x8;
    pub(super) const TIMEOUT: u32 = 0x10;
}

/// Types of `nft`, six bits each in the type of a concatenation (datatype.h of nftables).
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_SERVICE: u32 = 13;

/// The family of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// By its name in `nft`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|f| f.as_str() == name)
    }

    /// The name in `nft`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// `NFPROTO_*`.
    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The sets of the administrator's ruleset that are fed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sets {
    /// The table's family.
    pub family: Family,
    /// The table's name.
    pub table: String,
    /// The set of IPv4 pinholes; none in a table of family `ip6`.
    pub set4: Option<String>,
    /// The set of IPv6 pinholes; none in a table of family `ip`.
    pub set6: Option<String>,
}

impl Sets {
    /// The set that an element belongs into.
    pub fn of(&self, element: &Element) -> Option<&str> {
        if element.initiator.is_v4() { self.set4.as_deref() } else { self.set6.as_deref() }
    }

    /// Both sets, whether they are for IPv4, and their type in `nft`.
    pub fn all(&self) -> impl Iterator<Item = (&str, bool, &'static str)> {
        let v4 = self.set4.as_deref().map(|s| (s, true, "ipv4_addr . ipv4_addr . inet_service"));
        let v6 = self.set6.as_deref().map(|s| (s, false, "ipv6_addr . ipv6_addr . inet_service"));
        v4.into_iter().chain(v6)
    }

    /// How `nft` names the table.
    pub fn table(&self) -> String {
        format!("{} {}", self.family, self.table)
    }
}

/// An element: who may connect to whom, to which port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Element {
    /// Who connects.
    pub initiator: Addr,
    /// To whom.
    pub responder: Addr,
    /// To which port.
    pub port: u16,
}

impl Element {
    /// The key as the kernel keeps it: each part in network byte order, filled up to four bytes.
    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(36);
        for addr in [self.initiator, self.responder] {
            match addr.to_ip() {
                IpAddr::V4(ip) => key.extend(ip.octets()),
                IpAddr::V6(ip) => key.extend(ip.octets()),
            }
        }
        key.extend(self.port.to_be_bytes());
        key.extend([0, 0]);
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let ip = |bytes: &[u8]| -> Option<Addr> {
            match bytes.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
                _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
            }
        };
        let length = match key.len() {
            12 => 4,
            36 => 16,
            _ => return None,
        };
        let port = key.get(2 * length..2 * length + 2)?;
        Some(Self {
            initiator: ip(key.get(..length)?)?,
            responder: ip(key.get(length..2 * length)?)?,
            port: u16::from_be_bytes([port[0], port[1]]),
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {} . {}", self.initiator.to_ip(), self.responder.to_ip(), self.port)
    }
}

/// A change to the sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// An element with its time to live and a comment.
    Add(Element, Duration, String),
    /// The element goes.
    Remove(Element),
    /// Every element goes.
    Flush,
}

/// Carries out changes, all or none.
///
/// # Errors
/// The kernel's error for the first change that it refused.
pub(super) fn apply(netfilter: &mut Netfilter, sets: &Sets, changes: &[Change]) -> io::Result<()> {
    let mut messages = Vec::new();
    for change in changes {
        match change {
            Change::Add(element, timeout, comment) => {
                let Some(set) = sets.of(element) else { continue };
                messages.push(list(sets, set, message::NEWSETELEM, Some(elem(element, Some((*timeout, comment))))));
            }
            Change::Remove(element) => {
                let Some(set) = sets.of(element) else { continue };
                messages.push(list(sets, set, message::DELSETELEM, Some(elem(element, None))));
            }
            Change::Flush => {
                messages.extend(sets.all().map(|(set, ..)| list(sets, set, message::DELSETELEM, None)));
            }
        }
    }
    if messages.is_empty() {
        return Ok(());
    }
    netfilter.transaction(NFTABLES, &messages)
}

/// Whether the sets can be fed.
///
/// # Errors
/// One message: what is missing or of the wrong type, and what it has to be.
pub fn check(sets: &Sets) -> Result<(), Fault> {
    let mut netfilter = super::open()?;
    let table = sets.table();
    let question =
        Message::new(NFTABLES, message::GETTABLE, sets.family.number(), &[text(attr::TABLE_NAME, &sets.table)]);
    netfilter.ask(question).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => fault(format!(
            "nftables.table: there is no table {table} in this ruleset; add it, or name another (`nft list tables`)"
        )),
        _ => refused(&format!("can't look for the table {table}"), &e),
    })?;
    for (name, v4, wanted) in sets.all() {
        let key = if v4 { "nftables.set4" } else { "nftables.set6" };
        let remedy = format!(
            "it has to be: set {name} {{ type {wanted}; flags timeout; }} (`ftp-helper integrate nft --print` writes it)"
        );
        let attributes = [text(attr::SET_TABLE, &sets.table), text(attr::SET_NAME, name)];
        let question = Message::new(NFTABLES, message::GETSET, sets.family.number(), &attributes);
        let set = netfilter.ask(question).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT) => fault(format!("{key}: there is no set {name} in table {table}; {remedy}")),
            _ => refused(&format!("can't look for the set {name} in table {table}"), &e),
        })?;
        if let Some(wrong) = unfit(&set, v4) {
            return Err(fault(format!("{key}: the set {name} in table {table} {wrong}; {remedy}")));
        }
    }
    Ok(())
}

/// What is wrong with a set.
fn unfit(set: &Message, v4: bool) -> Option<&'static str> {
    let number = |kind| set.attribute(kind).and_then(|v| <[u8; 4]>::try_from(v).ok()).map_or(0, u32::from_be_bytes);
    let flags = number(attr::SET_FLAGS);
    let address = if v4 { IPV4_ADDR } else { IPV6_ADDR };
    let wanted = address << 12 | address << 6 | INET_SERVICE;
    let length = if v4 { 12 } else { 36 };
    if flags & set_flag::MAP != 0 {
        Some("is a map")
    } else if number(attr::SET_KEY_TYPE) != wanted || number(attr::SET_KEY_LEN) != length {
        Some("is of another type")
    } else if flags & set_flag::CONSTANT != 0 {
        Some("is constant")
    } else if flags & set_flag::INTERVAL != 0 {
        Some("has the flag interval")
    } else if flags & set_flag::TIMEOUT == 0 {
        Some("lacks the flag timeout")
    } else {
        None
    }
}

/// The elements of the sets now.
///
/// # Errors
/// When the kernel does not tell.
pub fn elements(sets: &Sets) -> anyhow::Result<Vec<Element>> {
    let mut netfilter = super::open()?;
    let mut all = Vec::new();
    for (set, ..) in sets.all() {
        let question = list(sets, set, message::GETSETELEM, None).flags(NLM_F_DUMP);
        for answer in netfilter.dump(question)? {
            let Some(mut rest) = answer.attribute(attr::LIST_ELEMENTS) else { continue };
            while let Some(elem) = netlink::attribute(rest, attr::LIST_ELEM) {
                let key = netlink::attribute(elem, attr::ELEM_KEY)
                    .and_then(|k| netlink::attribute(k, attr::DATA_VALUE))
                    .and_then(Element::from_key);
                all.extend(key);
                rest = rest.get((elem.len() + 4).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
    Ok(all)
}

/// A message about elements of a set; about all of them without one.
fn list(sets: &Sets, set: &str, kind: u8, element: Option<netlink_packet_core::DefaultNla>) -> Message {
    let mut attributes = vec![text(attr::LIST_TABLE, &sets.table), text(attr::LIST_SET, set)];
    attributes.extend(element.map(|e| nested(attr::LIST_ELEMENTS, &[e])));
    let message = Message::new(NFTABLES, kind, sets.family.number(), &attributes);
    if kind == message::NEWSETELEM { message.flags(NLM_F_CREATE) } else { message }
}

fn elem(element: &Element, more: Option<(Duration, &str)>) -> netlink_packet_core::DefaultNla {
    let mut attributes = vec![nested(attr::ELEM_KEY, &[plain(attr::DATA_VALUE, element.key())])];
    if let Some((timeout, comment)) = more {
        // 0 would be the set's own time, or none at all.
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        attributes.push(plain(attr::ELEM_TIMEOUT, millis.to_be_bytes()));
        attributes.push(plain(attr::ELEM_USERDATA, user_data(comment)));
    }
    nested(attr::LIST_ELEM, &attributes)
}

/// A comment as `nft` writes it: type 0, length, the text with its final zero.
fn user_data(comment: &str) -> Vec<u8> {
    let mut data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    data.extend(comment.bytes().take(254));
    data.push(0);
    data
}

fn fault(message: String) -> Fault {
    Fault::new(Code::Failure, message)
}

pub(super) fn refused(what: &str, e: &io::Error) -> Fault {
    let (code, why) = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => (Code::NoPermission, "this needs root or CAP_NET_ADMIN".to_owned()),
        Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP) => {
            (Code::Failure, format!("{e}: does this kernel have nftables (CONFIG_NF_TABLES)?"))
        }
        _ => (Code::Failure, e.to_string()),
    };
    Fault::new(code, format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(a: &str, b: &str, port: u16) -> Element {
        let addr = |s: &str| s.parse::<IpAddr>().unwrap().into();
        Element { initiator: addr(a), responder: addr(b), port }
    }

    #[test]
    fn keys_are_written_and_read() {
        let e = element("203.0.113.10", "192.0.2.100", 50069);
        assert_eq!(e.key(), [203, 0, 113, 10, 192, 0, 2, 100, 0xc3, 0x95, 0, 0]);
        assert_eq!(e.to_string(), "203.0.113.10 . 192.0.2.100 . 50069");
        let six = element("2001:db8:a::10", "2001:db8:b::64", 1024);
        assert_eq!(six.key().len(), 36);
        for e in [e, six] {
            assert_eq!(Element::from_key(&e.key()), Some(e));
        }
        assert_eq!(Element::from_key(&[0; 13]), None);
    }

    #[test]
    fn a_set_of_another_type_is_named() {
        let set = |flags: u32, kind: u32, length: u32| {
            let number = |k, n: u32| plain(k, n.to_be_bytes());
            let all =
                [number(attr::SET_FLAGS, flags), number(attr::SET_KEY_TYPE, kind), number(attr::SET_KEY_LEN, length)];
            Message::new(NFTABLES, 9, 1, &all)
        };
        let v4 = 7 << 12 | 7 << 6 | 13;
        assert_eq!(unfit(&set(0x10, v4, 12), true), None);
        assert_eq!(unfit(&set(0x10, v4, 12), false), Some("is of another type"));
        assert_eq!(unfit(&set(0x10, 7, 4), true), Some("is of another type"));
        assert_eq!(unfit(&set(0, v4, 12), true), Some("lacks the flag timeout"));
        assert_eq!(unfit(&set(0x14, v4, 12), true), Some("has the flag interval"));
        assert_eq!(unfit(&set(0x12, v4, 12), true), Some("is constant"));
        assert_eq!(unfit(&set(0x18, v4, 12), true), Some("is a map"));
        assert_eq!(unfit(&set(0x10, 8 << 12 | 8 << 6 | 13, 36), false), None);
    }
}
