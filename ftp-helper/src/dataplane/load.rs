//! Loading: the object, its sizes, its constants, and errors that say what to do.

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use ftp_helper_common::{
    command::Command,
    nat::{Alias, Translation},
    policy::{KernelPolicy, MAX_CONTROL_PORTS},
    record::SegmentRecord,
    state::{ClientState, FlowState, HalfOpen, Locked, PinholeState, SessionState},
};

use super::{
    AttachKind, Dataplane, Shield,
    pins::{PinDir, fnv},
    platform::Platform,
};
use crate::error::{Code, Fault};

/// How the kernel side is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Control ports; eight at most.
    pub control_ports: Vec<u16>,
    /// Sessions at most; the other tables follow.
    pub sessions: u32,
    /// Size of the ring buffer for events: a power of two, and a multiple of the page size.
    pub ring_bytes: u32,
    /// How programs are attached.
    pub attach: AttachKind,
    /// Whether there is a shield in XDP before them.
    pub shield: Shield,
    /// Names the instance: tables and links are pinned under it and outlive the daemon. None: nothing is pinned, and
    /// programs are loaded at once, to be run without an interface.
    pub instance: Option<String>,
    /// The programs that are loaded where there is no instance, beside the command program; all of them if there are none
    /// here.
    pub programs: &'static [&'static str],
    /// Programs log through aya-log down to this level (1 error to 5 trace); 0 costs nothing.
    pub log_level: u8,
    /// Whether addresses are translated: without it the programs know nothing of that.
    pub nat: bool,
    /// For measuring: what a packet would change is not changed.
    pub bench: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control_ports: vec![21],
            sessions: 65536,
            ring_bytes: 16 << 20,
            attach: AttachKind::Auto,
            shield: Shield::Off,
            instance: None,
            programs: &[],
            log_level: 0,
            nat: false,
            bench: false,
        }
    }
}

/// Handshakes, and other tables that make room by themselves.
const TRANSIENT: u32 = 16384;
/// Tables that outlive the daemon: what the next one takes over, and what the programs go by until it replaces them.
pub const PINNED: [&str; 24] = [
    "SESSIONS",
    "SAVED",
    "PINHOLES",
    "FLOWS",
    "CLIENTS",
    "STARTED",
    "RANGES",
    "ALIASES",
    "INWARD",
    "OUTWARD",
    "HALF_OPEN",
    "MIDSTREAM",
    "EVENTS",
    "POLICY",
    "HEARTBEAT",
    "PORTS",
    "NO_DATA",
    "FEW",
    "DENIED",
    "NETS",
    "INITIATORS",
    "SERVERS",
    "OUTSIDE",
    "COUNTERS",
];

/// The others: working memory, what is told to people only, and what is worth a moment.
pub const TRANSITORY: [&str; 6] = ["AWAKE", "BLIND_PAIRS", "BLIND_UNTIL", "PARKED", "SCRATCH", "TELEMETRY"];

/// The BPF object that was built into this program.
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ftp-helper-ebpf"))
}

impl Dataplane {
    /// Loads programs and tables, or takes over the tables that an earlier daemon of this instance left.
    ///
    /// # Errors
    /// When the host can't run it, the caller may not, or the kernel refuses.
    pub fn load(options: &Options) -> anyhow::Result<Self> {
        Platform::here().check()?;
        let pins = match &options.instance {
            Some(instance) => Some(PinDir::open(instance, layout(options))?),
            None => None,
        };
        let adopted = pins.as_ref().is_some_and(|p| p.has("SESSIONS"));
        let mark = random_mark()?;
        let mut ports = [0u16; MAX_CONTROL_PORTS];
        if options.control_ports.len() > ports.len() {
            anyhow::bail!(
                "there are {} control ports, {} at most are allowed",
                options.control_ports.len(),
                ports.len()
            );
        }
        ports[..options.control_ports.len()].copy_from_slice(&options.control_ports);
        let bench = u32::from(options.bench);
        let nat = u32::from(options.nat);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("CONTROL_PORTS", &ports, true)
            .override_global("UNPARK_MARK", &mark, true)
            .override_global("NAT", &nat, true)
            .override_global("BENCH", &bench, true)
            .override_global("AYA_LOG_LEVEL", &options.log_level, true);
        for (name, entries) in sizes(options) {
            loader.map_max_entries(name, entries);
        }
        if let Some(pins) = &pins {
            for name in PINNED {
                loader.map_pin_path(name, pins.pin(name));
            }
        }
        // The hooks' programs are loaded when an interface needs them: the verifier takes its time.
        let loaded = loader.load(object()).map_err(|e| explain(e.into())).and_then(|mut ebpf| {
            load_program(&mut ebpf, "ftp_command")?;
            if options.instance.is_none() {
                let wanted = |name: &str| options.programs.is_empty() || options.programs.contains(&name);
                let names: Vec<String> =
                    ebpf.programs().map(|(name, _)| name.to_string()).filter(|name| wanted(name)).collect();
                for name in names {
                    load_program(&mut ebpf, &name)?;
                }
            }
            Ok(ebpf)
        });
        let ebpf = match loaded {
            Ok(ebpf) => ebpf,
            Err(e) => {
                // Nothing half-done is left behind; what an earlier daemon pinned stays.
                if let Some(pins) = pins.filter(|_| !adopted) {
                    pins.remove_all().context(format!("{e:#}"))?;
                }
                return Err(e);
            }
        };
        let kind = match options.attach {
            AttachKind::Auto if Platform::here().has_tcx() => AttachKind::Tcx,
            AttachKind::Auto => AttachKind::Clsact,
            kind => kind,
        };
        Ok(Self { ebpf, attached: Vec::new(), pins, kind, shield: options.shield, adopted, mark })
    }
}

