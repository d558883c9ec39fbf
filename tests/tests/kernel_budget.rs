//! What the programs cost the verifier, and that diagnostics cost nothing while they are off.

use std::sync::{Arc, Mutex};

use aya_log::EbpfLogger;
use ftp_helper::{
    dataplane::{Options, PINNED, TRANSITORY, verified_instructions},
    lab,
};
use ftp_helper_common::key::HOOK_IN;
use ftp_helper_tests::{
    packet::Packet,
    testrun::{Kernel, Verdict, at, hosts, options},
};

/// Instructions that the verifier may look at for one program: a tenth to a quarter above what it takes today on Linux 6.18, and
/// twice that where addresses are translated. The
/// kernel's own limit is 1,000,000, and older kernels prune less. What a compiler update blows up shows here.
const CEILINGS: [(&str, u32); 13] = [
    ("ftp_command", COMMAND),
    ("ftp_egress", HOOK),
    ("ftp_egress_l3", HOOK),
    ("ftp_empty", 2),
    ("ftp_empty_xdp", 2),
    ("ftp_floor_pinhole", FLOOR),
    ("ftp_floor_segment", FLOOR),
    ("ftp_floor_transfer", FLOOR),
    ("ftp_ingress", HOOK),
    ("ftp_ingress_l3", HOOK),
    ("ftp_shield", SHIELD),
    ("ftp_shield_generic", SHIELD),
    ("ftp_shield_l3", SHIELD),
];
const HOOK: u32 = 229_000;
const SHIELD: u32 = 21_000;
const COMMAND: u32 = 10_200;
const FLOOR: u32 = 36_000;

#[test]
fn the_verifiers_work_is_bounded() {
    if !lab::require_root() {
        return;
    }
    for nat in [false, true] {
        let counts = verified_instructions(nat).expect("the object loads");
        println!("nat {nat}: {counts:?}");
        let names: Vec<_> = counts.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, CEILINGS.map(|(n, _)| n), "a program without a ceiling");
        for ((name, count), (_, ceiling)) in counts.iter().zip(CEILINGS) {
            let ceiling = if nat { 2 * ceiling } else { ceiling };
            assert!(
                (1..=ceiling).contains(count),
                "{name}, nat {nat}: {count} instructions verified, {ceiling} allowed"
            );
        }
    }
}

/// A table that is not pinned is a new one after a restart, while programs that the next daemon has not replaced yet go by
/// the old: each must be one or the other on purpose.
#[test]
fn every_table_outlives_the_daemon_or_need_not() {
    if !lab::require_root() {
        return;
    }
    let mut kernel = Kernel::load(&options());
    let own = |name: &str| !name.starts_with('.') && name != "AYA_LOGS" && name != "AYA_LOG_BUF";
    let mut tables: Vec<String> =
        kernel.plane().ebpf_mut().maps().map(|(name, _)| name.to_owned()).filter(|n| own(n)).collect();
    // The harness has taken the ring buffers out.
    tables.extend(["EVENTS", "PARKED", "TELEMETRY"].map(str::to_owned));
    tables.sort();
    let mut known: Vec<&str> = PINNED.into_iter().chain(TRANSITORY).collect();
    known.sort();
    assert_eq!(tables, known);
}

#[test]
fn diagnostics_are_off_and_free_unless_asked_for() {
    if !lab::require_root() {
        return;
    }
    assert_eq!(Options::default().log_level, 0);
    let mut quiet = Kernel::load(&options());
    let mut loud = Kernel::load(&Options { log_level: 5, ..options() });
    let cost = |k: &mut Kernel| {
        let program = k.plane().ebpf_mut().program("ftp_ingress").expect("a program");
        program.info().expect("its description").verified_instruction_count().expect("Linux 5.16")
    };
    let (off, on) = (cost(&mut quiet), cost(&mut loud));
    assert!(off < on, "{off} instructions with diagnostics off, {on} with them on");
    assert_eq!(lines(&mut quiet), [""; 0]);
    let lines = lines(&mut loud);
    assert!(lines.iter().any(|l| l.contains("SYN to port 50069 denied")), "{lines:?}");
}

/// What a denied SYN makes the programs say.
fn lines(k: &mut Kernel) -> Vec<String> {
    let heard = Heard::default();
    let mut logger = EbpfLogger::init_with_logger(k.plane().ebpf_mut(), heard.clone()).expect("the log's ring buffer");
    let (client, server) = hosts(false);
    let syn = Packet::syn(at(client, 40000), at(server, 50069), 1);
    assert_eq!(k.send(HOOK_IN, &syn), Verdict::Drop);
    logger.flush();
    let lines = heard.0.lock().expect("no other thread");
    lines.clone()
}

/// A logger that remembers.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl log::Log for Heard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().expect("no other thread").push(record.args().to_string());
    }

    fn flush(&self) {}
}
