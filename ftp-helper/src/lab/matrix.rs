//! The matrix: every server by every client in every mode over each family, through the gateway.
//!
//! It is run twice in one lab: first without a ruleset, which tells what a pair can do at all, then with what is to be
//! tested. So nothing is known beforehand about who can do what.

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use super::{
    Host, Lab, Topology,
    clients::{ClientKind, Family, Job, Mode, Outcome},
    dialogue::Dialogue,
    error::{LabError, Result},
    scan::{Scan, ScanOptions, scan},
    servers::{Server, ServerKind, ServerOptions, pattern},
};

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct MatrixOptions {
    /// The servers; the lab needs a host for each.
    pub servers: Vec<ServerKind>,
    /// The clients.
    pub clients: Vec<ClientKind>,
    /// The modes.
    pub modes: Vec<Mode>,
    /// The families.
    pub families: Vec<Family>,
    /// How the servers are started.
    pub server: ServerOptions,
    /// The gateway's ruleset in the second run; `None` for none.
    pub ruleset: Option<PathBuf>,
    /// How long an invocation may take in the first run.
    pub reference_limit: Duration,
    /// How long an invocation may take in the second run: one that is blocked takes all of it.
    pub limit: Duration,
    /// How many at once.
    pub parallel: usize,
    /// The ports to scan; `None` for no scan.
    pub scan: Option<RangeInclusive<u16>>,
}

impl Default for MatrixOptions {
    fn default() -> Self {
        Self {
            servers: ServerKind::ALL.to_vec(),
            clients: ClientKind::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
            families: Family::ALL.to_vec(),
            server: ServerOptions::default(),
            ruleset: None,
            reference_limit: Duration::from_secs(15),
            limit: Duration::from_secs(6),
            parallel: 8,
            scan: Some(1024..=65535),
        }
    }
}

/// One combination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Cell {
    /// The server.
    pub server: ServerKind,
    /// The client.
    pub client: ClientKind,
    /// The mode.
    pub mode: Mode,
    /// The family.
    pub family: Family,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, {} over IPv{}", self.client, self.server, self.mode, self.family)
    }
}

/// What a cell shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All three transfers are whole, in this mode.
    Passed,
    /// Without a ruleset they are, with what was tested not.
    Blocked,
    /// This pair can't do it in this mode, ruleset or not.
    Cannot,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Blocked => "blocked",
            Self::Cannot => "cannot",
        })
    }
}

/// A cell's two outcomes.
#[derive(Clone, Debug, Serialize)]
pub struct CellReport {
    /// Which.
    #[serde(flatten)]
    pub cell: Cell,
    /// What it shows.
    pub verdict: Verdict,
    /// Without a ruleset.
    pub reference: Outcome,
    /// With what is tested; `None` where the pair can't.
    pub tested: Option<Outcome>,
}

/// From where, and when, something was scanned.
#[derive(Clone, Debug, Serialize)]
pub struct ScanReport {
    /// The family.
    pub family: Family,
    /// The host that was scanned: the one that waits for a data connection.
    pub target: String,
    /// The host that scanned.
    pub from: String,
    /// Whether the control connection was there and a data port just announced, or everything was over.
    pub during: bool,
    /// The port that was announced.
    pub announced: u16,
    /// What was found.
    #[serde(flatten)]
    pub found: Scan,
}

/// Everything that was found in one lab.
#[derive(Clone, Debug, Serialize)]
pub struct MatrixReport {
    /// Who was inside.
    pub topology: Topology,
    /// The cells, in the order of the options.
    pub cells: Vec<CellReport>,
    /// The scans.
    pub scans: Vec<ScanReport>,
    /// Why a scan could not be made, for each that could not: what is tested did not let the dialogue through.
    pub scans_failed: Vec<String>,
}

impl MatrixReport {
    /// How many cells show this.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cells.iter().filter(|c| c.verdict == verdict).count()
    }
}

/// One of the two runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Without a ruleset.
    Reference,
    /// With what is tested.
    Tested,
}

/// Takes part in a run: sets up what is tested, and follows what happens.
pub trait Observer: Sync {
    /// After the reference run: the ruleset of the options is loaded; attach what is tested.
    ///
    /// # Errors
    /// Whatever prevents it; the run ends with it.
    fn attach(&self, _lab: &Lab, _servers: &[Server]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }

    /// After everything, whether it went well or not: detach it.
    fn detach(&self, _lab: &Lab) {}

    /// An invocation has ended.
    fn cell(&self, _phase: Phase, _cell: &Cell, _outcome: &Outcome) {}

