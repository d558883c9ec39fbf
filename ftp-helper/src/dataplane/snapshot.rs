//! Reading the kernel's tables.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use aya::maps::{Array, HashMap, MapError, PerCpuArray};
use ftp_helper_common::{
    addr::Addr,
    counter::{self, Counter},
    key::{HOOK_IN, PinholeKey, SessionKey, TupleKey},
    nat::{Alias, Translation},
    policy::{PORTS_PER_CHUNK, PortChunk},
    reason::Reason,
    state::{ClientState, FlowState, Locked, PinholeState, RangeState, SAVED_BYTES, SessionState},
};

use super::Dataplane;

/// `BPF_F_LOCK`: the value is copied under its spin lock.
pub(super) const LOCKED: u64 = 4;

/// The counters of all CPUs, added up.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    values: Vec<u64>,
}

impl Counters {
    /// One counter.
    pub fn get(&self, c: Counter) -> u64 {
        self.at(c as u32)
    }

    /// The counter of a reason.
    pub fn reason(&self, r: Reason) -> u64 {
        self.at(counter::of_reason(r))
    }

    /// Every counter by its name.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        Counter::ALL.iter().map(|c| (c.as_str().to_string(), self.get(*c))).collect()
    }

    /// Every reason that was counted, by its name.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        let counted = Reason::ALL.iter().map(|r| (r.as_str().to_string(), self.reason(*r)));
        counted.filter(|(_, n)| *n > 0).collect()
    }

    fn at(&self, index: u32) -> u64 {
        self.values.get(index as usize).copied().unwrap_or(0)
    }
}

