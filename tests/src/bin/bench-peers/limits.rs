//! Where a packet's time goes, by leaving things out: what a program that does nothing costs at the same hooks, and what
//! the daemon's reading at the same time adds.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType, tc::TcAttachOptions};
use ftp_helper::{dataplane::Options, lab::OUTSIDE_INTERFACE};
use ftp_helper_tests::{
    gateway::{counter, until},
    testrun::Kernel,
};
use nix::sys::signal::Signal;

use crate::{
    forge::Forge,
    ground::Ground,
    packets::{Packets, apart, dialogue, packets},
};

/// What is on top of plain forwarding with an empty program at both hooks. `ground` is one of plain forwarding.
pub(crate) fn empty_program(ground: &Ground, n: usize) -> Result<Packets> {
    let mut kernel = Kernel::load(&Options { instance: None, programs: &["ftp_empty"], ..Options::default() });
    let before = packets(ground, n)?;
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        let program = kernel.plane().ebpf_mut().program_mut("ftp_empty").context("no empty program")?;
        let program: &mut SchedClassifier = program.try_into()?;
        // As the daemon does: TCX where the kernel has it.
        let tcx =
            || program.attach_with_options(OUTSIDE_INTERFACE, hook, TcAttachOptions::TcxOrder(Default::default()));
        ground.lab.gateway().run_in(tcx)?.context("can't attach the empty program")?;
    }
    Ok(packets(ground, n)?.beyond(&before))
}

/// What lines and announcements take while the daemon is stopped, so that nobody reads what the kernel writes, nor confirms
/// what it opens. Few enough that they fit in the ring buffer, and are over before the daemon's sign of life is stale.
pub(crate) fn daemon_stopped(ground: &Ground, plain: &Ground, n: usize) -> Result<Packets> {
    let gateway = ground.daemon()?;
    let before = gateway.status()?;
    gateway.signal(Signal::SIGSTOP)?;
    let stopped = apart(|| dialogue(&mut Forge::new(&ground.lab, false)?, n));
    gateway.signal(Signal::SIGCONT)?;
    let stopped = stopped?;
    until("the daemon goes on", || gateway.status().ok().map(drop))?;
    let after = gateway.status()?;
    for bad in ["ring_full", "blinded", "unrecorded"] {
        let n = counter(&after, bad) - counter(&before, bad);
        ensure!(n == 0, "the figures are of another path: {bad} was counted {n} times");
    }
    Ok(stopped.beyond(&packets(plain, n)?))
}
