//! Captures through the programs in the kernel: what `replay --through-kernel` tells is what `replay` tells, and beside it
//! what the programs make of connections without a pinhole.

#[path = "kernel_replay/tape.rs"]
mod tape;

use std::{collections::BTreeMap, os::unix::process::CommandExt as _, process::Command};

use ftp_helper::{
    dataplane::Guard,
    engine::policy::{Mode, Policy},
    event::{By, Event, Kind},
    lab::require_root,
    replay::{self, Options, Outside, Passed, Summary},
};
use ftp_helper_common::{
    key::{CLIENT, HOOK_IN, HOOK_OUT, SERVER},
    reason::Reason,
    tcp,
};
use ftp_helper_tests::{
    capture::{self, LINKS, Link, Replayed},
    catalogue::{self, Begin, Came, Places, Seen, Step, Stimulus},
    dialogue::Data,
    gateway,
    packet::Packet,
    program,
    testrun::{at, policy},
};

use self::tape::{File, PORT, SECOND, Session, Tape, WAYS, Way, every_shape};

/// Both ways.
fn both(file: &File, options: &Options, guards: &[Guard]) -> (Replayed, Replayed) {
    let alone = capture::alone(&file.path(), options).unwrap();
    let kernel = capture::through_kernel(&file.path(), options, guards).unwrap();
    (alone, kernel)
}

/// Both ways tell the same; what was denied, and what the programs made of it.
#[track_caller]
fn same(file: &File, options: &Options, guards: &[Guard]) -> (Replayed, Vec<Event>, Passed) {
    let (alone, kernel) = both(file, options, guards);
    let (events, denied) = capture::as_alone(&kernel.events);
    let (expected, _) = capture::as_alone(&alone.events);
    for (i, (event, expected)) in events.iter().zip(&expected).enumerate() {
        assert_eq!(event, expected, "event {i} (left: through the kernel)");
    }
    let common = events.len().min(expected.len());
    assert_eq!(events[common..], expected[common..], "left: through the kernel");
    let passed = kernel.summary.kernel.expect("it went through the kernel");
    assert_eq!(Summary { kernel: None, ..kernel.summary }, alone.summary);
    assert_eq!(passed.divergences, 0);
    (kernel, denied, passed)
}

fn options(outside: Outside) -> Options {
    Options { policy: policy(), outside }
}

#[test]
fn every_shape_of_a_dialogue_is_told_alike() {
    if !require_root() {
        return;
    }
    for (outside, hook) in [(Outside::Client, HOOK_IN), (Outside::Server, HOOK_OUT)] {
        let mut tape = Tape::default();
        let mut sessions = 0;
        for (way, v6) in WAYS {
            sessions += every_shape(way, v6, hook, &mut tape);
        }
        let file = tape.write(Link::Ethernet);
        let (kernel, denied, passed) = same(&file, &options(outside), &replay::guards());
        let Summary { opened, used, .. } = kernel.summary;
        assert_eq!((kernel.summary.sessions, opened, used), (sessions, sessions, sessions));
        let by_kernel = kernel.events.iter().filter(|e| e.by == Some(By::Kernel)).count() as u64;
        println!("{outside:?}: {sessions} sessions, {by_kernel} pinholes of the fast path");
        // What is cut, pipelined or out of order is the daemon's.
        assert!(by_kernel > sessions / 4 && by_kernel < sessions, "{by_kernel} of {sessions}");
        assert_eq!((denied.len() as u64, passed.dropped), (sessions, sessions));
        for event in denied {
            let connection = event.connection.unwrap();
            assert_eq!((connection.to.port(), connection.dropped), (PORT, Some(true)));
            assert_eq!(event.reason, Some(Reason::OtherInitiator));
        }
        assert_eq!(passed, Passed { dropped: sessions, ..Passed::default() });
    }
}

#[test]
fn every_link_type_is_told_alike() {
    if !require_root() {
        return;
    }
    let mut tape = Tape::default();
    for (way, v6) in WAYS {
        Session::new(way, v6, HOOK_IN).record(&mut tape, |all| all);
    }
    let mut told = Vec::new();
    for link in LINKS {
        let (kernel, denied, _) = same(&tape.write(link), &options(Outside::Client), &replay::guards());
        assert_eq!((kernel.summary.used, denied.len()), (6, 6), "{link:?}");
        told.push(kernel.events);
    }
    assert!(told.windows(2).all(|two| two[0] == two[1]));
}

