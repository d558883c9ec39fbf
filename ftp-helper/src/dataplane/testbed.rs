//! The programs as they are loaded into this kernel, run on single frames (`BPF_PROG_TEST_RUN`): for captures and tests.
//!
//! The tables are the test bed's own and not pinned, and nothing is attached to any interface. When it is dropped, the
//! kernel removes all of it.
//!
//! The programs go by the kernel's clock; whoever runs frames of another time says with [`Testbed::age_session`] and
//! [`Testbed::age_flow`] what is older there than here.

use anyhow::{Context as _, anyhow, bail};
use aya::{maps::HashMap, programs::TestRunOptions};
use ftp_helper_common::{
    key::{HOOK_IN, SessionKey, TupleKey},
    state::{FlowState, Locked, SessionState},
};
use nix::time::{ClockId, clock_gettime};

use super::{Dataplane, Options, Ring, RingReader, snapshot::LOCKED};

/// The longest frame that every kernel runs, bytes. A test run's packet has to fit into one page of memory, together with
/// its head room and what describes it (net/bpf/test_run.c), whose size is a matter of configuration; most kernels take some
/// hundred bytes more.
pub const FRAME_MAX: usize = 3072;

/// Verdicts in XDP (linux/bpf.h).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// The size of `struct __sk_buff` (linux/bpf.h).
const SKB: usize = 192;
/// How long a sign of life lasts, nanoseconds, and how long it is trusted.
const HOUR: u64 = 3_600_000_000_000;
/// `BPF_EXIST`: only an entry that is there is written.
const EXIST: u64 = 2;

/// What a program says of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On to the next program and filter (`TC_ACT_UNSPEC`).
    Pass,
    /// Dropped (`TC_ACT_SHOT`).
    Drop,
    /// Turned round or sent elsewhere (`TC_ACT_REDIRECT`).
    Redirect,
}

/// What a frame begins with, and so which programs it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LinkLayer {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// The IP header. A test run takes the first 14 bytes of any frame for an Ethernet header, and the packet's protocol
    /// from it: for bytes 12 and 13, which are of an address, it has to be right by chance.
    None,
}

/// What a frame has beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Its mark.
    pub mark: u32,
    /// The interface that it came in by, or 0.
    pub ingress_ifindex: u32,
}

/// Programs and tables in the kernel, attached to nothing, and readers of their ring buffers.
pub struct Testbed {
    plane: Dataplane,
    rings: [RingReader; 3],
    /// When the next sign of life is due.
    beat: u64,
}

impl Testbed {
    /// Loads programs and tables of its own; `options.instance` is not looked at.
    ///
    /// # Errors
    /// When the host can't run them, the caller may not, or the kernel refuses.
    pub fn load(options: &Options) -> anyhow::Result<Self> {
        let mut plane = Dataplane::load(&Options { instance: None, ..options.clone() })?;
        let rings = [plane.take_ring(Ring::Events)?, plane.take_ring(Ring::Telemetry)?, plane.take_ring(Ring::Parked)?];
        let mut bed = Self { plane, rings, beat: 0 };
        bed.stay_alive()?;
        Ok(bed)
    }

    /// The loaded programs and tables.
    pub fn plane(&self) -> &Dataplane {
        &self.plane
    }

    /// The same, to be changed.
    pub fn plane_mut(&mut self) -> &mut Dataplane {
        &mut self.plane
    }

    /// Runs the program of a hook (`HOOK_IN` or `HOOK_OUT`) on a frame; its verdict, and the mark that the frame has then.
    ///
    /// # Errors
    /// When the kernel refuses the run, as it does where the frame is shorter than an Ethernet header or too long.
    pub fn run(&self, hook: u8, link: LinkLayer, frame: &[u8], metadata: Metadata) -> anyhow::Result<(Verdict, u32)> {
        self.run_into(hook, link, frame, metadata, None).map(|(verdict, mark, _)| (verdict, mark))
    }

