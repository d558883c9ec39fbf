//! `ftp-helper lab`: the test harness from the command line.

use std::{
    io::{self, Write as _},
    ops::RangeInclusive,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::json;

use crate::lab::{
    self, Lab, LabError, LabOptions, Topology,
    clients::{ClientKind, Family, Mode, Outcome},
    matrix::{self, Cell, MatrixOptions, MatrixReport, Observer, Phase, Verdict},
    scan::ranges,
    servers::{self, Server, ServerKind, ServerOptions},
};

/// A gateway with real FTP servers and clients around it, in network namespaces. Needs root.
#[derive(Args, Clone, Debug)]
pub(super) struct LabArgs {
    /// What to do
    #[command(subcommand)]
    pub command: LabCommand,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum LabCommand {
    /// Builds the network, leaves it standing, and says how to enter it
    Up(UpArgs),
    /// Runs every server by every client in every mode through the gateway, without a ruleset and with one, and tells what
    /// passed and what was blocked, and what a scan could reach
    Run(RunArgs),
    /// Shows ftp-helper at work, in under a minute: a guard, a transfer in each mode, the events, and what a scan finds
    Demo,
    /// Removes what `up` built, and what programs that were killed left behind
    Down(DownArgs),
    /// Fetches vsftpd, ProFTPD and Pure-FTPd from Debian's archive into a directory, without installing them
    Fetch(FetchArgs),
}

/// Arguments of `lab up`.
#[derive(Args, Clone, Debug)]
pub(super) struct UpArgs {
    /// The lab's name
    #[arg(long, default_value = "lab")]
    pub name: String,
    /// Who is behind the gateway: server-inside or client-inside
    #[arg(long, default_value_t = Topology::ServerInside)]
    pub topology: Topology,
    /// How many server hosts
    #[arg(long, default_value_t = 1)]
    pub servers: usize,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Arguments of `lab run`.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// The ruleset to test, loaded in the gateway with `nft -f`; the gateway's interfaces are wan0 (outside) and lan0.
    /// Without it, plain forwarding
    #[arg(long, value_name = "FILE.nft")]
    pub gateway_ruleset: Option<PathBuf>,
    /// Servers: vsftpd, proftpd, pureftpd, pyftpdlib, bundled [default: those that are here]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub servers: Vec<ServerKind>,
    /// Clients: curl, lftp, tnftp [default: those that are here]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub clients: Vec<ClientKind>,
    /// Modes
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "pasv,epsv,port,eprt")]
    pub modes: Vec<Mode>,
    /// Families
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "4,6")]
    pub family: Vec<Family>,
    /// Who is behind the gateway
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "server-inside,client-inside")]
    pub topology: Vec<Topology>,
    /// Passive ports of the servers
    #[arg(long, value_name = "LO-HI", default_value = "50000-50099")]
    pub passive_ports: crate::ftpd::PassivePorts,
    /// Encrypt control and data connections: vsftpd with curl and lftp
    #[arg(long)]
    pub tls: bool,
    /// Ports to scan: LO-HI, or none
    #[arg(long, value_name = "LO-HI", default_value = "1024-65535")]
    pub scan: ScanPorts,
    /// Seconds that three transfers (upload, download, listing) may take before they count as blocked
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// How many clients run at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parallel)]
    pub parallel: usize,
    /// Size of the files, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100_000)]
    pub size: usize,
    /// Where fetched servers are [default: $FTP_HELPER_LAB_SERVERS, or target/lab-servers]
    #[arg(long, value_name = "DIR")]
    pub servers_from: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Arguments of `lab down`.
#[derive(Args, Clone, Debug)]
pub(super) struct DownArgs {
    /// The lab's name; without it, every lab that no running program owns
    #[arg(long)]
    pub name: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Arguments of `lab fetch`.
#[derive(Args, Clone, Debug)]
pub(super) struct FetchArgs {
    /// Into which directory [default: $FTP_HELPER_LAB_SERVERS, or target/lab-servers]
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
}

/// How data is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// For people.
    Table,
    /// One document.
    Json,
    /// One object a line.
    Jsonl,
}

/// Which ports to scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ScanPorts(pub Option<RangeInclusive<u16>>);

