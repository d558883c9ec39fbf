//! What a SYN flood into the guarded range costs: the shield in XDP (native and generic) and TC alone, beside a drop rule of
//! nftables in prerouting (priority raw) and at the device (netdev ingress), on the same veth in the same run.
//!
//! Everything is between namespaces of this run. The sender makes a bounded number of SYNs with one socket, each from another
//! address, and what receives them works on the same CPU, as far as the scheduler lets it: a figure is the time from the first SYN to the moment when
//! the last one was judged, by SYN, and so includes sending, which is the same for all. Rounds alternate. A round counts only
//! if its contender has judged all of its SYNs but one in a hundred: others were lost before.
//!
//! Beside the floods of the shield and of TC a real client downloads a file from a real server.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
    tc::{SchedClassifierLinkId, TcAttachOptions},
    xdp::XdpLinkId,
};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use ftp_helper::{
    dataplane::{Direction, Guard, Options},
    lab::{
        Host, Lab, LabOptions, OUTSIDE_INTERFACE,
        clients::{ClientKind, Family, Job, Mode},
        servers::{Server, ServerKind, ServerOptions, pattern},
    },
};
use ftp_helper_common::{counter::Counter, key::HOOK_IN};
use ftp_helper_tests::{
    flood::{Raw, nobody},
    gateway::PATIENCE,
    packet::Packet,
    testrun::{Kernel, everybody, policy},
};
use serde_json::json;

#[derive(Parser)]
#[command(about = "What a SYN flood into a guarded range costs, beside nftables; needs root")]
struct Args {
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Rounds; the median is shown.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// SYNs in a round.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    syns: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Who drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contender {
    Native,
    Generic,
    Tc,
    Netdev,
    Raw,
}

impl Contender {
    const ALL: [Self; 5] = [Self::Native, Self::Generic, Self::Tc, Self::Netdev, Self::Raw];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "shield, native XDP",
            Self::Generic => "shield, generic XDP",
            Self::Tc => "TC alone",
            Self::Netdev => "nftables, netdev ingress",
            Self::Raw => "nftables, prerouting raw",
        }
    }

    const fn rule(self) -> Option<&'static str> {
        match self {
            Self::Netdev => Some("table netdev t { chain c { type filter hook ingress device wan0 priority 0;"),
            Self::Raw => Some("table inet t { chain c { type filter hook prerouting priority raw;"),
            _ => None,
        }
    }
}

/// Ports that are guarded: those that the flood goes to, and those of the server.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=65535;
/// How long the last SYNs may take to be judged.
const SETTLE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-shield: {e:#}");
            ExitCode::from(if nix::unistd::geteuid().is_root() { 1 } else { 5 })
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "loading programs into the kernel needs root");
    let mut kernel = Kernel::load(&Options { sessions: 4096, instance: None, ..Options::default() });
    let lab = Lab::new(&LabOptions::default())?;
    let server = Server::start(lab.server(), ServerKind::Vsftpd, &ServerOptions::default())?;
    let (v4, v6) = (lab.server().v4(), lab.server().v6());
    let guard = Guard {
        direction: Direction::In,
        networks: vec![format!("{v4}/32").parse()?, format!("{v6}/128").parse()?],
        initiators: everybody(),
        ports: PORTS,
        except: vec![],
    };
    kernel.set(&policy(), &[guard]);
    let by_test_run = by_test_run(&mut kernel, v4)?;
    let mut ground = Ground { lab, server, kernel };
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); Contender::ALL.len()];
    let mut lost = 0;
    while rounds.iter().any(|r| r.len() < args.rounds as usize) {
        for (contender, rounds) in Contender::ALL.into_iter().zip(&mut rounds) {
            match ground.round(contender, args.syns)? {
                Some(ns) => rounds.push(ns),
                None => lost += 1,
            }
        }
        ensure!(lost <= 5 * args.rounds, "too many SYNs are lost before they are judged: fewer in a round may help");
    }
    let mut transfers = Vec::new();
    for contender in [Contender::Native, Contender::Generic, Contender::Tc] {
        transfers.push((contender, ground.transfer_beside(contender, args.syns)?));
    }
    show(args, &mut rounds, &by_test_run, &transfers)
}

struct Ground {
    lab: Lab,
    server: Server,
    kernel: Kernel,
}

/// What is attached.
#[derive(Default)]
struct Links {
    shield: Option<XdpLinkId>,
    ingress: Option<SchedClassifierLinkId>,
    egress: Option<SchedClassifierLinkId>,
}