    /// The same, with the frame as the program leaves it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn change_frame(
        &self,
        hook: u8,
        link: LinkLayer,
        frame: &[u8],
        metadata: Metadata,
    ) -> anyhow::Result<(Verdict, u32, Vec<u8>)> {
        let mut after = vec![0; FRAME_MAX];
        let (verdict, mark, len) = self.run_into(hook, link, frame, metadata, Some(&mut after))?;
        after.truncate(len);
        Ok((verdict, mark, after))
    }

    fn run_into(
        &self,
        hook: u8,
        link: LinkLayer,
        frame: &[u8],
        metadata: Metadata,
        frame_after: Option<&mut [u8]>,
    ) -> anyhow::Result<(Verdict, u32, usize)> {
        let name = match (hook, link) {
            (HOOK_IN, LinkLayer::Ethernet) => "ftp_ingress",
            (_, LinkLayer::Ethernet) => "ftp_egress",
            (HOOK_IN, LinkLayer::None) => "ftp_ingress_l3",
            (_, LinkLayer::None) => "ftp_egress_l3",
        };
        let context = metadata.context();
        let mut after = [0; SKB];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: frame_after,
            ctx_in: (!context.is_empty()).then_some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::new()
        };
        let result = self.plane.test(name, options)?;
        let verdict = match result.return_value {
            0xffff_ffff => Verdict::Pass,
            2 => Verdict::Drop,
            7 => Verdict::Redirect,
            other => bail!("the program {name} returned {other}, which is no verdict of its"),
        };
        let [.., a, b, c, d] = *after.first_chunk::<12>().context("a context is longer")?;
        Ok((verdict, u32::from_ne_bytes([a, b, c, d]), result.data_size_out as usize))
    }

    /// Runs the shield on a frame, as if it had just arrived: its verdict, to pass or to drop.
    ///
    /// # Errors
    /// When the kernel refuses the run, as it does where the frame is shorter than an Ethernet header or too long.
    pub fn shield(&self, link: LinkLayer, frame: &[u8]) -> anyhow::Result<Verdict> {
        let name = match link {
            LinkLayer::Ethernet => "ftp_shield",
            LinkLayer::None => "ftp_shield_l3",
        };
        match self.plane.run(name, frame)?.0 {
            XDP_PASS => Ok(Verdict::Pass),
            XDP_DROP => Ok(Verdict::Drop),
            other => bail!("the program {name} returned {other}, which is no verdict of its"),
        }
    }

    /// Hands over and frees every record that the programs have written: those that the engine must see in their order, then
    /// those for people, then parked SYNs.
    ///
    /// # Errors
    /// When a ring buffer can't be read.
    pub fn records(&mut self, mut f: impl FnMut(&[u8])) -> anyhow::Result<()> {
        for ring in &mut self.rings {
            while ring.next(&mut f)? {}
        }
        Ok(())
    }

    /// The daemon lives: for the programs, this process is it. To be called now and then by whoever runs frames for hours.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn stay_alive(&mut self) -> anyhow::Result<()> {
        let now = monotonic();
        if now >= self.beat {
            // A sign of life from the future is as good as one of now.
            self.plane.beat(now + HOUR)?;
            self.beat = now + HOUR / 2;
        }
        Ok(())
    }

    /// It is long since the session told anything: one that nobody reads tells with its next segment that it lives.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn age_session(&mut self, key: &SessionKey) -> anyhow::Result<()> {
        self.change("SESSIONS", key, |s: &mut SessionState| s.last = 0)
    }

    /// The time of the pinhole that a data connection came by is over: a reset does not arm it again.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn age_flow(&mut self, key: &TupleKey) -> anyhow::Result<()> {
        self.change("FLOWS", key, |f: &mut FlowState| f.deadline = 0)
    }

    /// Changes an entry past the programs, which are not running meanwhile; one that is not there stays away.
    fn change<K: aya::Pod, S>(&mut self, name: &str, key: &K, change: impl FnOnce(&mut S)) -> anyhow::Result<()>
    where
        Locked<S>: aya::Pod,
    {
        let map = self.plane.ebpf_mut().map_mut(name).ok_or_else(|| anyhow!("no table {name} in the object"))?;
        let mut table = HashMap::<_, K, Locked<S>>::try_from(map)?;
        let Ok(mut value) = table.get(key, LOCKED) else { return Ok(()) };
        change(&mut value.state);
        table.insert(key, value, EXIST | LOCKED).with_context(|| format!("can't write to {name}"))
    }
}

impl Metadata {
    /// The beginning of `struct __sk_buff` (linux/bpf.h), as a test run takes it; nothing where there is nothing to say.
    fn context(self) -> Vec<u8> {
        if self == Self::default() {
            return Vec::new();
        }
        // len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex,
        // ifindex; the rest stays zero.
        let mut words = [0u32; 11];
        (words[2], words[9]) = (self.mark, self.ingress_ifindex);
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }
}

/// `CLOCK_MONOTONIC`, nanoseconds.
fn monotonic() -> u64 {
    // It can't fail on Linux; 0 would only make everything look old.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec().cast_unsigned() * 1_000_000_000 + t.tv_nsec().cast_unsigned())
}