    /// Something else is begun.
    fn progress(&self, _what: &str) {}
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Starts the servers, runs all cells twice, and scans.
///
/// # Errors
/// When the lab has too few hosts, a server or a client can't be started, or the ruleset is refused.
pub fn run(lab: &Lab, options: &MatrixOptions, observer: &dyn Observer) -> Result<MatrixReport> {
    // A ruleset with a mistake in it is told of now, not after the reference run.
    lab.load_ruleset(options.ruleset.as_deref())?;
    let fixtures = Fixtures::start(lab, options, observer)?;
    let cells = cells(options);
    lab.load_ruleset(None)?;
    observer.progress("without a ruleset");
    let reference = fixtures.run(lab, &cells, Phase::Reference, options.reference_limit, options.parallel, observer)?;
    let able = |(cell, outcome): &(&Cell, &Outcome)| outcome.transferred_by(cell.mode);
    let possible: Vec<Cell> = cells.iter().zip(&reference).filter(able).map(|(cell, _)| *cell).collect();

    lab.load_ruleset(options.ruleset.as_deref())?;
    observer
        .attach(lab, &fixtures.servers)
        .map_err(|e| LabError::Usage(format!("can't attach what is tested: {e}")))?;
    let detach = Detach { lab, observer };
    observer.progress("with what is tested");
    let tested = fixtures.run(lab, &possible, Phase::Tested, options.limit, options.parallel, observer)?;
    let (scans, scans_failed) = match &options.scan {
        Some(ports) => scans(lab, &fixtures, options, ports, observer)?,
        None => (Vec::new(), Vec::new()),
    };
    drop(detach);

    let mut tested: VecDeque<Outcome> = tested.into();
    let report = |(cell, reference): (Cell, Outcome)| {
        // One for each that is possible, in the same order.
        let tested = if reference.transferred_by(cell.mode) { tested.pop_front() } else { None };
        let verdict = match &tested {
            None => Verdict::Cannot,
            Some(o) if o.transferred_by(cell.mode) => Verdict::Passed,
            Some(_) => Verdict::Blocked,
        };
        CellReport { cell, verdict, reference, tested }
    };
    let cells = cells.into_iter().zip(reference).map(report).collect();
    Ok(MatrixReport { topology: lab.topology(), cells, scans, scans_failed })
}

/// All combinations of the options. Neighbours use different servers, so that what runs at the same time is spread.
#[must_use]
pub fn cells(options: &MatrixOptions) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &mode in &options.modes {
        for &family in &options.families {
            for &client in &options.clients {
                for &server in &options.servers {
                    cells.push(Cell { server, client, mode, family });
                }
            }
        }
    }
    cells
}

/// The servers of a run, each on a host of its own, and the file that clients upload.
#[derive(Debug)]
pub struct Fixtures {
    /// The servers, in the order of the options.
    pub servers: Vec<Server>,
    upload: PathBuf,
}

impl Fixtures {
    /// Starts the servers, all at once.
    ///
    /// # Errors
    /// When the lab has too few hosts or a server can't be started.
    pub fn start(lab: &Lab, options: &MatrixOptions, observer: &dyn Observer) -> Result<Self> {
        let (wanted, there) = (options.servers.len(), lab.servers().len());
        if wanted == 0 || options.clients.is_empty() || options.modes.is_empty() || options.families.is_empty() {
            return Err(LabError::Usage("nothing to run: name a server, a client, a mode and a family".to_owned()));
        }
        if wanted > there {
            return Err(LabError::Usage(format!("{wanted} servers, and the lab has {there} hosts for them")));
        }
        observer.progress(&format!("starting {wanted} servers"));
        let upload = lab.directory().join("upload.bin");
        let mut bytes = pattern(options.server.size);
        // Not what they download.
        bytes.reverse();
        std::fs::write(&upload, bytes).map_err(LabError::io(format!("can't write {}", upload.display())))?;
        let servers = std::thread::scope(|scope| {
            let start = |(host, &kind)| scope.spawn(move || Server::start(host, kind, &options.server));
            let threads: Vec<_> = lab.servers().iter().zip(&options.servers).map(start).collect();
            let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            joined.collect::<Vec<_>>()
        });
        Ok(Self { servers: servers.into_iter().collect::<Result<_>>()?, upload })
    }