impl Ground {
    /// Nanoseconds for each SYN; nothing if too many were lost before anybody judged them.
    fn round(&mut self, contender: Contender, syns: u32) -> anyhow::Result<Option<f64>> {
        let links = self.attach(contender)?;
        let before = self.judged(contender)?;
        let begun = Instant::now();
        flood(&self.lab, syns)?;
        let all = before + u64::from(syns);
        let mut seen = self.judged(contender)?;
        let mut took = begun.elapsed();
        while seen < all && begun.elapsed() < took + SETTLE {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.judged(contender)?;
            if now > seen {
                (seen, took) = (now, begun.elapsed());
            } else if begun.elapsed() > took + Duration::from_millis(50) {
                break;
            }
        }
        self.detach(contender, links)?;
        self.kernel.discard();
        let judged = seen - before;
        Ok((judged >= u64::from(syns) / 100 * 99).then(|| took.as_nanos() as f64 / judged as f64))
    }

    /// A real transfer while a flood goes on; how long it took.
    fn transfer_beside(&mut self, contender: Contender, syns: u32) -> anyhow::Result<Duration> {
        let links = self.attach(contender)?;
        let upload = self.lab.directory().join("upload.bin");
        std::fs::write(&upload, pattern(50_000))?;
        let Self { lab, server, .. } = &*self;
        let took = std::thread::scope(|scope| -> anyhow::Result<Duration> {
            let flooding = scope.spawn(|| flood(lab, syns * 4));
            let begun = Instant::now();
            let (from, client) = (lab.client(), ClientKind::Curl);
            let mode = Mode::Epsv;
            let job = Job { from, client, mode, family: Family::V4, server, upload: &upload, limit: PATIENCE };
            let outcome = job.run()?;
            let took = begun.elapsed();
            ensure!(outcome.transferred_by(mode), "a transfer beside {contender:?} failed:\n{}", outcome.output);
            flooding.join().map_err(|_| anyhow::anyhow!("the flood has ended early"))??;
            Ok(took)
        })?;
        self.server.remove_uploads()?;
        self.detach(contender, links)?;
        self.kernel.discard();
        Ok(took)
    }

    fn attach(&mut self, contender: Contender) -> anyhow::Result<Links> {
        let mut links = Links::default();
        if let Some(chain) = contender.rule() {
            let rule = format!(
                "ip daddr {} tcp dport {}-{} tcp flags & (syn | ack) == syn counter drop",
                self.lab.server().v4(),
                PORTS.start(),
                PORTS.end()
            );
            let file = self.lab.directory().join("drop.nft");
            std::fs::write(&file, format!("{chain}\n{rule}\n}}\n}}\n"))?;
            self.lab.load_ruleset(Some(&file))?;
            return Ok(links);
        }
        let host = self.lab.gateway().clone();
        let mode = match contender {
            Contender::Native => Some(XdpMode::Driver),
            Contender::Generic => Some(XdpMode::Skb),
            _ => None,
        };
        links.ingress = Some(attach_tc(&mut self.kernel, &host, "ftp_ingress", TcAttachType::Ingress)?);
        links.egress = Some(attach_tc(&mut self.kernel, &host, "ftp_egress", TcAttachType::Egress)?);
        if let Some(mode) = mode {
            let program = xdp(&mut self.kernel, contender)?;
            links.shield = Some(host.run_in(|| program.attach(OUTSIDE_INTERFACE, mode))??);
        }
        Ok(links)
    }

    fn detach(&mut self, contender: Contender, links: Links) -> anyhow::Result<()> {
        let Links { shield, ingress, egress } = links;
        if shield.is_none() && ingress.is_none() {
            self.lab.load_ruleset(None)?;
        }
        if let Some(id) = shield {
            xdp(&mut self.kernel, contender)?.detach(id)?;
        }
        for (name, id) in [("ftp_ingress", ingress), ("ftp_egress", egress)] {
            if let Some(id) = id {
                classifier(&mut self.kernel, name)?.detach(id)?;
            }
        }
        Ok(())
    }

    /// How many SYNs it has judged by now.
    fn judged(&mut self, contender: Contender) -> anyhow::Result<u64> {
        if contender.rule().is_some() {
            let family = if contender == Contender::Netdev { "netdev" } else { "inet" };
            let said = self.lab.gateway().command("nft").args(["-j", "list", "chain", family, "t", "c"]).output()?;
            let json: serde_json::Value = serde_json::from_slice(&said.stdout).context("nft says no JSON")?;
            let rules = json["nftables"].as_array().context("no rules")?;
            let expr = rules.iter().find_map(|r| r["rule"]["expr"].as_array()).context("no rule")?;
            return expr.iter().find_map(|e| e["counter"]["packets"].as_u64()).context("no counter");
        }
        let counters = self.kernel.plane().counters()?;
        let (denied, shielded) = (counters.get(Counter::SynDenied), counters.get(Counter::SynShielded));
        Ok(if contender == Contender::Tc { denied - shielded } else { shielded })
    }
}

