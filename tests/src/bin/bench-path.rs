//! Nanoseconds per packet on the way through the hooks, measured in the kernel (`BPF_PROG_TEST_RUN`), beside an empty
//! program in the same run.
//!
//! Each figure is the median of several rounds; a round runs every case once, so that what else the machine does hits
//! all alike. The programs are loaded in bench mode: what a segment changes in its session is undone behind it, and a
//! pinhole that an announcement opens is taken back at once, so that one packet can be measured many times; both are
//! part of the figure. Records are written as always; a batch fits the ring buffers, which are emptied behind it.
//!
//! The last rows are of programs that were loaded with `[nat]`, for hosts that are not translated: what it costs everybody.
//!
//! Of denied SYNs only so many are told in a window of time. Both are measured: one of a flood, which is not told, and
//! one that is.

use std::{io::Write as _, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use ftp_helper::{
    dataplane::{Options, Ring},
    engine::Policy,
};
use ftp_helper_common::{
    command::{Outcome, op},
    key::{CLIENT, HOOK_IN, HOOK_OUT, PinholeKey, SERVER},
    state::{flag, pending},
    tcp,
};
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, six},
    packet::Packet,
    testrun::{Kernel, at, guards, policy},
};
use serde_json::json;

/// What a packet may cost beyond the empty program, nanoseconds.
const PLAIN: f64 = 12.0;
const SYN: f64 = 100.0;
const COMMAND: f64 = 180.0;
const ANNOUNCEMENT: f64 = 380.0;

/// Runs in a batch: as many diagnostic records as their ring buffer holds, and some to spare.
const BATCH: u32 = 3000;
/// Denied SYNs that are told in a window of time, and more than that time.
const TOLD: u32 = 250;
const WINDOW: Duration = Duration::from_millis(80);

#[derive(Parser)]
#[command(about = "Nanoseconds per packet through the kernel's hooks; needs root")]
struct Args {
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Rounds; the median is shown.
    #[arg(long, default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Only the packets with this in their names (and the empty program).
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Exit with 1 if a figure misses its target.
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A packet to be measured.
struct Case {
    name: &'static str,
    program: &'static str,
    /// With `[nat]`.
    nat: bool,
    frame: Vec<u8>,
    /// The program's verdict: anything else is another path than the one named.
    verdict: u32,
    target: Option<f64>,
    /// Runs in a batch.
    batch: u32,
    /// Nanoseconds, one figure a round.
    rounds: Vec<f64>,
}

const PASS: u32 = 0xffff_ffff;
const DROP: u32 = 2;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("bench-path: {e:#}");
            ExitCode::from(if nix::unistd::geteuid().is_root() { 1 } else { 5 })
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "loading programs into the kernel needs root");
    let mut kernels = [loaded(false)?, loaded(true)?];
    let mut cases = cases(&mut kernels[0])?;
    cases.extend(translating(&mut kernels[1])?);
    if let Some(text) = &args.only {
        let mut n = 0;
        cases.retain(|c| {
            n += 1;
            n == 1 || c.name.contains(text.as_str())
        });
        ensure!(cases.len() > 1, "no packet has {text:?} in its name");
    }
    for round in 0..=args.rounds {
        for case in &mut cases {
            if case.batch == TOLD {
                std::thread::sleep(WINDOW);
            }
            let kernel = &mut kernels[usize::from(case.nat)];
            let measured = kernel.plane().run_repeatedly(case.program, &case.frame, &[], case.batch);
            let (code, took) = measured.with_context(|| format!("can't measure {:?}", case.name))?;
            kernel.discard();
            if code != case.verdict {
                bail!("{:?} took another path: the program returned {code:#x}", case.name);
            }
            // The first round only warms up.
            if round > 0 {
                case.rounds.push(took.as_nanos() as f64);
            }
        }
    }
    for (kernel, held) in kernels.iter_mut().zip([1, 0]) {
        proper(kernel, held)?;
    }
    show(args, &mut cases)
}

/// Programs and tables, with everything in them that the packets meet but sessions.
fn loaded(nat: bool) -> anyhow::Result<Kernel> {
    let options =
        Options { sessions: 65536, ring_bytes: 16 << 20, instance: None, nat, bench: true, ..Options::default() };
    let mut kernel = Kernel::load(&options);
    kernel.draining = false;
    let lasting = Policy { pinhole_timeout: Duration::from_secs(3600), ..policy() };
    // One FTP server behind the gateway, and one outside client that it connects to.
    let mut guarded = guards();
    for (guard, network) in guarded.iter_mut().zip(["203.0.113.10/32", "198.18.0.10/32"]) {
        guard.networks = vec![network.parse()?];
    }
    kernel.set(&lasting, &guarded);
    // As if the daemon were reading: nobody has to be woken, which is not the programs' work.
    for ring in [Ring::Events, Ring::Telemetry] {
        kernel.plane().set_awake(ring, true)?;
    }
    Ok(kernel)
}

