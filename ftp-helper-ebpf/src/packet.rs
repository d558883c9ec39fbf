//! The packet view: where the headers lie, and what TCP says.

use core::ptr::addr_of_mut;

use ftp_helper_common::{addr::Addr, canon::Text as _};

use crate::{
    frame::{Frame, IPV4, IPV6, load},
    nat,
    scratch::{self, InScratch, OF_HOOKS, Scratch, launder},
};

/// What a packet is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not TCP, or nothing that could be.
    Other,
    /// TCP, with a whole header.
    Tcp,
    /// ICMP or ICMPv6, whole, where addresses are translated: it may speak of a translated connection.
    Icmp,
    /// A later fragment of TCP.
    Fragment,
    /// It may be TCP, but its headers can't be followed.
    Unreadable,
    /// TCP that goes another way than its destination says (RFC 791 section 3.1: LSRR, SSRR).
    SourceRouted,
}

/// A packet's headers. Ports and numbers in host byte order.
#[derive(Clone, Copy)]
pub struct View {
    /// Where the IP header begins.
    pub l3: u32,
    /// Where the TCP header begins, or that of ICMP.
    pub tcp: u32,
    /// Where the payload begins.
    pub payload: u32,
    /// Payload length, by the IP header.
    pub len: u32,
    pub seq: u32,
    pub ack: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub flags: u8,
    pub v6: bool,
    /// The first fragment of several.
    pub fragment: bool,
}

impl View {
    /// A place for what will be known. To clear it first would be a call that takes longer than all the rest for a packet
    /// that is none of ours: [`view`] sets what its answer's readers read.
    #[inline(always)]
    pub fn place() -> core::mem::MaybeUninit<Self> {
        core::mem::MaybeUninit::uninit()
    }

    /// All zeros.
    #[inline(always)]
    fn clear(&mut self) {
        (self.l3, self.tcp, self.payload, self.len, self.seq, self.ack) = (0, 0, 0, 0, 0, 0);
        (self.source_port, self.destination_port, self.flags) = (0, 0, 0);
    }

    /// Puts the packet's two ends into the working memory, its sender first; whether they could be read.
    #[inline(always)]
    pub fn ends(&self, ctx: &impl Frame, s: *mut Scratch) -> bool {
        // SAFETY: `s` is this CPU's working memory; the two addresses lie one behind the other, aligned to four bytes.
        unsafe {
            let ends = addr_of_mut!((*s).ends);
            // Stored in units as they are loaded again: a wider load would wait for the stores before it.
            ends.cast::<u32>().add(8).write(self.source_port as u32 | (self.destination_port as u32) << 16);
            if self.v6 {
                return ctx.copy(self.l3 + 8, ends.cast(), 32);
            }
            let Some((from, to)) = self.addresses_v4(ctx) else { return false };
            let halves = ends.cast::<u64>();
            halves.write(0);
            halves.add(1).write((from as u64) << 32 | MAPPED);
            halves.add(2).write(0);
            halves.add(3).write((to as u64) << 32 | MAPPED);
        }
        true
    }

    /// Source and destination of an IPv4 packet, as they lie in memory: without a call where they are in the linear
    /// part.
    #[inline(always)]
    fn addresses_v4(&self, ctx: &impl Frame) -> Option<(u32, u32)> {
        let (data, end) = ctx.linear();
        // Two tags at most before it, or before the IPv4 and ICMP headers of what quotes it: the mask only tells the verifier.
        let l3 = data + (self.l3 & 127) as usize;
        if l3 + 20 <= end {
            // SAFETY: 20 bytes from `l3` on are within the linear part, compared above.
            return Some(unsafe { (*((l3 + 12) as *const u32), *((l3 + 16) as *const u32)) });
        }
        let [from, to] = load::<[u32; 2]>(ctx, self.l3 + 12)?;
        Some((from, to))
    }
}