/// The policy's mode decides: in `observe` nothing is dropped, and what would have been is told.
#[test]
fn observe_drops_nothing_and_tells_the_same() {
    if !require_root() {
        return;
    }
    let mut tape = Tape::default();
    for (way, v6) in WAYS {
        Session::new(way, v6, HOOK_IN).record(&mut tape, |all| all);
    }
    let file = tape.write(Link::Ethernet);
    let observe = Options { policy: Policy { mode: Mode::Observe, ..policy() }, ..options(Outside::Client) };
    let (_, denied, passed) = same(&file, &observe, &replay::guards());
    assert_eq!((denied.len(), passed.dropped), (6, 0));
    assert!(denied.iter().all(|e| e.connection.as_ref().unwrap().dropped == Some(false)));
    // No guard, no denial.
    let (_, denied, passed) = same(&file, &options(Outside::Client), &[]);
    assert_eq!((denied.len(), passed.dropped), (0, 0));
}

/// Time is the capture's: pinholes, resets and silent sessions go by it, however quick the kernel is done.
#[test]
fn time_is_the_captures() {
    if !require_root() {
        return;
    }
    let hour = 3600 * SECOND;
    let mut tape = Tape::default();
    let begin = |tape: &mut Tape| {
        let mut session = Session::new(Way::Pasv, false, HOOK_IN);
        tape.add(&std::mem::take(&mut session.negotiation));
        session
    };
    // Unused for eleven seconds.
    let late = begin(&mut tape);
    tape.wait(11 * SECOND);
    tape.add(&late.transfer());
    tape.add(&late.end());
    // Reset before it carried anything: in time, and too late for another try.
    for (wait, tries) in [(SECOND, 2), (11 * SECOND, 1)] {
        let session = begin(&mut tape);
        for port in 45000..45000 + tries {
            let d = Data::through(&session.pinhole(), port);
            tape.add(&[d.syn(), d.syn_ack()]);
            tape.wait(wait);
            tape.add(&[d.forth(tcp::RST, 1, b"")]);
        }
        let d = Data::through(&session.pinhole(), 46000);
        tape.add(&[d.syn()]);
        tape.add(&session.end());
        tape.wait(20 * SECOND);
    }
    // Encrypted, and alive by a segment in half an hour; a running transfer keeps another.
    let mut opaque = begin(&mut tape);
    for (side, line) in [(CLIENT, "AUTH TLS\r\n"), (SERVER, "234 go on\r\n")] {
        let packet = opaque.next(side, line.as_bytes());
        tape.add(&[packet]);
    }
    let busy = begin(&mut tape);
    let d = Data::through(&busy.pinhole(), 45000);
    tape.add(&[d.syn(), d.syn_ack()]);
    for n in 0..6_u64 {
        tape.wait(hour / 2);
        let packet = opaque.next(CLIENT, &[0x17, 3, 3, 0, 2, 8, n as u8]);
        tape.add(&[packet]);
    }
    tape.add(&[d.back(tcp::FIN | tcp::ACK, 1, b""), d.forth(tcp::FIN | tcp::ACK, 1, b"")]);
    tape.add(&busy.end());
    tape.add(&opaque.end());
    let (kernel, denied, _) = same(&tape.write(Link::Ethernet), &options(Outside::Client), &replay::guards());
    let count = |kind| kernel.events.iter().filter(|e| e.event == kind).count();
    assert_eq!((count(Kind::Expired), count(Kind::Opaque)), (1, 1), "{:#?}", kernel.events);
    let idle = kernel.events.iter().find(|e| e.reason == Some(Reason::Idle));
    assert_eq!(idle, None);
    // Two of the first; the last SYN of each of the others.
    assert_eq!(denied.len(), 4, "{denied:#?}");
    let busy = kernel.events.iter().rfind(|e| e.event == Kind::DataEnd).unwrap();
    assert_eq!(busy.connection.as_ref().unwrap().duration_ms, Some(3 * 3600 * 1000));
}

