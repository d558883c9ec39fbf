//! Where a packet's time goes, by leaving things out: what a program that does nothing costs at the same hooks, what the calls
//! into the kernel cost that none can do without, and what the daemon's reading at the same time adds.

use anyhow::{Context as _, Result};
use aya::programs::{
    SchedClassifier, TcAttachType, Xdp, XdpMode,
    tc::{SchedClassifierLinkId, TcAttachOptions},
};
use ftp_helper::{dataplane::Options, lab::OUTSIDE_INTERFACE};
use ftp_helper_tests::{gateway::until, testrun::Kernel};
use nix::sys::signal::Signal;

use crate::{
    again::on_path,
    ground::Ground,
    packets::{Openings, Packets, apart, dialogue, openings, packets},
};

/// What is on top of plain forwarding with an empty program at both hooks. `ground` is one of plain forwarding.
pub(crate) fn empty_program(ground: &Ground, n: usize) -> Result<Packets> {
    with_programs(ground, n, "ftp_empty", "ftp_empty")
}

/// The same with what a control segment costs at the least at both hooks, and for an announcement, which comes by the way
/// out, with what that costs at the least. Nobody reads the records: few enough that they fit in the ring buffer.
pub(crate) fn least(ground: &Ground, n: usize) -> Result<Packets> {
    let segments = with_programs(ground, n, "ftp_floor_segment", "ftp_floor_segment")?;
    let announcements = with_programs(ground, n, "ftp_floor_segment", "ftp_floor_pinhole")?;
    Ok(Packets { data: segments.data, line: segments.line, ..announcements })
}

/// What begins a data connection, on top of plain forwarding: with what a transfer costs at the least at both hooks, and with
/// ftp-helper. `plain` is a ground of plain forwarding, `ours` one of ftp-helper's.
pub(crate) fn beginnings(plain: &Ground, ours: &Ground, n: usize) -> Result<[Openings; 2]> {
    let mut kernel = Kernel::load(&Options { instance: None, programs: &[LEAST_TRANSFER], ..Options::default() });
    let base = openings(plain, n)?;
    let ours = openings(ours, n)?.beyond(&base);
    attach(&mut kernel, plain, TcAttachType::Ingress, LEAST_TRANSFER)?;
    attach(&mut kernel, plain, TcAttachType::Egress, LEAST_TRANSFER)?;
    Ok([openings(plain, n)?.beyond(&base), ours])
}

/// The program that does the least for a whole transfer.
pub(crate) const LEAST_TRANSFER: &str = "ftp_floor_transfer";

/// What is on top of plain forwarding with a program at each hook.
fn with_programs(ground: &Ground, n: usize, ingress: &str, egress: &str) -> Result<Packets> {
    let programs: &'static [&'static str] = &["ftp_empty", "ftp_floor_segment", "ftp_floor_pinhole"];
    let mut kernel = Kernel::load(&Options { instance: None, programs, ..Options::default() });
    let before = packets(ground, n)?;
    attach(&mut kernel, ground, TcAttachType::Ingress, ingress)?;
    attach(&mut kernel, ground, TcAttachType::Egress, egress)?;
    Ok(packets(ground, n)?.beyond(&before))
}

/// Attaches a program to a hook of the gateway's outside interface.
pub(crate) fn attach(
    kernel: &mut Kernel,
    ground: &Ground,
    hook: TcAttachType,
    name: &str,
) -> Result<SchedClassifierLinkId> {
    let program = classifier(kernel, name)?;
    // As the daemon does: TCX where the kernel has it.
    let tcx = || program.attach_with_options(OUTSIDE_INTERFACE, hook, TcAttachOptions::TcxOrder(Default::default()));
    ground.lab.gateway().run_in(tcx)?.with_context(|| format!("can't attach {name}"))
}

/// Takes it away again.
pub(crate) fn detach(kernel: &mut Kernel, link: SchedClassifierLinkId, name: &str) -> Result<()> {
    classifier(kernel, name)?.detach(link).with_context(|| format!("can't detach {name}"))
}

/// A program for a hook of TC.
fn classifier<'a>(kernel: &'a mut Kernel, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = kernel.plane().ebpf_mut().program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// What is on top of plain forwarding with an XDP program in the driver that does nothing.
pub(crate) fn empty_shield(ground: &Ground, n: usize) -> Result<Packets> {
    let mut kernel =
        Kernel::load(&Options { instance: None, programs: &["ftp_empty", "ftp_empty_xdp"], ..Options::default() });
    let before = packets(ground, n)?;
    let program = kernel.plane().ebpf_mut().program_mut("ftp_empty_xdp").context("no empty XDP program")?;
    let program: &mut Xdp = program.try_into()?;
    let attach = || program.attach(OUTSIDE_INTERFACE, XdpMode::Driver);
    ground.lab.gateway().run_in(attach)?.context("can't attach the empty XDP program")?;
    Ok(packets(ground, n)?.beyond(&before))
}

/// What lines and announcements take while the daemon is stopped, so that nobody reads what the kernel writes, nor confirms
/// what it opens. Few enough that they fit in the ring buffer, and are over before the daemon's sign of life is stale.
pub(crate) fn daemon_stopped(ground: &Ground, plain: &Ground, n: usize) -> Result<Packets> {
    let gateway = ground.daemon()?;
    let before = gateway.status()?;
    gateway.signal(Signal::SIGSTOP)?;
    let stopped = apart(|| dialogue(&mut ground.forge()?, n));
    gateway.signal(Signal::SIGCONT)?;
    let stopped = stopped?;
    until("the daemon goes on", || gateway.status().ok().map(drop))?;
    let after = gateway.status()?;
    on_path(&before, &after)?;
    Ok(stopped.beyond(&packets(plain, n)?))
}