/// A program of the object for a hook of TC, loaded.
pub(super) fn load_classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    load_program(ebpf, name)?.try_into().context(OTHER_KIND)
}

/// A program of the object for XDP, loaded.
pub(super) fn load_xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    load_program(ebpf, name)?.try_into().context(OTHER_KIND)
}

const OTHER_KIND: &str = "the object holds another kind of program";

/// A program of the object, loaded.
fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Program> {
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("no program {name} in the object"))?;
    if program.fd().is_err() {
        let loaded = match program {
            Program::SchedClassifier(p) => p.load(),
            Program::Xdp(p) => p.load(),
            _ => anyhow::bail!(OTHER_KIND),
        };
        loaded.map_err(|e| explain(e.into())).with_context(|| format!("can't load the program {name}"))?;
    }
    Ok(program)
}

fn sizes(options: &Options) -> [(&'static str, u32); 13] {
    let n = options.sessions.max(1);
    // A data connection has its quiet time after its end, when the session has the next one already.
    let (aliases, translations) = if options.nat { (n, n.saturating_mul(2)) } else { (1, 1) };
    [
        ("SESSIONS", n),
        ("SAVED", n),
        // While one replaces another, a session has two.
        ("PINHOLES", n.saturating_add(n / 8).saturating_add(64)),
        ("FLOWS", n.saturating_mul(2)),
        ("CLIENTS", n.saturating_add(64)),
        ("RANGES", n.saturating_add(64)),
        ("ALIASES", aliases),
        ("INWARD", translations),
        ("OUTWARD", translations),
        ("HALF_OPEN", TRANSIENT),
        ("MIDSTREAM", TRANSIENT),
        ("BLIND_PAIRS", TRANSIENT),
        ("EVENTS", options.ring_bytes),
    ]
}

/// Grows with every change of the tables' contents that their sizes do not show.
const TABLES: u32 = 10;

/// Stands for everything that the tables' contents depend on.
fn layout(options: &Options) -> u64 {
    let shape = format!(
        "{} {TABLES} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        sizes(options),
        [
            size_of::<Locked<SessionState>>(),
            size_of::<Locked<PinholeState>>(),
            size_of::<Locked<FlowState>>(),
            size_of::<Locked<Alias>>(),
            size_of::<Translation>(),
            size_of::<ClientState>(),
            size_of::<HalfOpen>(),
            size_of::<KernelPolicy>(),
            size_of::<SegmentRecord>(),
            size_of::<Command>(),
        ]
    );
    fnv(shape.as_bytes())
}

fn random_mark() -> anyhow::Result<u32> {
    let mut bytes = [0u8; 4];
    // SAFETY: the kernel writes at most the given number of bytes into the buffer.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if n != bytes.len() as isize {
        return Err(std::io::Error::last_os_error()).context("can't draw a random number");
    }
    Ok(u32::from_ne_bytes(bytes) | 1)
}

/// Puts the remedy beside what the kernel said.
fn explain(e: anyhow::Error) -> anyhow::Error {
    let denied = e.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES)))
            || matches!(
                cause.downcast_ref::<EbpfError>(),
                Some(EbpfError::MapError(MapError::CreateError { io_error, .. })) if io_error.raw_os_error() == Some(libc::EPERM)
            )
    });
    let verifier = e.downcast_ref::<ProgramError>().and_then(|p| match p {
        ProgramError::LoadError { verifier_log, .. } => Some(verifier_log.to_string()),
        _ => None,
    });
    if let Some(log) = verifier.filter(|l| !l.is_empty()) {
        let last: Vec<_> = log.lines().rev().take(12).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        return anyhow!("the kernel's verifier refuses it:\n{}", last.join("\n"));
    }
    let no_room = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| matches!(io.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG)))
    };
    let table = e.downcast_ref::<EbpfError>().and_then(|e| match e {
        EbpfError::MapError(MapError::CreateError { name, io_error, .. }) if no_room(io_error) => Some(name.clone()),
        _ => None,
    });
    if let Some(table) = table {
        return Fault::new(
            Code::Failure,
            format!("the kernel has no memory for the table {table}: set limits.sessions or limits.ring lower, or give it more"),
        )
        .into();
    }
    if denied || !nix::unistd::geteuid().is_root() {
        return Fault::new(
            Code::NoPermission,
            format!(
                "no permission to load BPF programs ({e:#}): run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN, \
                 CAP_PERFMON and CAP_NET_RAW"
            ),
        )
        .into();
    }
    e
}