fn xdp(kernel: &mut Kernel, contender: Contender) -> anyhow::Result<&mut Xdp> {
    let name = if contender == Contender::Native { "ftp_shield" } else { "ftp_shield_generic" };
    Ok(kernel.plane().ebpf_mut().program_mut(name).context("no such program")?.try_into()?)
}

fn classifier<'a>(kernel: &'a mut Kernel, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    Ok(kernel.plane().ebpf_mut().program_mut(name).context("no such program")?.try_into()?)
}

fn attach_tc(
    kernel: &mut Kernel,
    host: &Host,
    name: &str,
    direction: TcAttachType,
) -> anyhow::Result<SchedClassifierLinkId> {
    let program = classifier(kernel, name)?;
    let options = || TcAttachOptions::TcxOrder(LinkOrder::default());
    Ok(host.run_in(|| program.attach_with_options(OUTSIDE_INTERFACE, direction, options()))??)
}

/// So many SYNs from as many senders.
fn flood(lab: &Lab, syns: u32) -> anyhow::Result<()> {
    let to = lab.server().v4();
    let send = || -> anyhow::Result<()> {
        let raw = Raw::open()?;
        for n in 0..syns {
            raw.syn(nobody(n), SocketAddrV4::new(to, 50_000 + (n % 10_000) as u16), n)?;
        }
        Ok(())
    };
    lab.client().run_in(send)?
}

/// Nanoseconds for a denied SYN of a flood: a program that does nothing at TC, TC ingress, the shield.
fn by_test_run(kernel: &mut Kernel, server: Ipv4Addr) -> anyhow::Result<Vec<(&'static str, f64)>> {
    const RUNS: u32 = 3000;
    kernel.draining = false;
    let syn = Packet::syn(nobody(1).into(), SocketAddrV4::new(server, 50_000).into(), 1).with_options();
    ensure!(kernel.send(HOOK_IN, &syn) == ftp_helper_tests::testrun::Verdict::Drop, "the SYN is not denied");
    let cases = [("(empty program)", "ftp_empty"), ("TC ingress", "ftp_ingress"), ("the shield", "ftp_shield")];
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..101 {
        for ((_, program), rounds) in cases.iter().zip(&mut all) {
            let (_, took) = kernel.plane().run_repeatedly(program, &syn.frame(), &[], RUNS)?;
            kernel.discard();
            rounds.push(took.as_nanos() as f64);
        }
    }
    Ok(cases.iter().zip(&mut all).map(|((name, _), rounds)| (*name, median(rounds))).collect())
}

fn show(
    args: &Args,
    rounds: &mut [Vec<f64>],
    by_test_run: &[(&str, f64)],
    transfers: &[(Contender, Duration)],
) -> anyhow::Result<()> {
    let figures: Vec<(Contender, f64, f64, f64)> =
        Contender::ALL.into_iter().zip(rounds).map(|(c, r)| (c, median(r), r[0], r[r.len() - 1])).collect();
    let Some((_, raw, ..)) = figures.last().copied() else { bail!("no figures") };
    let mut out = std::io::stdout();
    if args.output == Output::Json {
        let all: Vec<_> = figures
            .iter()
            .map(|(c, ns, low, high)| {
                json!({ "who": c.name(), "ns": ns, "lowest_ns": low, "highest_ns": high, "against_raw": ns / raw })
            })
            .collect();
        let runs: Vec<_> = by_test_run.iter().map(|(who, ns)| json!({ "who": who, "ns": ns })).collect();
        let beside: Vec<_> = transfers
            .iter()
            .map(|(c, took)| json!({ "who": c.name(), "transfers_ms": took.as_millis() as u64 }))
            .collect();
        let all =
            json!({ "rounds": args.rounds, "syns": args.syns, "flood": all, "test_runs": runs, "beside": beside });
        return writeln!(out, "{all}").context("can't print the figures");
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["who drops", "ns per SYN", "of prerouting raw", "lowest", "highest"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (c, ns, low, high) in &figures {
        let cells = [format!("{ns:.0}"), format!("{:.2}", ns / raw), format!("{low:.0}"), format!("{high:.0}")];
        table.add_row([c.name().to_owned()].into_iter().chain(cells));
    }
    writeln!(out, "{table}\n\nBy test runs, ns")?;
    for (who, ns) in by_test_run {
        writeln!(out, "  {who:<18}{ns:>6}")?;
    }
    writeln!(out, "\nTransfers beside a flood of four times as many SYNs, all complete")?;
    for (c, took) in transfers {
        writeln!(out, "  {:<22}{:>6} ms", c.name(), took.as_millis())?;
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