/// Frames beyond what a test run takes: replies and data that were put together by GRO, or never cut by the sender.
#[test]
fn packets_beyond_a_page_are_run_in_pieces() {
    if !require_root() {
        return;
    }
    let mut tape = Tape::default();
    for (way, v6) in WAYS {
        let mut session = Session::new(way, v6, HOOK_IN);
        tape.add(&std::mem::take(&mut session.negotiation));
        let mut reply = b"211-Features\r\n".to_vec();
        for n in 0..1500 {
            reply.extend(format!(" feature number {n}\r\n").bytes());
        }
        reply.extend(b"211 End\r\n");
        for packet in [session.next(CLIENT, b"FEAT\r\n"), session.next(SERVER, &reply)] {
            tape.add(&[packet]);
        }
        let d = Data::through(&session.pinhole(), 45000);
        tape.add(&[d.syn(), d.syn_ack(), d.forth(tcp::ACK, 1, b"")]);
        for n in 0..40_u64 {
            let big = d.back(tcp::ACK, 1 + n * 60_000, &[9; 60_000]);
            // The sender has not written the length yet.
            let length = if n % 2 == 0 && !v6 { Some(0) } else { None };
            tape.add(&[Packet { length, ..big }]);
        }
        tape.add(&[d.back(tcp::FIN | tcp::ACK, 2_400_001, &[9; 5000]), d.forth(tcp::FIN | tcp::ACK, 1, b"")]);
        // And on it goes in the same session.
        for (side, line) in [(CLIENT, "EPSV\r\n"), (SERVER, "229 ok (|||50070|)\r\n")] {
            let packet = session.next(side, line.as_bytes());
            tape.add(&[packet]);
        }
        tape.add(&session.end());
    }
    let (kernel, _, passed) = same(&tape.write(Link::Ethernet), &options(Outside::Client), &replay::guards());
    assert_eq!((kernel.summary.opened, kernel.summary.used), (12, 6));
    assert_eq!(passed.pieces, 6 * 42);
    let ends: Vec<_> = kernel.events.iter().filter(|e| e.event == Kind::DataEnd).collect();
    assert_eq!(ends.len(), 6);
    assert!(ends.iter().all(|e| e.connection.as_ref().unwrap().bytes_back == Some(2_405_000)), "{ends:#?}");
}

/// More denied SYNs in a moment than the programs tell in one.
#[test]
fn every_denied_syn_is_told() {
    if !require_root() {
        return;
    }
    let mut tape = Tape::default();
    let session = Session::new(Way::Pasv, false, HOOK_IN);
    tape.add(&session.negotiation);
    let stranger: std::net::IpAddr = "203.0.113.254".parse().unwrap();
    for port in 0..1000 {
        tape.add(&[Packet::syn(at(stranger, 20_000 + port), at(session.dialogue.server.ip(), 40_000), 7)]);
    }
    let (_, denied, passed) = same(&tape.write(Link::Ethernet), &options(Outside::Client), &replay::guards());
    let ports: Vec<u16> = denied.iter().map(|e| e.connection.as_ref().unwrap().from.port()).collect();
    assert_eq!(ports, (20_000..21_000).collect::<Vec<_>>());
    assert_eq!(passed.dropped, 1000);
}

