//! Links and routes of this network namespace, through rtnetlink.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkInfo, LinkMessage, LinkXdp},
    route::{RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What is known of the links and of where packets leave.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// By name: what kind of link, and what it belongs to.
    pub(super) links: BTreeMap<String, Link>,
    /// The interfaces that default routes leave by, of IPv4 and of IPv6.
    pub(super) defaults: [BTreeSet<String>; 2],
}

/// A link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Link {
    /// Such as `bridge`, `bond`, `vlan`, `veth`; empty for plain devices.
    pub(super) kind: String,
    /// The name of the bridge or bond that it is a member of.
    pub(super) master: Option<String>,
    /// Its XDP program, if it has one.
    pub(super) xdp: Option<Xdp>,
}

/// An XDP program on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Xdp {
    /// In the driver, not in the stack.
    pub(super) native: bool,
    /// The program's number.
    pub(super) program: u32,
}

impl Network {
    /// Reads it.
    pub(super) fn read() -> anyhow::Result<Self> {
        let mut names = BTreeMap::new();
        let mut links = Vec::new();
        for message in dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).context("can't list the links")? {
            let RouteNetlinkMessage::NewLink(link) = message else { continue };
            let (mut name, mut kind, mut master, mut xdp) = (String::new(), String::new(), None, None);
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(n) => name = n,
                    LinkAttribute::Controller(index) => master = Some(index),
                    LinkAttribute::Xdp(facts) => {
                        let program = facts.iter().find_map(|f| match f {
                            LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => Some(Xdp { native: true, program: *id }),
                            LinkXdp::SkbProgId(id) => Some(Xdp { native: false, program: *id }),
                            _ => None,
                        });
                        xdp = xdp.or(program);
                    }
                    LinkAttribute::LinkInfo(infos) => {
                        for info in infos {
                            if let LinkInfo::Kind(k) = info {
                                kind = k.to_string();
                            }
                        }
                    }
                    _ => {}
                }
            }
            names.insert(link.header.index, name.clone());
            links.push((name, kind, master, xdp));
        }
        let links = links
            .into_iter()
            .map(|(name, kind, master, xdp)| {
                let master = master.and_then(|index| names.get(&index).cloned());
                (name, Link { kind, master, xdp })
            })
            .collect();
        let defaults = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            dump(RouteNetlinkMessage::GetRoute(question)).map(|routes| leaving_by(&routes, &names))
        });
        let [v4, v6] = defaults;
        Ok(Self { links, defaults: [v4.context("can't list the routes")?, v6.context("can't list the routes")?] })
    }
}

/// The interfaces of the default routes, of whatever table.
fn leaving_by(routes: &[RouteNetlinkMessage], names: &BTreeMap<u32, String>) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for route in routes {
        let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = route else { continue };
        if header.destination_prefix_length != 0 || header.kind != RouteType::Unicast {
            continue;
        }
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(index) => out.extend(names.get(index).cloned()),
                RouteAttribute::MultiPath(hops) => {
                    out.extend(hops.iter().filter_map(|h| names.get(&h.interface_index).cloned()));
                }
                _ => {}
            }
        }
    }
    out
}

fn dump(question: RouteNetlinkMessage) -> anyhow::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut all = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(all),
                NetlinkPayload::Error(e) => return Err(e.to_io().into()),
                NetlinkPayload::InnerMessage(m) => all.push(m),
                _ => bail!("an answer of the kernel can't be read"),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there() {
        let network = Network::read().unwrap();
        assert!(network.links.contains_key("lo"), "{network:?}");
    }
}