impl FromStr for ScanPorts {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(Self(None));
        }
        let ports = s.split_once('-').and_then(|(l, h)| Some((l.parse::<u16>().ok()?, h.parse::<u16>().ok()?)));
        match ports {
            Some((0, _)) => Err("port 0 can't be scanned".to_owned()),
            Some((low, high)) if low > high => Err(format!("reversed: write {high}-{low}")),
            Some((low, high)) => Ok(Self(Some(low..=high))),
            None => Err("write LOW-HIGH, such as 1024-65535, or none".to_owned()),
        }
    }
}

/// Runs it. Data goes to standard output, progress and errors to standard error. The code is 0, 4 when something was
/// blocked, 5 without root, or 1.
#[must_use]
pub(super) fn run(args: LabArgs) -> ExitCode {
    let result = match args.command {
        LabCommand::Up(a) => up(&a),
        LabCommand::Run(a) => run_matrix(a),
        LabCommand::Demo => demo(),
        LabCommand::Down(a) => down(&a),
        LabCommand::Fetch(a) => fetch(a),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("ftp-helper lab: {e}");
            ExitCode::from(if e.is_permission() { 5 } else { 1 })
        }
    }
}

fn demo() -> lab::Result<ExitCode> {
    let program = std::env::current_exe()
        .map_err(|source| LabError::Io { what: "can't tell where this program is".to_owned(), source })?;
    lab::remove_on_signals()?;
    // A reader that closes the pipe ends the story, not the removal of what was made.
    lab::demo::run(&program, &mut |line| drop(writeln!(io::stdout(), "{line}")))?;
    Ok(ExitCode::SUCCESS)
}

fn up(args: &UpArgs) -> lab::Result<ExitCode> {
    lab::remove_on_signals()?;
    let options = LabOptions { name: Some(args.name.clone()), topology: args.topology, servers: args.servers };
    let lab = Lab::new(&options)?;
    let host = |h: &lab::Host| json!({"host": h.name(), "namespace": h.namespace_name(), "v4": h.v4(), "v6": h.v6()});
    match args.output {
        Format::Json => {
            let hosts: Vec<_> = lab.hosts().map(host).collect();
            println!("{}", json!({"lab": lab.name(), "topology": lab.topology(), "hosts": hosts}));
        }
        Format::Jsonl => lab.hosts().for_each(|h| println!("{}", host(h))),
        Format::Table => {
            let mut table = table(&["host", "namespace", "IPv4", "IPv6"]);
            for h in lab.hosts() {
                table.add_row([h.name(), h.namespace_name(), &h.v4().to_string(), &h.v6().to_string()]);
            }
            println!("{table}");
            println!("outside of the gateway is {}, inside is {}", lab::OUTSIDE_INTERFACE, lab::INSIDE_INTERFACE);
            println!("enter a host:  ip netns exec {} bash", lab.client().namespace_name());
            println!("remove it all: ftp-helper lab down --name {}", lab.name());
        }
    }
    lab.keep();
    Ok(ExitCode::SUCCESS)
}