/// What a capture can't tell, or has not captured, is said.
#[test]
fn what_is_left_out_is_counted() {
    if !require_root() {
        return;
    }
    let mut tape = Tape::default();
    let elsewhere = [at("192.0.2.1".parse().unwrap(), 1000), at("192.0.2.2".parse().unwrap(), 8000)];
    tape.add(&[Packet::syn(elsewhere[0], elsewhere[1], 1), Packet::syn(elsewhere[1], elsewhere[0], 1)]);
    Session::new(Way::Pasv, false, HOOK_IN).record(&mut tape, |all| all);
    let session = Session::new(Way::Epsv, true, HOOK_IN);
    tape.add(&session.negotiation);
    let d = Data::through(&session.pinhole(), 45000);
    tape.add(&[d.syn(), d.syn_ack()]);
    // A fragment between the two: nothing of it is for the engine.
    let whole = session.dialogue.segment(CLIENT, b"NOOP\r\n");
    let fragment = Packet { extensions: vec![ftp_helper_tests::packet::Extension::Fragment(0, true)], ..whole };
    tape.add(&[fragment]);
    // No IP at all, and an IP packet that is no TCP.
    tape.frames.push((tape.now, [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat()));
    tape.add(&[Packet { protocol: 17, ..d.syn() }]);
    let mut frames = tape.frames.clone();
    // Of data connections only the headers were captured, of the last not even these.
    let data = d.back(tcp::ACK, 1, &[1; 900]).frame();
    frames.push((tape.now, data));
    frames.push((tape.now, d.back(tcp::FIN | tcp::ACK, 901, b"").frame()));
    let snapped = frames.iter().position(|f| f.0 == tape.now).unwrap();
    let mut file = capture::pcap(Link::Ethernet, &frames[..snapped]);
    file.extend(&capture::pcap_cut(Link::Ethernet, 80, &frames[snapped..=snapped])[24..]);
    file.extend(&capture::pcap_cut(Link::Ethernet, 60, &frames[snapped + 1..])[24..]);
    let (kernel, _, passed) = same(&File::of(&file), &options(Outside::Client), &replay::guards());
    assert_eq!(kernel.summary.fragments, 1);
    assert_eq!(passed, Passed { dropped: 2, unplaced: 2, cut: 1, headerless: 1, ..Passed::default() });
}

/// The program itself: every format, a configuration with guards of its own, the exit codes; and nothing is left behind.
#[test]
fn the_program_tells_it_and_leaves_nothing() {
    if !require_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut tape = Tape::default();
    Session::new(Way::Pasv, false, HOOK_IN).record(&mut tape, |all| all);
    let whole = capture::pcap(Link::Cooked, &tape.frames);
    let good = file("good.pcap", &whole);
    let config = file(
        "drop.toml",
        b"mode = \"drop\"\n[watch]\ninterfaces = [\"wan7\"]\n[[guard]]\nnetworks = [\"203.0.113.0/24\", \"@wan7\"]\n",
    );
    let program = gateway::program().unwrap();
    // In a network namespace of its own, whose number tells what it would have pinned.
    let run = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "stat -Lc %i /proc/self/ns/net >&2; exec \"$0\" \"$@\""]);
        command.arg(&program).arg("replay").args(args);
        let mut said = program::said(command).unwrap();
        let (namespace, err) = said.err.split_once('\n').unwrap();
        let pins = std::fs::read_dir("/sys/fs/bpf/ftp-helper").into_iter().flatten();
        let left: Vec<_> = pins.filter_map(|p| p.ok()?.file_name().into_string().ok()).collect();
        assert!(!left.iter().any(|name| name.starts_with(namespace)), "{left:?}");
        said.err = err.to_owned();
        said
    };
    let kinds = |said: &program::Said| -> Vec<String> {
        said.jsonl().unwrap().iter().map(|e| e["event"].as_str().unwrap().to_owned()).collect()
    };
    let (good, config) = (good.to_str().unwrap(), config.to_str().unwrap());
    let said = run(&[good, "--through-kernel", "-o", "jsonl"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let expected = ["session_start", "opened", "confirmed", "denied", "used", "data_end", "session_end"];
    assert_eq!(kinds(&said), expected);
    assert!(said.err.contains("1 control connections, 1 pinholes opened, 1 used, 0 still open"), "{}", said.err);
    // The default policy observes.
    assert!(!said.err.contains("dropped"), "{}", said.err);
    let said = run(&[good, "--through-kernel", "-c", config, "-o", "json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(kinds(&said), expected);
    assert!(said.err.contains("1 packets were dropped by the programs"), "{}", said.err);
    assert!(said.err.contains("guard 1: this host has no interface wan7"), "{}", said.err);
    let said = run(&[good, "--through-kernel"]);
    assert!(said.out.contains(" opened        0000000000000001 ") && said.out.contains(" by kernel"), "{}", said.out);

    // What is wrong with a capture is told behind what came before, as without the kernel.
    let cut = file("cut.pcap", &whole[..whole.len() - 7]);
    let said = run(&[cut.to_str().unwrap(), "--through-kernel"]);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("session_start") && said.err.contains("cut.pcap: truncated"), "{said:?}");
    let said = run(&[config, "--through-kernel"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("neither a pcap nor a pcapng file"), "{}", said.err);

    // Without the rights: as `run`.
    let mut command = Command::new(&program);
    command.args(["replay", good, "--through-kernel"]).uid(65534).gid(65534);
    let said = program::said(command).unwrap();
    assert_eq!((said.code, said.out.as_str()), (5, ""), "{said:?}");
    assert!(said.err.contains("no permission for BPF programs") && said.err.contains("CAP_BPF"), "{}", said.err);
}

/// A stimulus on a tape, by its client's port.
type Recorded = BTreeMap<u16, Stimulus>;

/// The catalogue as captures: each stimulus comes to its verdict, and to what the engine alone tells of it unless the kernel
/// keeps segments from the engine.
#[test]
fn the_catalogue_as_captures() {
    if !require_root() {
        return;
    }
    let mut all = catalogue::all();
    all.sort_by_key(|s| s.knob.toml);
    let mut recorded = 0;
    let mut wrong = Vec::new();
    for group in all.chunk_by(|a, b| a.knob.toml == b.knob.toml) {
        for (hook, outside, not) in
            [(HOOK_IN, Outside::Client, Places::Inside), (HOOK_OUT, Outside::Server, Places::Outside)]
        {
            let mut tape = Tape::default();
            let mut of = Recorded::new();
            for (s, port) in group.iter().filter(|s| s.places != not && s.begin != Begin::Nothing).zip(10_000..) {
                if let Some(frames) = catalogue::capture::frames(s, hook, port, &mut tape.now) {
                    tape.frames.extend(frames);
                    of.insert(port, s.clone());
                }
                tape.wait(10 * SECOND);
            }
            if of.is_empty() {
                continue;
            }
            recorded += of.len();
            let options = Options { policy: catalogue::policy(group[0].knob), outside };
            let (alone, kernel) = both(&tape.write(Link::Ethernet), &options, &replay::guards());
            assert_eq!(kernel.summary.kernel.map(|k| k.divergences), Some(0));
            for (port, s) in &of {
                if let Err(e) = verdict(s, *port, &alone.events, &kernel.events) {
                    wrong.push(format!("{} ({}), {outside:?} outside: {e}", s.id, s.about));
                }
            }
        }
    }
    println!("{recorded} captures");
    assert!(recorded > 250, "{recorded}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Compares what was told of the session of one client's port.
fn verdict(s: &Stimulus, port: u16, alone: &[Event], kernel: &[Event]) -> Result<(), String> {
    let own = |events: &[Event]| -> Vec<Event> {
        events.iter().filter(|e| e.client.is_some_and(|c| c.port() == port)).cloned().collect()
    };
    let kernel = own(kernel);
    let came = Came::of(&kernel, Vec::new(), "");
    if came.opened != s.opens {
        return Err(format!("must open {:?}, opened {:?}", s.opens, came.opened));
    }
    if let Some(reason) = s.reason
        && !came.reasons.contains(reason)
    {
        return Err(format!("must tell {reason}, told {:?}", came.reasons));
    }
    let seen = |step: &Step| !matches!(step, Step::Control(c) if c.seen != Seen::Pass);
    if !s.steps.iter().all(seen) {
        return Ok(());
    }
    // The numbers of sessions differ where one of both follows a connection that the other does not.
    let bare = |events: &[Event]| -> Vec<Event> {
        let (rest, _) = capture::as_alone(events);
        rest.into_iter().map(|e| Event { session: None, ..e }).collect()
    };
    let (kernel, alone) = (bare(&kernel), bare(&own(alone)));
    if kernel == alone {
        return Ok(());
    }
    let show = |events: &[Event]| -> String {
        events.iter().map(|e| serde_json::to_string(e).expect("an event is an object") + "\n").collect()
    };
    Err(format!("told\n{}instead of\n{}", show(&kernel), show(&alone)))
}