/// The eight bytes before the address in [`Addr::v4`], as the low half of a word.
const MAPPED: u64 = u32::from_ne_bytes([0, 0, 0xff, 0xff]) as u64;
const _: () = assert!(core::mem::offset_of!(Scratch, ends) % 8 == 0 && align_of::<Addr>() == 4);

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Loose and strict source routing.
const LSRR: u8 = 131;
const SSRR: u8 = 137;
/// Bytes of IPv4 options, at most.
const OPTIONS_MAX: u32 = 40;
/// Headers before TCP in IPv6, at most.
const EXTENSIONS_MAX: u32 = 8;

/// Looks at a packet whose IP header begins `LINK` bytes in, or behind tags.
#[inline(always)]
pub fn view<const LINK: u32>(ctx: &impl Frame, view: &mut View) -> Kind {
    (view.v6, view.fragment) = (false, false);
    // The common case costs no call: no tags, no IP options, no extension headers, headers in the linear part.
    let (data, end) = ctx.linear();
    let l3 = data + LINK as usize;
    if l3 + 60 <= end || l3 + 40 <= end {
        let protocol = if LINK == 0 {
            ctx.protocol()
        } else {
            // SAFETY: within the linear part, compared above.
            u16::from_be(unsafe { *((data + 12) as *const u16) })
        };
        if protocol == IPV4 {
            // SAFETY: 40 bytes from `l3` on are within the linear part, compared above.
            let (first, proto, fragment) =
                unsafe { (*(l3 as *const u8), *((l3 + 9) as *const u8), *((l3 + 6) as *const u16)) };
            if proto != TCP && !(proto == ICMP && nat::is_on()) {
                return Kind::Other;
            }
            if proto == TCP && first == 0x45 && u16::from_be(fragment) & 0x3fff == 0 {
                // SAFETY: as above.
                let total = u16::from_be(unsafe { *((l3 + 2) as *const u16) }) as u32;
                return transport(ctx, view, l3 + 20, LINK, 20, if total == 0 { 0 } else { total });
            }
        } else if protocol == IPV6 {
            // SAFETY: as above.
            let next = unsafe { *((l3 + 6) as *const u8) };
            if next == UDP || (next == ICMPV6 && !nat::is_on()) {
                return Kind::Other;
            }
            if next == TCP && l3 + 60 <= end {
                // SAFETY: as above.
                let total = u16::from_be(unsafe { *((l3 + 4) as *const u16) }) as u32;
                view.v6 = true;
                return transport(ctx, view, l3 + 40, LINK, 40, if total == 0 { 0 } else { total + 40 });
            }
        } else if protocol != VLAN && protocol != QINQ {
            return Kind::Other;
        }
    }
    slow::<LINK>(ctx, view)
}

/// Reads the TCP header at `t` (20 bytes there are in the linear part), behind `ip` bytes of IP header.
#[inline(always)]
fn transport(ctx: &impl Frame, view: &mut View, t: usize, l3: u32, ip: u32, total: u32) -> Kind {
    // SAFETY: the caller has compared `t + 20` with the end of the linear part.
    unsafe {
        view.source_port = u16::from_be(*(t as *const u16));
        view.destination_port = u16::from_be(*((t + 2) as *const u16));
        view.seq = u32::from_be(*((t + 4) as *const u32));
        view.ack = u32::from_be(*((t + 8) as *const u32));
        view.flags = *((t + 13) as *const u8);
        fill(ctx, view, *((t + 12) as *const u8), l3, ip, total)
    }
}

/// What follows from the header lengths. `total` is the IP packet's length, 0 if it says so itself (BIG TCP).
#[inline(always)]
fn fill(ctx: &impl Frame, view: &mut View, offset: u8, l3: u32, ip: u32, total: u32) -> Kind {
    let header = (offset >> 4) as u32 * 4;
    let total = if total == 0 { ctx.total().wrapping_sub(l3) } else { total };
    let headers = ip + header;
    view.l3 = l3;
    if header < 20 || headers > total {
        // No receiver takes it (RFC 9293 section 3.1).
        return Kind::Unreadable;
    }
    view.tcp = l3 + ip;
    view.payload = l3 + headers;
    view.len = total - headers;
    Kind::Tcp
}

