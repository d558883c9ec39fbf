//! Going through a table of the kernel a few entries at a time.

use std::{io, os::fd::AsRawFd as _};

use anyhow::{Context as _, anyhow};
use aya::{Pod, maps::Map};

use super::Dataplane;

/// How far a table was gone through: its last key. `Default` is its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor<K>(Option<K>);

/// `BPF_MAP_GET_NEXT_KEY` (linux/bpf.h).
const GET_NEXT_KEY: libc::c_long = 4;

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct Attributes {
    map_fd: u32,
    pad: u32,
    key: u64,
    next_key: u64,
    flags: u64,
}

impl Dataplane {
    /// The next keys of a hash table, `n` at most; at its end it begins anew with the next call. A table that changes
    /// meanwhile may show a key twice, or from its beginning again.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn next_keys<K: Pod>(&self, name: &str, cursor: &mut Cursor<K>, n: usize) -> anyhow::Result<Vec<K>> {
        let map = self.ebpf.map(name).ok_or_else(|| anyhow!("no table {name} in the object"))?;
        let Map::HashMap(data) = map else { anyhow::bail!("{name} is no hash table") };
        // Makes sure that the table's keys are of this size.
        let info = data.info().with_context(|| format!("can't look at {name}"))?;
        anyhow::ensure!(info.key_size() as usize == size_of::<K>(), "the keys of {name} are of another size");
        let fd = u32::try_from(std::os::fd::AsFd::as_fd(data.fd()).as_raw_fd())?;
        let mut keys = Vec::new();
        while keys.len() < n {
            // SAFETY: `Pod` says that any bytes are a `K`.
            let mut next: K = unsafe { std::mem::zeroed() };
            let attributes = Attributes {
                map_fd: fd,
                pad: 0,
                key: cursor.0.as_ref().map_or(0, |k| std::ptr::from_ref(k) as u64),
                next_key: std::ptr::from_mut(&mut next) as u64,
                flags: 0,
            };
            // SAFETY: the kernel reads a key (or none) and writes one, of the size of the table's keys, which is that
            // of `K` (checked above); both outlive the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    GET_NEXT_KEY,
                    std::ptr::from_ref(&attributes),
                    u32::try_from(size_of::<Attributes>())?,
                )
            };
            if result != 0 {
                let e = io::Error::last_os_error();
                cursor.0 = None;
                if e.raw_os_error() == Some(libc::ENOENT) {
                    break;
                }
                return Err(e).with_context(|| format!("can't go through {name}"));
            }
            cursor.0 = Some(next);
            keys.push(next);
        }
        Ok(keys)
    }
}