/// Makes sure that every announcement was one, and that no record was missing.
fn proper(k: &mut Kernel, held: usize) -> anyhow::Result<()> {
    let counted = k.counted();
    for bad in ["ring_full", "blinded", "left_to_daemon", "unrecorded", "race"] {
        if let Some(n) = counted.get(bad) {
            bail!("the figures are of another path: {bad} was counted {n} times");
        }
    }
    ensure!(k.pinholes().len() == held, "a pinhole was left over");
    Ok(())
}

fn show(args: &Args, cases: &mut [Case]) -> anyhow::Result<bool> {
    let empty = cases.first_mut().map_or(0.0, |c| median(&mut c.rounds));
    let mut good = true;
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["packet", "ns", "beyond empty", "target", "lowest", "highest", ""]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut all = Vec::new();
    for case in cases {
        let ns = median(&mut case.rounds);
        let (low, high) = (case.rounds[0], case.rounds[case.rounds.len() - 1]);
        let beyond = ns - empty;
        let met = case.target.is_none_or(|t| beyond <= t);
        good &= met;
        table.add_row([
            case.name.to_owned(),
            format!("{ns}"),
            format!("{beyond}"),
            case.target.map_or(String::new(), |t| format!("{t}")),
            format!("{low}"),
            format!("{high}"),
            if met { "" } else { "MISSED" }.to_owned(),
        ]);
        all.push(json!({
            "packet": case.name, "program": case.program, "ns": ns, "beyond_empty_ns": beyond,
            "target_ns": case.target, "lowest_ns": low, "highest_ns": high, "met": met,
        }));
    }
    match args.output {
        Output::Table => writeln!(std::io::stdout(), "{table}"),
        Output::Json => {
            writeln!(std::io::stdout(), "{}", json!({ "rounds": args.rounds, "runs": BATCH, "packets": all }))
        }
    }
    .context("can't print the figures")?;
    Ok(good || !args.check)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn case(name: &'static str, hook: u8, frame: Vec<u8>, target: Option<f64>) -> Case {
    Case {
        name,
        program: if hook == HOOK_IN { "ftp_ingress" } else { "ftp_egress" },
        nat: false,
        frame,
        verdict: PASS,
        target,
        batch: BATCH,
        rounds: Vec::new(),
    }
}

/// A full segment of data. Sizes are as they come: a SYN has its options.
fn full(from: &str, to: &str) -> anyhow::Result<Packet> {
    let packet = Packet::new(from.parse()?, to.parse()?, tcp::ACK, 1000, 1).with(vec![0; 1400]);
    Ok(Packet { tcp_options: 12, ..packet })
}

fn cases(k: &mut Kernel) -> anyhow::Result<Vec<Case>> {
    let tcp4 = full("192.0.2.1:40000", "192.0.2.2:443")?;
    let tcp6 = full("[2001:db8::1]:40000", "[2001:db8::2]:443")?;
    let udp = Packet { protocol: 17, ..tcp4.clone() };
    let mut arp = tcp4.frame();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let free = Packet::syn(tcp4.from, tcp4.to, 1).with_options();
    let high = Packet::syn(tcp4.from, "192.0.2.2:50000".parse()?, 1).with_options();
    let (client, server): (SocketAddr, SocketAddr) = ("198.18.0.10:45678".parse()?, at("203.0.113.10".parse()?, PORT));
    let data = Packet { from: client, to: server, ..tcp4.clone() };
    let denied = Packet::syn(client, server, 1).with_options();

    let idle = session(k, 41000, pending::NONE);
    let held = session(k, 41001, pending::NONE);
    let pinhole = PinholeKey {
        initiator: held.client.ip().into(),
        responder: held.server.ip().into(),
        port: PORT + 1,
        hook: HOOK_IN,
        pad: 0,
    };
    let outcome = held.command(k, op::OPEN, |c| (c.pinhole, c.mode) = (pinhole, pending::PASV));
    ensure!(k.pinholes().len() == 1, "no pinhole: {outcome:?}");
    let passing = Data::through(&pinhole, 45679).syn();
    let line = |d: &Dialogue, side: u8, text: &str| d.segment(side, format!("{text}\r\n").as_bytes()).frame();
    let mut reply = |port, kind, text: &str| line(&session(k, port, kind), SERVER, text);
    let r226 = reply(41002, pending::OTHER, "226 Transfer complete.");
    let passive = six(idle.server.ip(), PORT);
    let r227 = reply(41003, pending::PASV, &format!("227 Entering Passive Mode ({passive})."));
    let r229 = reply(41004, pending::EPSV, &format!("229 Entering Extended Passive Mode (|||{PORT}|)"));
    let r200 = reply(41005, pending::PORT, "200 PORT command successful.");
    let active = format!("PORT {}", six(idle.client.ip(), PORT));
    Ok(vec![
        Case { program: "ftp_empty", ..case("(empty program)", HOOK_IN, tcp4.frame(), None) },
        case("not IP", HOOK_IN, arp, Some(PLAIN)),
        case("UDP", HOOK_IN, udp.frame(), Some(PLAIN)),
        case("TCP elsewhere", HOOK_IN, tcp4.frame(), Some(PLAIN)),
        case("TCP elsewhere, IPv6", HOOK_IN, tcp6.frame(), Some(PLAIN)),
        case("established data, in", HOOK_IN, data.frame(), Some(PLAIN)),
        case("established data, out", HOOK_OUT, data.frame(), Some(PLAIN)),
        case("SYN outside a guard", HOOK_IN, free.frame(), Some(SYN)),
        case("SYN to a high port outside a guard", HOOK_IN, high.frame(), Some(SYN)),
        Case { verdict: DROP, ..case("SYN denied, in a flood", HOOK_IN, denied.frame(), Some(SYN)) },
        Case { verdict: DROP, batch: TOLD, ..case("SYN denied, and told", HOOK_IN, denied.frame(), Some(SYN)) },
        case("SYN let through", HOOK_IN, passing.frame(), Some(SYN)),
        case("control ACK", HOOK_IN, idle.segment(CLIENT, b"").frame(), None),
        Case {
            program: "ftp_floor_segment",
            ..case("least for a segment", HOOK_IN, line(&idle, CLIENT, "RETR some/file.txt"), None)
        },
        case("command", HOOK_IN, line(&idle, CLIENT, "RETR some/file.txt"), Some(COMMAND)),
        case("226", HOOK_OUT, r226, Some(COMMAND)),
        Case {
            program: "ftp_floor_pinhole",
            ..case("least for an announcement", HOOK_IN, line(&idle, CLIENT, &active), None)
        },
        case("227 with its pinhole", HOOK_OUT, r227, Some(ANNOUNCEMENT)),
        case("229 with its pinhole", HOOK_OUT, r229, Some(ANNOUNCEMENT)),
        case("PORT with its pinhole", HOOK_IN, line(&idle, CLIENT, &active), Some(ANNOUNCEMENT)),
        case("200 to PORT", HOOK_OUT, r200, Some(COMMAND)),
    ])
}

/// What `[nat]` costs where nothing is translated.
fn translating(k: &mut Kernel) -> anyhow::Result<Vec<Case>> {
    let data = full("198.18.0.10:45678", &format!("203.0.113.10:{PORT}"))?;
    let denied = Packet::syn(data.from, data.to, 1).with_options();
    let d = session(k, 41000, pending::PASV);
    // As the daemon tells it of hosts that have the same address outside.
    let outcome = d.command(k, op::ALIAS, |_| ());
    ensure!(outcome == Outcome::Done, "the kernel side is not told who is inside: {outcome:?}");
    let text = format!("227 Entering Passive Mode ({}).\r\n", six(d.server.ip(), PORT));
    let cases = [
        case("established data, in, with [nat]", HOOK_IN, data.frame(), None),
        case("established data, out, with [nat]", HOOK_OUT, data.frame(), None),
        Case { verdict: DROP, ..case("SYN denied, in a flood, with [nat]", HOOK_IN, denied.frame(), None) },
        case("227 with its pinhole, with [nat]", HOOK_OUT, d.segment(SERVER, text.as_bytes()).frame(), None),
    ];
    Ok(cases.map(|c| Case { nat: true, ..c }).into())
}

/// A logged-in session with this command unanswered. The programs commit nothing in bench mode, so that its entry is
/// written from here.
fn session(k: &mut Kernel, client_port: u16, kind: u8) -> Dialogue {
    let hosts = ("198.18.0.10".parse().expect("an address"), "203.0.113.10".parse().expect("an address"));
    let mut d = Dialogue::between(hosts, HOOK_IN);
    d.client.set_port(client_port);
    d.connect(k);
    let mut state = d.state(k);
    state.flags |= flag::LOGGED_IN;
    state.unanswered = u8::from(kind != pending::NONE);
    state.pending = kind;
    k.write_session(&d.key(), state);
    d
}