/// Tags, IP options, extension headers, fragments, headers outside the linear part: by copying, with calls.
#[inline(never)]
fn slow<const LINK: u32>(ctx: &impl Frame, view: &mut View) -> Kind {
    view.clear();
    let mut l3 = LINK;
    let mut protocol = if LINK == 0 {
        ctx.protocol()
    } else {
        let Some(p) = load::<u16>(ctx, 12) else { return Kind::Other };
        u16::from_be(p)
    };
    let mut tags = 0;
    while tags < 2 {
        if protocol != VLAN && protocol != QINQ {
            break;
        }
        let Some(p) = load::<u16>(ctx, l3 + 2) else { return Kind::Other };
        protocol = u16::from_be(p);
        l3 += 4;
        tags += 1;
    }
    match protocol {
        IPV4 => network(ctx, view, l3, false),
        IPV6 => network(ctx, view, l3, true),
        // More tags than two, too: what is in there is as foreign as in any tunnel.
        _ => Kind::Other,
    }
}

/// What an ICMP error quotes: the beginning of a packet whose IP header lies at `l3`. Whether it is TCP, and so much of it that
/// its ends are there; `view.len` means nothing then.
#[inline(always)]
pub fn quoted(ctx: &impl Frame, view: &mut View, l3: u32, v6: bool) -> bool {
    view.clear();
    (view.v6, view.fragment) = (false, false);
    match network(ctx, view, l3, v6) {
        Kind::Tcp => true,
        // Eight bytes of it are enough (RFC 792).
        Kind::Unreadable => view.source_port != 0 && view.destination_port != 0,
        Kind::Other | Kind::Icmp | Kind::Fragment | Kind::SourceRouted => false,
    }
}

/// Goes through the headers of IP.
#[inline(never)]
fn network(ctx: &impl Frame, view: &mut View, l3: u32, v6: bool) -> Kind {
    view.l3 = l3;
    if v6 { slow_v6(ctx, view, l3) } else { slow_v4(ctx, view, l3) }
}

#[inline(always)]
fn slow_v4(ctx: &impl Frame, view: &mut View, l3: u32) -> Kind {
    let Some(h) = load::<[u8; 20]>(ctx, l3) else { return Kind::Other };
    let icmp = h[9] == ICMP && nat::is_on();
    if h[9] != TCP && !icmp {
        return Kind::Other;
    }
    let ip = (h[0] & 15) as u32 * 4;
    if icmp {
        view.tcp = l3 + ip;
        return if u16::from_be_bytes([h[6], h[7]]) & 0x3fff == 0 { Kind::Icmp } else { Kind::Other };
    }
    if h[0] >> 4 != 4 || ip < 20 {
        return Kind::Unreadable;
    }
    if ip > 20 && is_source_routed(ctx, l3 + 20, ip - 20) {
        return Kind::SourceRouted;
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    if fragment & 0x1fff != 0 {
        return Kind::Fragment;
    }
    view.fragment = fragment & 0x2000 != 0;
    let total = u16::from_be_bytes([h[2], h[3]]) as u32;
    slow_transport(ctx, view, l3, ip, total)
}

/// Whether one of these IPv4 options names the hosts to pass: a host behind a router that follows it is another than the
/// header's.
#[inline(always)]
fn is_source_routed(ctx: &impl Frame, at: u32, len: u32) -> bool {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return true };
    // 1..=64, which kernels before 6.8 see only in this form. There are some: the caller has looked.
    let len = (launder(s, len - 1) & 63) + 1;
    // SAFETY: the buffer in this CPU's working memory has room for 64 bytes.
    let read = unsafe { ctx.copy(at, addr_of_mut!((*s).buffer).cast(), len) };
    read && ftp_names_hosts(len) != 0
}

