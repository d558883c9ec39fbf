//! What a network device does by itself: the features that `ethtool -k` shows, by the ioctl that it once used.

use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// linux/sockios.h.
const SIOCETHTOOL: u32 = 0x8946;
/// Commands (linux/ethtool.h).
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
/// `ETH_SS_FEATURES`: the names of features, of 32 bytes each.
const FEATURES: u32 = 4;
const NAME: usize = 32;

/// The features of an interface, and whether each is on.
///
/// # Errors
/// When the interface is gone, or its driver has no such list.
pub(super) fn features(interface: &str) -> io::Result<BTreeMap<String, bool>> {
    let count = {
        // cmd, reserved, a mask of 64 bits, one number for the one bit that is set in it.
        let mut request = [GSSET_INFO, 0, 1 << FEATURES, 0, 0];
        ask(interface, &mut request)?;
        request[4] as usize
    };
    // More than any kernel has; the sizes below come from it.
    if count == 0 || count > 4096 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // cmd, which strings, how many, then the strings.
    let mut names = vec![0u32; 3 + count * NAME / 4];
    names[..3].copy_from_slice(&[GSTRINGS, FEATURES, count as u32]);
    ask(interface, &mut names)?;
    // cmd, number of blocks, then blocks of four masks: available, requested, active, never changed.
    let blocks = count.div_ceil(32);
    let mut states = vec![0u32; 2 + 4 * blocks];
    states[..2].copy_from_slice(&[GFEATURES, blocks as u32]);
    ask(interface, &mut states)?;
    let bytes: Vec<u8> = names[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let on = |i: usize| states[2 + i / 32 * 4 + 2] >> (i % 32) & 1 != 0;
    let name = |raw: &[u8]| String::from_utf8_lossy(raw.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    Ok(bytes.chunks_exact(NAME).enumerate().map(|(i, raw)| (name(raw), on(i))).collect())
}

/// `SIOCETHTOOL`: the kernel reads and fills `request`, whose size its first words say.
fn ask(interface: &str, request: &mut [u32]) -> io::Result<()> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero `ifreq` is a value of it.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: the name ends in a zero, and the data points to `request`, which is as long as its command, and the count
    // that it holds, make the kernel read and write (checked by the callers' arithmetic above); both outlive the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut ifreq) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_features() {
        let all = features("lo").unwrap();
        assert_eq!(all.get("rx-lro"), Some(&false), "{all:?}");
        assert!(all.contains_key("rx-gro") && all.contains_key("hw-tc-offload"), "{all:?}");
        assert!(features("nosuch0").is_err());
        assert!(features("a-name-that-is-far-too-long").is_err());
    }
}
