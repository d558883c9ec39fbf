//! The kernel side as the daemon sees it: loaded, pinned, attached, told what to do, and listened to.
//!
//! [`Dataplane`] owns the programs and tables. It turns the policy into tables (`tables`), commands into runs of the
//! command program, and ring-buffer bytes into records; what it reads of sessions, pinholes and counters is in
//! `snapshot`.

mod attach;
mod checksum;
mod cursor;
mod interfaces;
mod leftovers;
mod load;
mod netlink;
mod park;
mod pins;
mod platform;
mod programs;
mod ring;
mod shield;
mod snapshot;
mod tables;
mod testbed;

pub use attach::{AttachKind, Attached};
pub use cursor::Cursor;
pub use interfaces::{Interface, Link, list as interfaces};
pub use leftovers::{detach_left, is_left};
pub use load::{Options, PINNED, TRANSITORY, object};
pub use park::Parking;
pub use pins::PinDir;
pub use platform::{NEEDED, Platform};
pub use programs::verified_instructions;
pub use ring::RingReader;
pub use shield::{Shield, ShieldKind};
pub use snapshot::Counters;
pub use tables::{Direction, FastPath, Guard, STALE_AFTER};
pub use testbed::{FRAME_MAX, LinkLayer, Metadata, Testbed, Verdict};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp},
};
use ftp_helper_common::{
    command::{Command, Outcome, op},
    key::FlowKey,
};

/// The programs and tables in the kernel.
pub struct Dataplane {
    ebpf: Ebpf,
    attached: Vec<Attached>,
    pins: Option<PinDir>,
    kind: AttachKind,
    shield: Shield,
    /// Whether the tables were there already, with sessions in them.
    adopted: bool,
    mark: u32,
}

impl Dataplane {
    /// Whether the tables of an earlier daemon were taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The mark of parked SYNs that are sent on.
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// The interfaces that the programs are attached to.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// Carries out one command in the kernel.
    ///
    /// # Errors
    /// When the run itself fails; what the kernel makes of the command is the [`Outcome`].
    pub fn command(&self, command: &Command) -> anyhow::Result<Outcome> {
        // SAFETY: `Command` is `repr(C)` without implicit padding (asserted where it is defined).
        let bytes =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(command).cast::<u8>(), size_of::<Command>()) };
        let code = self.run("ftp_command", bytes)?.0;
        Outcome::from_code(code).ok_or_else(|| anyhow!("the kernel answered a command with {code}"))
    }

    /// Has the kernel forget what nobody counts on any more: clients without pinholes, and pairs of hosts without encrypted
    /// sessions.
    ///
    /// # Errors
    /// When a table can't be read, or a run fails.
    pub fn forget_idle(&self) -> anyhow::Result<()> {
        for (client, state) in self.clients()? {
            if state.pinholes == 0 {
                let flow = FlowKey { initiator: client, ..FlowKey::default() };
                self.command(&Command { op: op::FORGET_CLIENT, flow, ..Command::default() })?;
            }
        }
        for (pinhole, state) in self.ranges()? {
            if state.sessions == 0 {
                self.command(&Command { op: op::FORGET_RANGE, pinhole, ..Command::default() })?;
            }
        }
        Ok(())
    }

    /// Runs a program on a frame (`BPF_PROG_TEST_RUN`); its return value.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run(&self, program: &str, frame: &[u8]) -> anyhow::Result<(u32, std::time::Duration)> {
        self.run_repeatedly(program, frame, &[], 1)
    }

    /// Runs a program on a frame many times; its last return value and the mean duration.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run_repeatedly(
        &self,
        program: &str,
        frame: &[u8],
        context: &[u8],
        times: u32,
    ) -> anyhow::Result<(u32, std::time::Duration)> {
        let result = self.test(
            program,
            TestRunOptions {
                data_in: Some(frame),
                ctx_in: (!context.is_empty()).then_some(context),
                repeat: times,
                ..TestRunOptions::new()
            },
        )?;
        Ok((result.return_value, result.duration))
    }

    /// A test run of a program, at a hook of TC or in XDP.
    fn test(&self, name: &str, options: TestRunOptions<'_>) -> anyhow::Result<TestRunResult> {
        let program = self.ebpf.program(name).ok_or_else(|| anyhow!("no program {name} in the object"))?;
        let result = if let Ok(program) = <&SchedClassifier>::try_from(program) {
            program.test_run(options)
        } else {
            <&Xdp>::try_from(program).context("a program of another kind")?.test_run(options)
        };
        result.context("can't run a program in the kernel")
    }

    /// Tells the kernel side that the daemon lives; `now` is `CLOCK_MONOTONIC` in nanoseconds.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn beat(&mut self, now: u64) -> anyhow::Result<()> {
        self.array::<u64>("HEARTBEAT")?.set(0, now, 0).context("can't write the heartbeat")
    }

    /// `CLOCK_MONOTONIC` of the last heartbeat, nanoseconds; 0 if there was none.
    ///
    /// # Errors
    /// When the table can't be read.
    pub fn heartbeat(&self) -> anyhow::Result<u64> {
        let map = self.ebpf.map("HEARTBEAT").ok_or_else(|| anyhow!("no table HEARTBEAT"))?;
        Array::<_, u64>::try_from(map)?.get(&0, 0).context("can't read the heartbeat")
    }

    /// Notes whether the daemon reads a ring buffer by itself, so that nobody needs to wake it.
    ///
    /// # Errors
    /// When the table can't be written.
    pub fn set_awake(&mut self, ring: Ring, awake: bool) -> anyhow::Result<()> {
        self.array::<u32>("AWAKE")?.set(ring as u32, u32::from(awake), 0).context("can't write to the kernel")
    }

    /// Takes a ring buffer out, to be read.
    ///
    /// # Errors
    /// When it was taken before, or can't be mapped.
    pub fn take_ring(&mut self, ring: Ring) -> anyhow::Result<RingReader> {
        let name = ring.name();
        let map = self.ebpf.take_map(name).ok_or_else(|| anyhow!("no ring buffer {name}"))?;
        RingReader::new(map).with_context(|| format!("can't read {name}"))
    }

    /// The object, for aya-log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> anyhow::Result<Array<&mut MapData, T>> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| anyhow!("no table {name} in the object"))?;
        Array::try_from(map).with_context(|| format!("{name} is not the table that was expected"))
    }
}

/// The ring buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// What the engine must see.
    Events = 0,
    /// What is told to people.
    Telemetry = 1,
    /// SYNs that came too early.
    Parked = 2,
}

impl Ring {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "EVENTS",
            Self::Telemetry => "TELEMETRY",
            Self::Parked => "PARKED",
        }
    }
}