fn down(args: &DownArgs) -> lab::Result<ExitCode> {
    let removed = lab::down(args.name.as_deref())?;
    match args.output {
        Format::Json => println!("{}", json!(removed)),
        Format::Jsonl => removed.iter().for_each(|r| println!("{}", json!(r))),
        Format::Table if removed.is_empty() => println!("there was nothing to remove"),
        Format::Table => {
            for r in &removed {
                println!("removed {}: {}", r.lab, r.namespaces.join(", "));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fetch(args: FetchArgs) -> lab::Result<ExitCode> {
    let into = args.into.unwrap_or_else(servers::default_cache);
    let fetched = servers::fetch(&into)?;
    let what = if fetched.is_empty() { "all were there already".to_owned() } else { fetched.join(", ") };
    println!("{}: {what}", into.display());
    Ok(ExitCode::SUCCESS)
}

fn run_matrix(args: RunArgs) -> lab::Result<ExitCode> {
    if let Some(file) = &args.gateway_ruleset {
        // Before anything is built: the lab's own message comes from nft.
        std::fs::File::open(file)
            .map_err(|e| LabError::Usage(format!("can't read the ruleset {}: {e}", file.display())))?;
    }
    let server = ServerOptions {
        passive_ports: args.passive_ports,
        tls: args.tls,
        size: args.size,
        cache: args.servers_from,
        ..ServerOptions::default()
    };
    let servers =
        chosen(args.servers, &ServerKind::ALL, "servers", |s| s.is_available(&server) && (!args.tls || s.offers_tls()));
    let clients =
        chosen(args.clients, &ClientKind::ALL, "clients", |c| c.is_available() && (!args.tls || c.offers_tls()));
    let limit = Duration::from_secs(args.timeout);
    let options = MatrixOptions {
        servers,
        clients,
        modes: args.modes,
        families: args.family,
        server,
        ruleset: args.gateway_ruleset,
        reference_limit: limit.max(MatrixOptions::default().reference_limit),
        limit,
        parallel: args.parallel,
        scan: args.scan.0,
    };
    lab::remove_on_signals()?;
    let mut reports = Vec::new();
    for topology in args.topology {
        eprintln!("== {topology}");
        let lab = Lab::new(&LabOptions { topology, servers: options.servers.len(), ..LabOptions::default() })?;
        let mut report = matrix::run(&lab, &options, &Progress::new(matrix::cells(&options).len()))?;
        drop(lab);
        trim(&mut report);
        reports.push(report);
    }
    match args.output {
        Format::Json => println!("{}", json!(reports)),
        Format::Jsonl => reports.iter().for_each(print_lines),
        Format::Table => reports.iter().for_each(print_table),
    }
    let blocked = reports.iter().any(|r| r.count(Verdict::Blocked) > 0 || !r.scans_failed.is_empty());
    Ok(if blocked { ExitCode::from(4) } else { ExitCode::SUCCESS })
}

/// What was asked for, or else what is here.
fn chosen<T: Copy + std::fmt::Display>(asked: Vec<T>, all: &[T], what: &str, here: impl Fn(T) -> bool) -> Vec<T> {
    if !asked.is_empty() {
        return asked;
    }
    let (here, missing): (Vec<T>, Vec<T>) = all.iter().partition(|&&t| here(t));
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        eprintln!("{what} left out, since they are not here: {}", missing.join(", "));
    }
    here
}

/// What a client said is of use where it did not pass.
fn trim(report: &mut MatrixReport) {
    for c in &mut report.cells {
        match c.verdict {
            Verdict::Passed => {
                c.reference.output.clear();
                if let Some(t) = &mut c.tested {
                    t.output.clear();
                }
            }
            Verdict::Blocked => c.reference.output.clear(),
            Verdict::Cannot => {}
        }
    }
}

fn print_lines(report: &MatrixReport) {
    let line = |kind: &str, value: serde_json::Value| {
        let mut object = json!({"kind": kind, "topology": report.topology});
        if let (Some(to), serde_json::Value::Object(from)) = (object.as_object_mut(), value) {
            to.extend(from);
        }
        println!("{object}");
    };
    report.cells.iter().for_each(|c| line("cell", json!(c)));
    report.scans.iter().for_each(|s| line("scan", json!(s)));
    report.scans_failed.iter().for_each(|s| line("scan_failed", json!({"error": s})));
}

fn print_table(report: &MatrixReport) {
    let mut columns: Vec<(Mode, Family)> = Vec::new();
    let mut rows: Vec<(ServerKind, ClientKind)> = Vec::new();
    for c in &report.cells {
        let Cell { server, client, mode, family } = c.cell;
        if !columns.contains(&(mode, family)) {
            columns.push((mode, family));
        }
        if !rows.contains(&(server, client)) {
            rows.push((server, client));
        }
    }
    rows.sort_unstable();
    println!("{}: {}", report.topology, summary(report));
    let mut header = vec!["server".to_owned(), "client".to_owned()];
    header.extend(columns.iter().map(|(mode, family)| format!("{mode} IPv{family}")));
    let mut cells = table(&header);
    for (server, client) in rows {
        let mut row = vec![server.to_string(), client.to_string()];
        for &(mode, family) in &columns {
            let wanted = Cell { server, client, mode, family };
            let found = report.cells.iter().find(|c| c.cell == wanted);
            row.push(match found.map(|c| c.verdict) {
                Some(Verdict::Passed) => "passed".to_owned(),
                Some(Verdict::Blocked) => "BLOCKED".to_owned(),
                Some(Verdict::Cannot) | None => "-".to_owned(),
            });
        }
        cells.add_row(row);
    }
    println!("{cells}");
    if !report.scans.is_empty() {
        let mut scans = table(&["scan", "from", "transfer", "open", "closed but reachable", "filtered"]);
        for s in &report.scans {
            let when = if s.during { format!("port {} announced", s.announced) } else { "over".to_owned() };
            scans.add_row([
                format!("{} IPv{}", s.target, s.family),
                s.from.clone(),
                when,
                ranges(&s.found.open),
                ranges(&s.found.closed),
                format!("{} ports", s.found.filtered),
            ]);
        }
        println!("{scans}");
    }
    for f in &report.scans_failed {
        println!("not scanned: {f}");
    }
    println!();
}

fn summary(report: &MatrixReport) -> String {
    let n = |v| report.count(v);
    format!(
        "{} passed, {} blocked, {} that the pair can't do even without a ruleset (-)",
        n(Verdict::Passed),
        n(Verdict::Blocked),
        n(Verdict::Cannot)
    )
}

fn table<T: ToString>(header: &[T]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(ToString::to_string));
    table
}

fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=64) => Ok(n),
        _ => Err("a number from 1 to 64".to_owned()),
    }
}

