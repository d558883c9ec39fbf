//! ftp-helper beside its peers: plain forwarding, a stateful ruleset with the passive range wide open, and the kernel's own
//! FTP helper, on one machine, in one run.
//!
//! Each peer has three network namespaces in a row for itself, client, gateway and server, and stays as it is for the whole
//! run. A round measures every row with every peer, in random order; what counts is the median of the rounds' ratios to plain
//! forwarding in the same round. Plain forwarding is there twice: what it differs from itself is the noise.

mod again;
mod bound;
mod daemon;
mod forge;
mod ground;
mod interrupt;
mod limits;
mod packets;
mod plot;
mod report;
mod transfers;

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use ftp_helper::lab::{Lab, LabOptions, clients::Family};
use serde_json::json;

use crate::{
    again::again,
    ground::{Ground, Peer, Size, is_known},
    report::{CONNECT, Figures, PACKETS, SMALL, THROUGHPUT},
};

#[derive(Parser)]
#[command(about = "ftp-helper beside plain forwarding, stateful nftables and the kernel's FTP helper; needs root")]
struct Args {
    /// Few rounds, each short: whether all of it can be measured, rather than how much it is.
    #[arg(long)]
    short: bool,
    /// Rounds; the median is shown [default: 9, with --short 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// IPv4 or IPv6: 4 or 6.
    #[arg(long, default_value_t = Family::V4)]
    family: Family,
    /// Only this part, and nothing else; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// For the order in a round; printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Write them to a file as JSON as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long a daemon is watched [default: 20, with --short 2].
    #[arg(long, value_name = "SECONDS")]
    watch: Option<u64>,
    /// Draw the comparison, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What is measured together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    Throughput,
    Connect,
    Packets,
    Small1,
    Small16,
    Small64,
    /// Where a packet's time goes.
    Causes,
    /// Small transfers and connects with the least that can be.
    Bound,
    FirstSyns,
    Growth,
}

impl Part {
    /// Those of a round; the others come once.
    const ALL: [Self; 6] = [Self::Throughput, Self::Connect, Self::Packets, Self::Small1, Self::Small16, Self::Small64];
}

/// How much of each is measured.
struct Effort {
    rounds: u32,
    /// Bytes of a large transfer.
    bytes: usize,
    /// How long small transfers are counted.
    time: Duration,
    /// Connections, and packets of each kind.
    connects: usize,
    packets: usize,
    /// First SYNs, idle and loaded each.
    syns: usize,
    /// Live sessions in the end.
    sessions: u32,
    /// How long the daemon is watched.
    watch: Duration,
}