/// Looks through the options in the working memory. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_names_hosts(len: u32) -> u32 {
    let Some(s) = scratch::scratch(OF_HOOKS) else { return 1 };
    let option = |i: u32| InScratch(s).at(i & 63);
    let mut i = 0;
    let mut n = 0;
    while n < OPTIONS_MAX {
        if i >= len {
            return 0;
        }
        match option(i) {
            // The end of all options.
            0 => return 0,
            // No operation, which has no length.
            1 => i = launder(s, i + 1),
            LSRR | SSRR => return 1,
            _ => {
                let step = option(launder(s, i + 1)) as u32;
                if step < 2 {
                    return 0;
                }
                i = launder(s, i + step);
            }
        }
        n += 1;
    }
    0
}

#[inline(always)]
fn slow_v6(ctx: &impl Frame, view: &mut View, l3: u32) -> Kind {
    let Some(h) = load::<[u8; 8]>(ctx, l3) else { return Kind::Other };
    view.v6 = true;
    let payload = u16::from_be_bytes([h[4], h[5]]) as u32;
    let mut next = h[6];
    let mut ip = 40u32;
    let mut k = 0;
    while k < EXTENSIONS_MAX {
        match next {
            TCP => return slow_transport(ctx, view, l3, ip, if payload == 0 { 0 } else { payload + 40 }),
            // Hop-by-hop, routing, destination options (RFC 8200 section 4), mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let Some(x) = load::<[u8; 2]>(ctx, l3 + ip) else { return Kind::Unreadable };
                next = x[0];
                ip += (x[1] as u32 + 1) * 8;
            }
            // Authentication header (RFC 4302): length in words of four, less two.
            51 => {
                let Some(x) = load::<[u8; 2]>(ctx, l3 + ip) else { return Kind::Unreadable };
                next = x[0];
                ip += (x[1] as u32 + 2) * 4;
            }
            // Fragment; an atomic one (RFC 6946) is whole.
            44 => {
                let Some(x) = load::<[u8; 4]>(ctx, l3 + ip) else { return Kind::Unreadable };
                next = x[0];
                let fragment = u16::from_be_bytes([x[2], x[3]]);
                if fragment & 0xfff8 != 0 {
                    // Of what, only the first fragment tells for certain.
                    return if next == UDP || next == 50 || next == 58 { Kind::Other } else { Kind::Fragment };
                }
                view.fragment = fragment & 1 != 0;
                ip += 8;
            }
            ICMPV6 if nat::is_on() => {
                view.tcp = l3 + ip;
                return if view.fragment { Kind::Other } else { Kind::Icmp };
            }
            _ => return Kind::Other,
        }
        k += 1;
    }
    Kind::Unreadable
}

#[inline(always)]
fn slow_transport(ctx: &impl Frame, view: &mut View, l3: u32, ip: u32, total: u32) -> Kind {
    view.tcp = l3 + ip;
    let Some(t) = load::<[u32; 5]>(ctx, l3 + ip) else {
        // A first fragment too short for the header (RFC 1858), or a truncated packet; the ports may be there.
        if let Some([from, to]) = load::<[u16; 2]>(ctx, l3 + ip) {
            (view.source_port, view.destination_port) = (u16::from_be(from), u16::from_be(to));
        }
        return Kind::Unreadable;
    };
    view.source_port = (u32::from_be(t[0]) >> 16) as u16;
    view.destination_port = u32::from_be(t[0]) as u16;
    view.seq = u32::from_be(t[1]);
    view.ack = u32::from_be(t[2]);
    let [offset, flags, ..] = t[3].to_ne_bytes();
    view.flags = flags;
    fill(ctx, view, offset, l3, ip, total)
}