/// Tells standard error how far it is.
struct Progress {
    total: usize,
    done: AtomicUsize,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { total, done: AtomicUsize::new(0) }
    }
}

impl Observer for Progress {
    fn attach(&self, _: &Lab, _: &[Server]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.done.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn cell(&self, phase: Phase, cell: &Cell, outcome: &Outcome) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        match phase {
            // What can't be done without a ruleset is no news.
            Phase::Reference if done.is_multiple_of(20) || done == self.total => {
                eprintln!("   {done} of {} tried", self.total)
            }
            Phase::Tested if !outcome.transferred_by(cell.mode) => eprintln!("   {cell}: blocked"),
            Phase::Tested if done.is_multiple_of(20) => eprintln!("   {done} done"),
            _ => {}
        }
    }

    fn progress(&self, what: &str) {
        eprintln!("-- {what}");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: LabArgs,
    }

    fn parse(line: &str) -> Result<LabCommand, String> {
        Cli::try_parse_from(std::iter::once("lab").chain(line.split_whitespace()))
            .map(|c| c.args.command)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn arguments_are_read() {
        let LabCommand::Run(a) =
            parse("run --modes pasv,eprt --family 6 --servers vsftpd --scan none --topology client-inside").unwrap()
        else {
            panic!("not run");
        };
        assert_eq!((a.modes, a.family), (vec![Mode::Pasv, Mode::Eprt], vec![Family::V6]));
        assert_eq!((a.servers, a.scan), (vec![ServerKind::Vsftpd], ScanPorts(None)));
        assert_eq!(a.topology, vec![Topology::ClientInside]);
        let LabCommand::Run(a) = parse("run").unwrap() else { panic!("not run") };
        assert_eq!((a.modes.len(), a.family.len(), a.topology.len()), (4, 2, 2));
        assert_eq!(a.scan, ScanPorts(Some(1024..=65535)));
    }

    #[test]
    fn wrong_arguments_are_explained() {
        for (line, expected) in [
            ("run --modes pasv,psv", "pasv, epsv, port, eprt"),
            ("run --clients wget", "curl, lftp, tnftp"),
            ("run --family 5", "4, 6"),
            ("run --scan 9-1", "write 1-9"),
            ("run --scan 0-1", "port 0"),
            ("run --timeout 0", "1..=600"),
            ("run --parallel 0", "1 to 64"),
            ("up --topology both", "server-inside, client-inside"),
        ] {
            let e = parse(line).unwrap_err();
            assert!(e.contains(expected), "{line}: {e}");
        }
    }

    #[test]
    fn a_ruleset_that_is_not_there_is_named() {
        let LabCommand::Run(a) = parse("run --gateway-ruleset /nonexistent/rules.nft").unwrap() else {
            panic!("not run");
        };
        let e = run_matrix(a).unwrap_err().to_string();
        assert!(e.contains("/nonexistent/rules.nft"), "{e}");
    }
}
