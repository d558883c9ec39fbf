//! The values that are written as texts: prefixes, ports, durations, sizes.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;

use super::reader::Item;
use crate::engine::policy::Mark;

/// A port, 1 to 65535.
pub(super) fn port(item: &Item<'_>) -> Option<u16> {
    item.number(1..=65535).and_then(|n| u16::try_from(n).ok())
}

/// A list of ports.
pub(super) fn ports(item: &Item<'_>) -> Option<Vec<u16>> {
    Some(item.list("write a list of ports, such as [21]")?.iter().filter_map(port).collect())
}

/// A port or a range of ports: `8080`, `"8080"` or `"8080-8090"`.
pub(super) fn port_range(item: &Item<'_>) -> Option<RangeInclusive<u16>> {
    const REMEDY: &str = "write a port (1 to 65535) or a range of ports, such as \"40000-50000\"";
    if item.is_number() {
        return port(item).map(|p| p..=p);
    }
    let text = item.text(REMEDY)?;
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |s: &str| s.trim().parse::<u16>().ok().filter(|p| *p > 0);
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Some(low..=high),
        (Some(low), Some(high)) => {
            item.refuse(format!("{text:?} is reversed"), format!("write the lower port first: \"{high}-{low}\""))
        }
        _ => item.refuse(format!("{text:?} is not a range of ports"), REMEDY),
    }
}

/// An address or a prefix without host bits.
pub(super) fn prefix(item: &Item<'_>) -> Option<IpNet> {
    const REMEDY: &str = "write an address or a prefix, such as \"192.0.2.10\" or \"2001:db8::/32\"";
    let text = item.text(REMEDY)?;
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => return item.refuse(format!("{text:?} is not an address or a prefix"), REMEDY),
        },
    };
    if let IpNet::V6(v6) = net
        && let (Some(v4), true) = (v6.addr().to_ipv4_mapped(), v6.prefix_len() >= 96)
    {
        let length = v6.prefix_len() - 96;
        return item
            .refuse(format!("{text:?} is an IPv4 prefix in IPv6 form"), format!("write it as \"{v4}/{length}\""));
    }
    if net != net.trunc() {
        return item.refuse(
            format!("{text:?} has bits set behind its prefix length"),
            format!("write \"{}\" for the network or \"{}\" for the one address", net.trunc(), net.addr()),
        );
    }
    Some(net)
}

/// A duration within limits, such as `"10s"`.
pub(super) fn duration(item: &Item<'_>, limits: RangeInclusive<Duration>) -> Option<Duration> {
    let (low, high) = (humantime::format_duration(*limits.start()), humantime::format_duration(*limits.end()));
    let remedy = format!("write a duration from \"{low}\" to \"{high}\", such as \"10s\" or \"1h\"");
    let text = item.text(&remedy)?;
    match humantime::parse_duration(text) {
        Ok(d) if limits.contains(&d) => Some(d),
        Ok(_) => item.refuse(format!("{text:?} is out of range"), remedy),
        Err(_) => item.refuse(format!("{text:?} is not a duration"), remedy),
    }
}

/// A size in bytes within limits, such as `"16MiB"` or `16777216`.
pub(super) fn size(item: &Item<'_>, limits: RangeInclusive<u64>) -> Option<u64> {
    let (low, high) = (bytesize::ByteSize(*limits.start()), bytesize::ByteSize(*limits.end()));
    let remedy =
        format!("write a size from \"{}\" to \"{}\", such as \"16MiB\"", low.display().iec(), high.display().iec());
    if item.is_number() {
        let number = item.number(0..=i64::MAX)?.unsigned_abs();
        if limits.contains(&number) {
            return Some(number);
        }
        return item.refuse(format!("{number} is out of range"), remedy);
    }
    let text = item.text(&remedy)?;
    match text.parse::<bytesize::ByteSize>() {
        Ok(size) if limits.contains(&size.as_u64()) => Some(size.as_u64()),
        Ok(_) => item.refuse(format!("{text:?} is out of range"), remedy),
        Err(_) => item.refuse(format!("{text:?} is not a size"), remedy),
    }
}

/// A mark and the bits of it that count, such as `"0x0f000000/0x0f000000"`.
pub(super) fn mark(item: &Item<'_>) -> Option<Mark> {
    const REMEDY: &str = "write a value and a mask of 32 bits, such as \"0x0f000000/0x0f000000\"";
    let text = item.text(REMEDY)?;
    let number = |s: &str| match s.trim().strip_prefix("0x") {
        // Neither takes a sign.
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        None if !s.trim().starts_with('+') => s.trim().parse().ok(),
        _ => None,
    };
    let parts = text.split_once('/').map(|(value, mask)| (number(value), number(mask)));
    let Some((Some(value), Some(mask))) = parts else {
        return item.refuse(format!("{text:?} is not a mark"), REMEDY);
    };
    if value & !mask != 0 {
        let remedy = format!("write \"{value:#x}/{:#x}\", or a smaller value", value | mask);
        return item.refuse(format!("{text:?} has bits set outside its mask"), remedy);
    }
    if value == 0 {
        return item.refuse(format!("{text:?} is what a packet without a mark has"), "write a value that is not zero");
    }
    Some(Mark { value, mask })
}

/// A glob pattern for names of interfaces.
pub(super) fn interface_pattern(item: &Item<'_>) -> Option<String> {
    let text = item.text("write the name of an interface, or a pattern such as \"ppp*\"")?;
    if text.is_empty() || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return item.refuse(format!("{text:?} can't be the name of an interface"), "write one as `ip link` shows it");
    }
    match glob::Pattern::new(text) {
        // A plain name that no interface can have; a pattern may well be longer.
        Ok(_) if !text.contains(['*', '?', '[']) && text.len() > INTERFACE_NAME_MAX => item.refuse(
            format!("{text:?} is longer than {INTERFACE_NAME_MAX} bytes"),
            "write a name as `ip link` shows it",
        ),
        Ok(_) => Some(text.to_owned()),
        Err(e) => item.refuse(
            format!("{text:?} is not a glob pattern: {} at character {}", e.msg, e.pos + 1),
            "use * for any text, ? for any character, [ab] for one of several",
        ),
    }
}

/// The name of an interface without patterns.
pub(super) fn interface_name(item: &Item<'_>, name: &str) -> Option<String> {
    let bad = |c: char| matches!(c, '/' | '*' | '?' | '[') || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > INTERFACE_NAME_MAX || name.contains(bad) {
        return item.refuse(
            format!("{name:?} can't be the name of an interface"),
            "write @ and a name as `ip link` shows it, such as \"@wan0\"",
        );
    }
    Some(name.to_owned())
}

/// The name of a set of nftables.
pub(super) fn nft_name(item: &Item<'_>) -> Option<String> {
    const REMEDY: &str = "write a name as `nft list sets` shows it, such as \"ftp_pin4\"";
    let text = item.text(REMEDY)?;
    if is_nft_name(text) {
        return Some(text.to_owned());
    }
    item.refuse(format!("{text:?} can't be the name of a set"), REMEDY)
}

/// Whether nftables takes it for a name (`nft`'s grammar; NFT_NAME_MAXLEN is 256 with the final zero).
pub(super) fn is_nft_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '\\' | '-');
    name.len() < 256 && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest)
}

/// Longest name of an interface: the kernel's IFNAMSIZ without the final zero.
const INTERFACE_NAME_MAX: usize = 15;