    /// Runs cells from the lab's client; the outcomes are in the order of the cells.
    ///
    /// # Errors
    /// When a cell's server is not among them, or a client's program can't be started.
    pub fn run(
        &self,
        lab: &Lab,
        cells: &[Cell],
        phase: Phase,
        limit: Duration,
        parallel: usize,
        observer: &dyn Observer,
    ) -> Result<Vec<Outcome>> {
        let queue: Mutex<VecDeque<(usize, &Cell)>> = Mutex::new(cells.iter().enumerate().collect());
        let work = || {
            let mut done = Vec::new();
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((index, cell)) = next else { return Ok(done) };
                let outcome = self.cell(lab, cell, limit).inspect_err(|_| {
                    // The others need not go on for a run that has failed.
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                })?;
                observer.cell(phase, cell, &outcome);
                done.push((index, outcome));
            }
        };
        let mut all = std::thread::scope(|scope| {
            let workers = parallel.clamp(1, cells.len().max(1));
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            joined.collect::<Result<Vec<_>>>()
        })?
        .concat();
        for server in &self.servers {
            server.remove_uploads()?;
        }
        all.sort_unstable_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Runs one cell from the lab's client.
    ///
    /// # Errors
    /// As [`Fixtures::run`].
    pub fn cell(&self, lab: &Lab, cell: &Cell, limit: Duration) -> Result<Outcome> {
        let server = self
            .servers
            .iter()
            .find(|s| s.kind() == cell.server)
            .ok_or_else(|| LabError::Usage(format!("{cell}: no such server was started")))?;
        let Cell { client, mode, family, .. } = *cell;
        Job { from: lab.client(), client, mode, family, server, upload: &self.upload, limit }.run()
    }
}

struct Detach<'a> {
    lab: &'a Lab,
    observer: &'a dyn Observer,
}

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        self.observer.detach(self.lab);
    }
}

/// Scans what waits for a data connection: while one is announced, then when the dialogue is over. The stranger scans
/// first, since a scan by the peer uses up what was announced.
fn scans(
    lab: &Lab,
    fixtures: &Fixtures,
    options: &MatrixOptions,
    ports: &RangeInclusive<u16>,
    observer: &dyn Observer,
) -> Result<(Vec<ScanReport>, Vec<String>)> {
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    let inside_out = lab.topology() == Topology::ClientInside;
    for &family in &options.families {
        // The bundled server has no EPRT.
        let Some(server) =
            fixtures.servers.iter().find(|s| !inside_out || family == Family::V4 || s.kind() != ServerKind::Bundled)
        else {
            failed.push(format!("IPv{family}: no server that knows EPRT"));
            continue;
        };
        let announced = match announce(lab, server, family, options.limit, ports) {
            Ok(announced) => announced,
            Err(e) => {
                failed.push(format!("IPv{family}: {e}"));
                continue;
            }
        };
        let (peer, target): (&Host, &Host) =
            if inside_out { (server.host(), lab.client()) } else { (lab.client(), server.host()) };
        let (dialogue, _listener, port) = announced;
        let mut dialogue = Some(dialogue);
        for during in [true, false] {
            if !during && let Some(mut d) = dialogue.take() {
                // Whatever the answer, the connection ends here.
                drop(d.ask("QUIT"));
            }
            for from in [lab.stranger(), peer] {
                let when = if during { "announced" } else { "over" };
                observer.progress(&format!("scan from {} over IPv{family}, transfer {when}", from.name()));
                let found = scan(from, target.address(family), ports.clone(), &ScanOptions::default())?;
                let (target, from) = (target.name().to_owned(), from.name().to_owned());
                reports.push(ScanReport { family, target, from, during, announced: port, found });
            }
        }
    }
    Ok((reports, failed))
}

/// Logs in and announces a data connection towards the inside: the server's port, or one of the client's.
fn announce(
    lab: &Lab,
    server: &Server,
    family: Family,
    limit: Duration,
    ports: &RangeInclusive<u16>,
) -> Result<(Dialogue, Option<TcpListener>, u16)> {
    let to = SocketAddr::new(server.host().address(family), server.port());
    let mut dialogue = Dialogue::open(lab.client(), to, limit)?;
    dialogue.login(server.login())?;
    if lab.topology() == Topology::ServerInside {
        let port = if family == Family::V4 { dialogue.pasv()? } else { dialogue.epsv()? };
        return Ok((dialogue, None, port));
    }
    let local: IpAddr = dialogue.local().ip();
    // One that the scan will find, below those that the system gives to others.
    let mut candidates = ports.clone().rev().filter(|p| *p < 32768).chain(ports.clone());
    let listen = || candidates.find_map(|port| TcpListener::bind((local, port)).ok());
    let listener = lab.client().run_in(listen)?.ok_or_else(|| {
        LabError::Usage(format!("no free port from {} to {} on the client", ports.start(), ports.end()))
    })?;
    let port = listener.local_addr().map_err(LabError::io("a listener has no address"))?.port();
    dialogue.active(port)?;
    Ok((dialogue, Some(listener), port))
}