impl Dataplane {
    /// Reads the counters.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        let map = self.ebpf.map("COUNTERS").ok_or_else(|| anyhow!("no table COUNTERS in the object"))?;
        let table = PerCpuArray::<_, u64>::try_from(map)?;
        let mut values = Vec::with_capacity(counter::COUNT as usize);
        for i in 0..counter::COUNT {
            values.push(table.get(&i, 0).context("can't read the counters")?.iter().sum());
        }
        Ok(Counters { values })
    }

    /// One counter, of all CPUs.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn counter(&self, c: Counter) -> anyhow::Result<u64> {
        let map = self.ebpf.map("COUNTERS").ok_or_else(|| anyhow!("no table COUNTERS in the object"))?;
        let values = PerCpuArray::<_, u64>::try_from(map)?.get(&(c as u32), 0).context("can't read a counter")?;
        Ok(values.iter().sum())
    }

    /// Every session.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn sessions(&self) -> anyhow::Result<Vec<(SessionKey, SessionState)>> {
        Ok(self.entries::<SessionKey, Locked<SessionState>>("SESSIONS", LOCKED)?.map(|(k, v)| (k, v.state)).collect())
    }

    /// One session.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn session(&self, key: &SessionKey) -> anyhow::Result<Option<SessionState>> {
        let map = self.ebpf.map("SESSIONS").ok_or_else(|| anyhow!("no table SESSIONS in the object"))?;
        let table = HashMap::<_, SessionKey, Locked<SessionState>>::try_from(map)?;
        Ok(table.get(key, LOCKED).ok().map(|v| v.state))
    }

    /// What a daemon before this one has saved of its sessions, by their ids; zeroes behind it.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn saved(&self) -> anyhow::Result<BTreeMap<u64, Box<[u8; SAVED_BYTES]>>> {
        Ok(self.entries::<u64, [u8; SAVED_BYTES]>("SAVED", 0)?.map(|(id, bytes)| (id, Box::new(bytes))).collect())
    }

    /// Saves what the next daemon needs of a session, or with `None` removes it: it is no error if it is not there.
    ///
    /// # Errors
    /// When the table can't be written, for want of memory too.
    pub fn save(&mut self, session: u64, bytes: Option<&[u8; SAVED_BYTES]>) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("SAVED").ok_or_else(|| anyhow!("no table SAVED in the object"))?;
        let mut table = HashMap::<_, u64, [u8; SAVED_BYTES]>::try_from(map)?;
        match bytes {
            Some(bytes) => table.insert(session, bytes, 0).context("can't save a session"),
            None => match table.remove(&session) {
                Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
                Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                Err(e) => Err(e).context("can't remove a saved session"),
            },
        }
    }

    /// Every unconsumed pinhole.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn pinholes(&self) -> anyhow::Result<Vec<(PinholeKey, PinholeState)>> {
        Ok(self.entries::<PinholeKey, Locked<PinholeState>>("PINHOLES", LOCKED)?.map(|(k, v)| (k, v.state)).collect())
    }

    /// Every data connection.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn flows(&self) -> anyhow::Result<Vec<(TupleKey, FlowState)>> {
        Ok(self.entries::<TupleKey, Locked<FlowState>>("FLOWS", LOCKED)?.map(|(k, v)| (k, v.state)).collect())
    }

    /// One data connection.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn flow(&self, key: &TupleKey) -> anyhow::Result<Option<FlowState>> {
        let map = self.ebpf.map("FLOWS").ok_or_else(|| anyhow!("no table FLOWS in the object"))?;
        let table = HashMap::<_, TupleKey, Locked<FlowState>>::try_from(map)?;
        Ok(table.get(key, LOCKED).ok().map(|v| v.state))
    }

    /// Every client's quota.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn clients(&self) -> anyhow::Result<Vec<(Addr, ClientState)>> {
        Ok(self.entries::<Addr, ClientState>("CLIENTS", 0)?.collect())
    }

    /// Hosts with encrypted sessions whose server has a range for them, with the number of these sessions.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn ranges(&self) -> anyhow::Result<Vec<(PinholeKey, RangeState)>> {
        Ok(self.entries::<PinholeKey, RangeState>("RANGES", 0)?.collect())
    }

    /// What is known of the inside end of each control connection.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn aliases(&self) -> anyhow::Result<Vec<(SessionKey, Alias)>> {
        Ok(self.entries::<SessionKey, Locked<Alias>>("ALIASES", LOCKED)?.map(|(k, v)| (k, v.state)).collect())
    }

    /// The translations of one direction ([`ftp_helper_common::key::HOOK_IN`]: of what arrives), by the connection as the
    /// packets that it is for have it.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn translations(&self, hook: u8) -> anyhow::Result<Vec<(TupleKey, Translation)>> {
        Ok(self.entries::<TupleKey, Translation>(if hook == HOOK_IN { "INWARD" } else { "OUTWARD" }, 0)?.collect())
    }

    /// SYNs by destination port: how many were denied, and how many `observe` passed that would have been.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn denied_by_port(&self) -> anyhow::Result<BTreeMap<u16, [u64; 2]>> {
        let map = self.ebpf.map("DENIED").ok_or_else(|| anyhow!("no table DENIED in the object"))?;
        let table = Array::<_, PortChunk>::try_from(map)?;
        let half = 65536 / PORTS_PER_CHUNK;
        let mut counts = BTreeMap::new();
        for i in 0..2 * half {
            let chunk = table.get(&(i as u32), 0).context("can't read the denied ports")?;
            for (j, n) in chunk.0.iter().enumerate().filter(|(_, n)| **n > 0) {
                let port = (i % half * PORTS_PER_CHUNK + j) as u16;
                counts.entry(port).or_insert([0; 2])[i / half] = *n;
            }
        }
        Ok(counts)
    }

    /// One unconsumed pinhole.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn pinhole(&self, key: &PinholeKey) -> anyhow::Result<Option<PinholeState>> {
        let map = self.ebpf.map("PINHOLES").ok_or_else(|| anyhow!("no table PINHOLES in the object"))?;
        let table = HashMap::<_, PinholeKey, Locked<PinholeState>>::try_from(map)?;
        Ok(table.get(key, LOCKED).ok().map(|v| v.state))
    }

    /// An entry that goes while the table is read is left out.
    fn entries<K: aya::Pod, V: aya::Pod>(
        &self,
        name: &str,
        flags: u64,
    ) -> anyhow::Result<impl Iterator<Item = (K, V)> + use<K, V>> {
        let map = self.ebpf.map(name).ok_or_else(|| anyhow!("no table {name} in the object"))?;
        let table = HashMap::<_, K, V>::try_from(map)?;
        let mut all = Vec::new();
        for key in table.keys() {
            let key = key.with_context(|| format!("can't read {name}"))?;
            if let Ok(value) = table.get(&key, flags) {
                all.push((key, value));
            }
        }
        Ok(all.into_iter())
    }
}
