//! Which connections the kernel's connection tracking knows.

use netlink_packet_core::NLM_F_DUMP;

use super::netlink::{Message, attribute};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
const CONNTRACK: u8 = 1;
const GET: u8 = 1;
/// `CTA_TUPLE_ORIG`, in it `CTA_TUPLE_PROTO`, in it `CTA_PROTO_NUM` and `CTA_PROTO_DST_PORT`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;

/// How many TCP connections to one of these ports connection tracking knows in this network namespace.
///
/// # Errors
/// When the kernel does not tell, or has no connection tracking.
pub fn connections_to(ports: &[u16]) -> anyhow::Result<usize> {
    let mut netfilter = super::open()?;
    let entries = netfilter.dump(Message::new(CONNTRACK, GET, 0, &[]).flags(NLM_F_DUMP))?;
    let to = |m: &Message| -> Option<u16> {
        let proto = attribute(m.attribute(TUPLE_ORIG)?, TUPLE_PROTO)?;
        if attribute(proto, PROTO_NUM)? != [libc::IPPROTO_TCP as u8] {
            return None;
        }
        <[u8; 2]>::try_from(attribute(proto, PROTO_DST_PORT)?).ok().map(u16::from_be_bytes)
    };
    Ok(entries.iter().filter_map(to).filter(|p| ports.contains(p)).count())
}