impl Effort {
    fn of(args: &Args) -> Self {
        let mut effort = if args.short {
            Self {
                rounds: 2,
                bytes: 20_000_000,
                time: Duration::from_millis(200),
                connects: 200,
                packets: 300,
                syns: 500,
                sessions: 2_000,
                watch: Duration::from_secs(2),
            }
        } else {
            Self {
                rounds: 9,
                bytes: 300_000_000,
                time: Duration::from_secs(1),
                connects: 2_000,
                packets: 2_000,
                syns: 100_000,
                sessions: 100_000,
                watch: Duration::from_secs(20),
            }
        };
        effort.watch = args.watch.map_or(effort.watch, Duration::from_secs);
        effort.rounds = args.rounds.unwrap_or(effort.rounds);
        effort
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-peers: {e:#}");
            ExitCode::from(if nix::unistd::geteuid().is_root() { 1 } else { 5 })
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and programs in the kernel need root");
    interrupt::catch()?;
    let effort = Effort::of(args);
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    fastrand::seed(seed);
    let peers = peers()?;
    let mut figures = Figures::default();
    eprintln!("seed {seed}, {} rounds, over IPv{}", effort.rounds, args.family);
    let grounds = peers.iter().map(|&p| Ground::new(p, Size::Default, args.family)).collect::<Result<Vec<_>>>()?;
    // Wires and caches are warm, and every peer lets transfers through.
    for ground in &grounds {
        transfers::connect(ground, 50).with_context(|| ground.peer.name())?;
    }
    let whole = args.only.is_empty();
    let measured = all(&mut figures, grounds, &effort, args);
    // What was measured before something failed is worth seeing.
    show(args, &effort, seed, &figures)?;
    measured?;
    // Over IPv6 nothing is announced by a 227.
    let missing = figures.missing(&peers, if args.family == Family::V6 { &[PACKETS[2]] } else { &[] });
    ensure!(!whole || missing.is_empty(), "these have no figure: {}", missing.join("; "));
    Ok(())
}

/// Measures everything, or only some parts of the rounds.
fn all(figures: &mut Figures, grounds: Vec<Ground>, effort: &Effort, args: &Args) -> Result<()> {
    let only = &args.only[..];
    let whole = only.is_empty();
    let parts = if whole { &Part::ALL[..] } else { only };
    let rounds = if parts.iter().any(|p| Part::ALL.contains(p)) { effort.rounds } else { 0 };
    for n in 1..=rounds {
        eprintln!("round {n} of {}", effort.rounds);
        round(figures, &grounds, effort, parts)?;
    }
    if whole {
        daemons(figures, &grounds, effort)?;
    }
    if whole || only.contains(&Part::Causes) {
        causes(figures, &grounds, effort)?;
    }
    if whole || only.contains(&Part::Bound) {
        bound::bound(figures, of(&grounds, Peer::Plain)?, of(&grounds, Peer::Drop)?, effort)?;
    }
    if whole || only.contains(&Part::FirstSyns) {
        losses(figures, &grounds, effort)?;
    }
    for ground in grounds {
        ground.finish()?;
    }
    if whole || only.contains(&Part::Growth) {
        growth(figures, effort, args.family)?;
    }
    Ok(())
}

/// All that this build has.
fn peers() -> Result<Vec<Peer>> {
    let lab = Lab::new(&LabOptions::default())?;
    let mut peers = Vec::new();
    for peer in Peer::ALL {
        if is_known(peer, &lab)? {
            peers.push(peer);
        } else {
            eprintln!("left out, this build does not know it: {}", peer.name());
        }
    }
    Ok(peers)
}

/// Measures every row with every peer, in random order.
fn round(figures: &mut Figures, grounds: &[Ground], effort: &Effort, parts: &[Part]) -> Result<()> {
    let mut order: Vec<&Ground> = grounds.iter().collect();
    let mut parts = parts.to_vec();
    fastrand::shuffle(&mut parts);
    for part in parts {
        fastrand::shuffle(&mut order);
        for ground in &order {
            measure(figures, ground, effort, part).with_context(|| ground.peer.name())?;
        }
    }
    Ok(())
}

fn measure(figures: &mut Figures, ground: &Ground, effort: &Effort, part: Part) -> Result<()> {
    let peer = ground.peer;
    interrupt::check()?;
    let small = |clients| transfers::small(ground, clients, effort.time);
    match part {
        Part::Throughput => figures.push(THROUGHPUT, peer, transfers::throughput(ground, effort.bytes)?),
        Part::Connect => {
            let (median, late) = transfers::connect(ground, effort.connects)?;
            figures.push(CONNECT[0], peer, median);
            figures.push(CONNECT[1], peer, late);
        }
        Part::Packets => {
            let what = format!("packets, {}", peer.letter());
            let p = again(figures, &what, || packets::packets(ground, effort.packets))?;
            let values = [Some(p.data), Some(p.line), p.r227, Some(p.r229)];
            for (row, value) in PACKETS.into_iter().zip(values).filter_map(|(row, value)| Some((row, value?))) {
                figures.push(row, peer, value);
            }
        }
        Part::Small1 => figures.push(SMALL[0], peer, small(1)?),
        Part::Small16 => figures.push(SMALL[1], peer, small(16)?),
        Part::Small64 => figures.push(SMALL[2], peer, small(64)?),
        Part::Causes | Part::Bound | Part::FirstSyns | Part::Growth => {}
    }
    Ok(())
}

/// What the daemons take.
fn daemons(figures: &mut Figures, grounds: &[Ground], effort: &Effort) -> Result<()> {
    let verifier = daemon::verifier(3)?;
    figures.single("verifier and translation, processor time", None, verifier, "s", None);
    for ground in grounds.iter().filter(|g| g.peer.is_ours()) {
        interrupt::check()?;
        let peer = Some(ground.peer);
        figures.single("start to attached", peer, ground.started.as_secs_f64(), "s", Some(1.0));
        figures.single("start to attached, processor time", peer, ground.processor.as_secs_f64(), "s", None);
        figures.single("daemon idle: of a core", peer, daemon::idle(ground, effort.watch)? * 100.0, "%", Some(0.1));
        let memory = daemon::memory(ground)?;
        figures.single("daemon: resident", peer, memory.resident, "MiB", Some(30.0));
        figures.single("daemon: of that its own (anonymous)", peer, memory.anonymous, "MiB", None);
        let what = format!("control lines of a busy daemon, {}", ground.peer.letter());
        let (share, rate) = again(figures, &what, || daemon::busy(ground, effort.watch))?;
        figures.single("daemon at 20,000 control lines/s: of a core", peer, share * 100.0, "%", Some(25.0));
        figures.single("control lines/s that passed meanwhile", peer, rate, "1/s", None);
        let took = daemon::per_transfer(ground, effort.time)?;
        figures.single("daemon's processor time a transfer, 16 at once", peer, took, "µs", None);
    }
    for ground in grounds.iter().filter(|g| g.peer == Peer::Plain) {
        let own = transfers::own_share(|| transfers::small(ground, 16, effort.time))?;
        let what = "load generator's and responder's part of the time of a small transfer";
        figures.single(what, Some(Peer::Plain), own * 100.0, "%", Some(50.0));
    }
    Ok(())
}

/// First SYNs lost, with everyone that decides about them.
fn losses(figures: &mut Figures, grounds: &[Ground], effort: &Effort) -> Result<()> {
    for ground in grounds {
        let n = match ground.peer {
            Peer::Drop => effort.syns,
            Peer::KernelHelper | Peer::Mark | Peer::Shield => effort.syns / 10,
            _ => continue,
        };
        for (load, loaded) in [("idle", false), ("all cores busy", true)] {
            eprintln!("{n} first SYNs, {}, {load}", ground.peer.name());
            let lost = transfers::first_syns(ground, n, loaded).with_context(|| ground.peer.name())?;
            let what = format!("first SYNs lost of {n}, {load}");
            figures.single(&what, Some(ground.peer), lost as f64, "", ground.peer.is_ours().then_some(0.0));
        }
    }
    Ok(())
}

/// The ground of a peer.
fn of(grounds: &[Ground], peer: Peer) -> Result<&Ground> {
    grounds.iter().find(|g| g.peer == peer).with_context(|| format!("{peer:?} is missing"))
}

/// Where the time goes that ftp-helper takes of a packet.
fn causes(figures: &mut Figures, grounds: &[Ground], effort: &Effort) -> Result<()> {
    let plain = of(grounds, Peer::Plain)?;
    // A second of it at most.
    let n = effort.packets.min(1000);
    let empty = limits::empty_program(plain, effort.packets)?;
    for (what, value) in [("data packet", empty.data), ("control line", empty.line), ("229", empty.r229)] {
        figures.single(&format!("{what}: an empty program at the same hooks, on top of a"), None, value, "ns", None);
    }
    let empty = limits::empty_shield(plain, effort.packets)?;
    for (what, value) in [("data packet", empty.data), ("control line", empty.line), ("229", empty.r229)] {
        let what = format!("{what}: an empty XDP program in the driver, on top of a");
        figures.single(&what, None, value, "ns", None);
    }
    let least = limits::least(plain, n)?;
    for (what, value) in [("control line", least.line)].into_iter().chain(least.announcements()) {
        let what = format!("{what}: the least calls into the kernel at the same hooks, on top of a");
        figures.single(&what, None, value, "ns", None);
    }
    let ours = of(grounds, Peer::Drop)?;
    let stopped = again(figures, "packets with the daemon stopped", || limits::daemon_stopped(ours, plain, n))?;
    for (what, value) in [("control line", stopped.line)].into_iter().chain(stopped.announcements()) {
        let what = format!("{what}: with the daemon stopped, on top of a");
        figures.single(&what, Some(Peer::Drop), value, "ns", None);
    }
    let [least, whole] = again(figures, "data connections", || limits::beginnings(plain, ours, n))?;
    for (what, least, whole) in [("SYN", least.syn, whole.syn), ("SYN-ACK", least.syn_ack, whole.syn_ack)] {
        let what = format!("{what} of a data connection");
        let name = format!("{what}: the least calls into the kernel at the same hooks, on top of a");
        figures.single(&name, None, least, "ns", None);
        figures.single(&format!("{what}, on top of a"), Some(Peer::Drop), whole, "ns", None);
    }
    Ok(())
}

/// What many sessions change.
fn growth(figures: &mut Figures, effort: &Effort, family: Family) -> Result<()> {
    let n = effort.packets.max(1000);
    let many = effort.sessions;
    eprintln!("growth to {many} sessions");
    let plain = packets::growth(Peer::Plain, family, many, n)?;
    let ours = again(figures, "growth", || packets::growth(Peer::Drop, family, many, n))?;
    for (what, of) in [
        ("229 beside 100 live sessions and pinholes", [ours.few, plain.few]),
        ("229 of the same, beside many", [ours.few_of_many, plain.few_of_many]),
        ("229 of any of many", [ours.many, plain.many]),
    ] {
        figures.single(what, Some(Peer::Drop), of[0], "ns", None);
        figures.single(what, Some(Peer::Plain), of[1], "ns", None);
    }
    let least = bound::growth(family, many, n)?;
    for (which, beside_many) in [("the same sessions", least.few_of_many), ("any session", least.many)] {
        let what = format!("growth from 100 to {many}, {which}: with the least calls into the kernel");
        figures.single(&what, None, beside_many / least.few, "", None);
    }
    let peer = Some(Peer::Drop);
    let what = format!("growth from 100 to {many}, the same sessions");
    figures.single(&what, peer, ours.few_of_many / ours.few, "", Some(1.1));
    let what = format!("growth from 100 to {many}, any session");
    figures.single(&what, peer, ours.many / ours.few, "", Some(1.1));
    Ok(())
}

fn show(args: &Args, effort: &Effort, seed: u64, figures: &Figures) -> Result<()> {
    let host = nix::sys::utsname::uname()?;
    let kernel = host.release().to_string_lossy();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let mut all = figures.json();
    all["run"] = json!({
        "seed": seed, "rounds": effort.rounds, "family": args.family, "short": args.short, "kernel": kernel, "load": load,
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "peers": figures.peers().into_iter().map(|p| json!({ "peer": p.letter(), "name": p.name() })).collect::<Vec<_>>(),
    });
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{all:#}\n")).with_context(|| format!("can't write {}", file.display()))?;
    }
    if let Some(file) = &args.plot {
        let title =
            format!("ftp-helper and its peers over IPv{}, Linux {kernel}, {} rounds", args.family, effort.rounds);
        std::fs::write(file, plot::svg(figures, &title)).with_context(|| format!("can't write {}", file.display()))?;
    }
    let mut out = std::io::stdout();
    match args.output {
        Output::Json => writeln!(out, "{all:#}"),
        Output::Table => {
            let peers: String =
                figures.peers().into_iter().map(|p| format!("{}: {}\n", p.letter(), p.name())).collect();
            writeln!(
                out,
                "{peers}\n{}\n\n{}\n\nmeasured again, since it went another way: {}\nseed {seed}, {} rounds over IPv{}, Linux \
                 {kernel}, load {load} at the end",
                figures.comparison(),
                figures.singles(),
                figures.repeated.len(),
                effort.rounds,
                args.family
            )
        }
    }
    .context("can't print the figures")
}
