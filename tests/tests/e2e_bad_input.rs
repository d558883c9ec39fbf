//! What is wrong is told by its name, its place and its remedy, with an exit code, and leaves nothing behind.

use std::{
    ffi::OsStr,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ftp_helper::lab::{Host, Lab, LabOptions, OUTSIDE_INTERFACE, process::Process, require_root};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, program, traces, until},
    program::{Program, Said, said},
};

/// A port of the server that nobody negotiates.
const SERVICE: u16 = 40_404;

fn lab() -> Lab {
    Lab::new(&LabOptions::default()).unwrap()
}

/// `run` on the gateway behind what `before` puts in front of it, such as `setarch`.
fn run<S: AsRef<OsStr>>(lab: &Lab, before: &[S], config: &Path, more: &[&str]) -> Said {
    let mut command = match before.split_first() {
        Some((first, rest)) => {
            let mut command = lab.gateway().command(first);
            command.args(rest).arg(program().unwrap());
            command
        }
        None => lab.gateway().command(program().unwrap()),
    };
    command.arg("run").arg("-c").arg(config).args(more);
    said(command).unwrap()
}

const PLAIN: [&str; 0] = [];

/// Nothing was printed as data, and nothing is left on the gateway.
fn nothing_but_a_message(lab: &Lab, said: &Said, code: i32) {
    assert_eq!((said.code, said.out.as_str()), (code, ""), "{said:?}");
    assert_eq!(traces(lab.gateway()).unwrap(), [""; 0], "{said:?}");
}

/// A configuration that would do, with the path of its socket.
fn good(lab: &Lab) -> (PathBuf, PathBuf) {
    let (config, socket) = (lab.directory().join("good.toml"), lab.directory().join("good.sock"));
    std::fs::write(&config, Settings::guarded(lab, "drop").text(&socket)).unwrap();
    (config, socket)
}

#[test]
fn mistakes_in_the_configuration_are_told_with_their_place() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let file = lab.directory().join("bad.toml");
    let watch = "[watch]\ninterfaces = [\"wan0\"]\n";
    let guard = format!("{watch}[[guard]]\n");
    for (text, message) in [
        (format!("{watch}hok = 1\n"), ":3:1: watch.hok: unknown key; did you mean \"hook\"?"),
        ("[wach]\n".to_owned(), ":1:2: wach: unknown key; did you mean \"watch\"?"),
        ("[watch]\ninterfaces = \"wan0\"\n".to_owned(), ":2:14: watch.interfaces: is a text, not a list; "),
        (format!("{watch}control_ports = [\"21\"]\n"), ":3:18: watch.control_ports: is a text, not a number; "),
        (
            format!("{guard}networks = [\"192.0.2.300\"]\n"),
            ":4:13: guard.networks: \"192.0.2.300\" is not an address or a prefix; write an address or a prefix, such as ",
        ),
        (
            format!("{guard}networks = [\"192.0.2.1/24\"]\n"),
            ":4:13: guard.networks: \"192.0.2.1/24\" has bits set behind its prefix length; write \"192.0.2.0/24\" for the network",
        ),
        (
            format!("{guard}networks = [\"2001:db8::/129\"]\n"),
            ":4:13: guard.networks: \"2001:db8::/129\" is not an address or a prefix; ",
        ),
        (
            format!("{guard}networks = [\"192.0.2.1\"]\nports = \"50000-40000\"\n"),
            ":5:9: guard.ports: \"50000-40000\" is reversed; write the lower port first: \"40000-50000\"",
        ),
        (
            format!("{watch}[pinhole]\ntimeout = \"a while\"\n"),
            ":4:11: pinhole.timeout: \"a while\" is not a duration; write a duration from ",
        ),
        ("mode = \"drop\"\n[watch]\ninterfaces = [\"wan0\"]\n".to_owned(), "mode: "),
        ("mode = \"observe\n".to_owned(), ":1:16: "),
    ] {
        std::fs::write(&file, &text).unwrap();
        let told = run(&lab, &PLAIN, &file, &[]);
        nothing_but_a_message(&lab, &told, 2);
        assert!(told.err.starts_with(&format!("ftp-helper: {}:", file.display())), "{}", told.err);
        assert!(told.err.contains(message), "{text}\n{message}\n{}", told.err);
        assert!(told.err.lines().next().unwrap().contains("; "), "no remedy: {}", told.err);
        let mut check = Command::new(program().unwrap());
        check.arg("check").arg("-c").arg(&file);
        assert_eq!(said(check).unwrap(), told, "check and run say the same");
    }
    let missing = run(&lab, &PLAIN, Path::new("/nonexistent.toml"), &[]);
    nothing_but_a_message(&lab, &missing, 2);
    assert!(missing.err.contains("/nonexistent.toml: can't be read: No such file or directory"), "{}", missing.err);
    assert!(missing.err.contains("; name another file with -c FILE, or create it"), "{}", missing.err);
    std::fs::write(&file, b"mode = \"\xff\"\n").unwrap();
    let binary = run(&lab, &PLAIN, &file, &[]);
    nothing_but_a_message(&lab, &binary, 2);
    assert!(binary.err.contains(":1:9: is not UTF-8 text; save the file as UTF-8"), "{}", binary.err);

    // What only this host can tell.
    let (config, socket) = good(&lab);
    let text = std::fs::read_to_string(&config).unwrap();
    let group = text.replace("read_group = \"root\"", "read_group = \"no-such-group\"");
    std::fs::write(&file, group).unwrap();
    let group = run(&lab, &PLAIN, &file, &[]);
    nothing_but_a_message(&lab, &group, 2);
    assert!(
        group.err.contains("api.read_group: there is no group \"no-such-group\"; create it with `groupadd"),
        "{}",
        group.err
    );
    let at: SocketAddr = "127.0.0.1:9167".parse().unwrap();
    let taken = lab.gateway().run_in(|| TcpListener::bind(at)).unwrap().unwrap();
    std::fs::write(&file, format!("{text}metrics = \"{at}\"\n")).unwrap();
    let metrics = run(&lab, &PLAIN, &file, &[]);
    nothing_but_a_message(&lab, &metrics, 1);
    assert!(
        metrics.err.contains(&format!("api.metrics: can't listen on {at}: Address already in use")),
        "{}",
        metrics.err
    );
    assert!(metrics.err.contains("; choose another address") && !socket.exists(), "{}", metrics.err);
    drop(taken);
    std::fs::write(&socket, "somebody's").unwrap();
    let in_the_way = run(&lab, &PLAIN, &config, &[]);
    nothing_but_a_message(&lab, &in_the_way, 1);
    let message = format!("control socket {}: a file that is no socket is in the way; remove it", socket.display());
    assert!(in_the_way.err.contains(&message), "{}", in_the_way.err);
    assert_eq!(std::fs::read(&socket).unwrap(), b"somebody's");
}

fn ip(on: &Host, lines: &[&str]) {
    for line in lines {
        let mut ip = on.command("ip");
        ip.args(line.split(' '));
        let done = Process::spawn(ip).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "ip {line}: {}", done.output);
    }
}

#[test]
fn an_interface_is_picked_up_when_it_appears() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let service = SocketAddr::new(lab.server().v4().into(), SERVICE);
    let _listener = lab.server().run_in(|| TcpListener::bind(service)).unwrap().unwrap();
    let reaches = || {
        let connect = || TcpStream::connect_timeout(&service, Duration::from_millis(500)).is_ok();
        lab.client().run_in(connect).unwrap()
    };
    for attach in ["tcx", "clsact"] {
        let settings = Settings { interfaces: "[\"wan0\", \"later*\"]".to_owned(), ..Settings::guarded(&lab, "drop") };
        // `Gateway::start` waits for what is missing; here it is to be missing.
        let (config, socket) = (lab.directory().join("later.toml"), lab.directory().join("later.sock"));
        std::fs::write(&config, settings.text(&socket)).unwrap();
        let mut command = lab.gateway().command(program().unwrap());
        command.args(["run", "--attach", attach, "-c"]).arg(&config);
        let mut daemon = Process::spawn(command).unwrap();
        let status = || ftp_helper::api::client::Client::connect(&socket).and_then(|mut c| c.status());
        let attached = |names: &[&str], waiting: &[&str]| {
            let what = format!("attached to {names:?}, waiting for {waiting:?}");
            until(&what, || {
                let status = status().ok()?;
                let now: Vec<&str> = status.interfaces.iter().map(|i| i.name.as_str()).collect();
                (now == names && status.waiting_for == waiting).then_some(())
            })
            .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon_says(&daemon)));
        };
        attached(&["wan0"], &["later*"]);
        assert!(
            daemon_says(&daemon).contains("watch.interfaces: no interface later* yet; it is picked up when it appears")
        );
        for _ in 0..2 {
            let peer = lab.client().namespace_name();
            ip(
                lab.gateway(),
                &[
                    &format!("link add later0 type veth peer name eth1 netns {peer}"),
                    "link set later0 up",
                    "addr add 198.51.100.1/30 dev later0",
                ],
            );
            ip(
                lab.client(),
                &[
                    "link set eth1 up",
                    "addr add 198.51.100.2/30 dev eth1",
                    &format!("route add {}/32 via 198.51.100.1 dev eth1", lab.server().v4()),
                ],
            );
            ip(lab.server(), &[&format!("route add 198.51.100.0/30 via {}", lab.gateway_inside().0)]);
            attached(&["wan0", "later0"], &[]);
            assert!(!reaches(), "{attach}: through later0");
            ip(lab.gateway(), &["link del later0"]);
            ip(lab.server(), &[&format!("route del 198.51.100.0/30 via {}", lab.gateway_inside().0)]);
            attached(&["wan0"], &["later*"]);
            assert!(!reaches(), "{attach}: through wan0");
        }
        daemon.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(until("its end", || daemon.ended().unwrap()).unwrap().success(), "{}", daemon_says(&daemon));
        assert_eq!(traces(lab.gateway()).unwrap(), [""; 0]);
        assert!(reaches());
    }
}

fn daemon_says(daemon: &Process) -> String {
    daemon.output().unwrap()
}

#[test]
fn a_second_instance_is_refused_and_harms_nobody() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let service = SocketAddr::new(lab.server().v4().into(), SERVICE);
    let _listener = lab.server().run_in(|| TcpListener::bind(service)).unwrap().unwrap();
    for attach in ["tcx", "clsact"] {
        let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &["--attach", attach]).unwrap();
        let before = (traces(lab.gateway()).unwrap(), gateway.status().unwrap().interfaces);
        assert!(!before.0.is_empty());
        // The same socket, and so the same instance.
        let same = run(&lab, &PLAIN, gateway.config(), &[]);
        assert_eq!((same.code, same.out.as_str()), (1, ""));
        let message = format!(
            "control socket {}: another ftp-helper is running; stop it, or set another [api] socket",
            gateway.socket().display()
        );
        assert!(same.err.contains(&message), "{}", same.err);
        // Another instance for the same interface, beside one that it would get.
        let (config, socket) = (lab.directory().join("second.toml"), lab.directory().join("second.sock"));
        let interfaces = "[\"lan0\", \"wan0\"]".to_owned();
        let second = Settings { interfaces, ..Settings::guarded(&lab, "drop") };
        std::fs::write(&config, second.text(&socket)).unwrap();
        for second_attach in ["tcx", "clsact"] {
            let other = run(&lab, &PLAIN, &config, &["--attach", second_attach]);
            assert_eq!((other.code, other.out.as_str()), (1, ""));
            let message = format!(
                "another ftp-helper is attached to {OUTSIDE_INTERFACE}: stop it first, or leave {OUTSIDE_INTERFACE} out of watch.interfaces"
            );
            assert!(other.err.contains(&message), "{}", other.err);
            assert!(!socket.exists());
            assert_eq!(
                (traces(lab.gateway()).unwrap(), gateway.status().unwrap().interfaces),
                before,
                "{second_attach} beside {attach}"
            );
        }
        let connect = || TcpStream::connect_timeout(&service, Duration::from_millis(500)).is_ok();
        assert!(!lab.client().run_in(connect).unwrap());
        assert!(gateway.stop().unwrap().success());
        assert_eq!(traces(lab.gateway()).unwrap(), [""; 0]);
    }
}

#[test]
fn without_rights_it_says_which_are_missing() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let (config, socket) = good(&lab);
    let all = ["bpf", "net_admin", "perfmon", "net_raw"];
    let with = |held: &[&str]| {
        let set: String = held.iter().map(|c| format!(",+{c}")).collect();
        vec!["setpriv".to_owned(), format!("--bounding-set=-all{set}")]
    };
    for missing in 0..=all.len() {
        let held: Vec<&str> = all.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, c)| *c).collect();
        if missing == all.len() {
            continue;
        }
        let told = run(&lab, &with(&held), &config, &[]);
        nothing_but_a_message(&lab, &told, 5);
        let name = format!("CAP_{}", all[missing].to_uppercase());
        let message = format!(
            "ftp-helper: no permission for BPF programs on interfaces, for want of {name}: run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_NET_RAW\n"
        );
        assert_eq!(told.err, message);
        assert!(!socket.exists());
    }
    // An unprivileged user lacks them all, wherever his files are.
    let copy = lab.directory().join("ftp-helper");
    std::fs::copy(program().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = lab.gateway().command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg("run").arg("-c").arg(&config);
    let told = said(command).unwrap();
    nothing_but_a_message(&lab, &told, 5);
    assert!(
        told.err.contains("for want of CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_NET_RAW: run as root"),
        "{}",
        told.err
    );
    // A file that he may not read is not one that is wrong.
    std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for verb in ["run", "check"] {
        let mut command = lab.gateway().command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg(verb).arg("-c").arg(&config);
        let told = said(command).unwrap();
        nothing_but_a_message(&lab, &told, 5);
        assert!(told.err.contains(&format!("{}: can't be read: Permission denied", config.display())), "{}", told.err);
    }
    // Those four, and no others, are enough.
    let mut command = lab.gateway().command("setpriv");
    command.arg(&with(&all)[1]).arg(program().unwrap()).arg("run").arg("-c").arg(&config);
    let mut daemon = Process::spawn(command).unwrap();
    let status = || ftp_helper::api::client::Client::connect(&socket).and_then(|mut c| c.status());
    until("it is attached", || status().is_ok_and(|s| !s.interfaces.is_empty()).then_some(()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon_says(&daemon)));
    daemon.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(until("its end", || daemon.ended().unwrap()).unwrap().success(), "{}", daemon_says(&daemon));
    assert_eq!(traces(lab.gateway()).unwrap(), [""; 0]);
}

#[test]
fn a_kernel_that_does_not_do_is_named() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let (config, socket) = good(&lab);
    let old = run(&lab, &["setarch", "--uname-2.6"], &config, &[]);
    nothing_but_a_message(&lab, &old, 1);
    assert!(old.err.starts_with("ftp-helper: Linux 2.6."), "{}", old.err);
    assert!(
        old.err.contains(" is too old: ftp-helper needs 6.1 or later (Debian 12 has 6.1); boot a newer kernel"),
        "{}",
        old.err
    );
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let blind = run(&lab, &["unshare", "--mount", "sh", "-c", hide, "sh"], &config, &[]);
    nothing_but_a_message(&lab, &blind, 1);
    let message = "the kernel has no type information at /sys/kernel/btf/vmlinux: it was built without CONFIG_DEBUG_INFO_BTF, or /sys is not mounted; ";
    assert!(blind.err.contains(message), "{}", blind.err);
    assert!(!socket.exists());
}

#[test]
fn captures_that_can_not_be_read_are_named_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let header = |link: u8| [&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0][..], &[0; 8], &[0, 0, 4, 0, link, 0, 0, 0]].concat();
    let packet = |claimed: u32, bytes: usize| {
        [&[0; 8][..], &claimed.to_le_bytes(), &claimed.to_le_bytes(), &vec![0x45; bytes]].concat()
    };
    // A section header block of pcapng: 28 bytes, whole or not.
    let section =
        [&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..], &[0xff; 8], &[28, 0, 0, 0]]
            .concat();
    for (name, bytes, message) in [
        ("empty", vec![], "byte 0: neither a pcap nor a pcapng file: it is empty"),
        ("foreign", b"#!/bin/sh\necho this is no capture\n".to_vec(), "byte 0: neither a pcap nor a pcapng file\n"),
        (
            "gzip",
            vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
            "byte 0: neither a pcap nor a pcapng file: it is compressed; unpack it with gunzip",
        ),
        ("half-a-header", header(101)[..20].to_vec(), "truncated: it ends within "),
        (
            "half-a-packet",
            [header(101), packet(100, 60)].concat(),
            "truncated: it ends within packet 1 that begins at byte 24; copy the file again, or end the capture before you copy it",
        ),
        ("half-a-section", section[..20].to_vec(), "truncated: it ends within "),
        (
            "wireless",
            [header(105), packet(60, 60)].concat(),
            "packet 1 at byte 24: link type 105 is not supported; supported are Ethernet (1), raw IP (101, 228, 229) and Linux cooked (113, 276)",
        ),
        (
            "damaged",
            [&section[..], &[6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]].concat(),
            "damaged at byte 28 (behind packet 0): ",
        ),
    ] {
        let file = directory.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let told = replay(&file);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{name}: {told:?}");
        assert!(told.err.starts_with(&format!("ftp-helper: {}: {message}", file.display())), "{name}: {}", told.err);
    }
    for (file, message) in [
        (directory.path().join("missing"), "can't be opened: No such file or directory"),
        (directory.path().to_owned(), "can't be read at byte 0: Is a directory"),
    ] {
        let told = replay(&file);
        assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
        assert!(told.err.starts_with(&format!("ftp-helper: {}: {message}", file.display())), "{}", told.err);
    }
    let names = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 8, "replay writes no file");
}

fn replay(file: &Path) -> Said {
    let mut replay = Command::new(program().unwrap());
    replay.arg("replay").arg(file);
    said(replay).unwrap()
}

#[test]
fn a_ruleset_that_nft_refuses_leaves_no_lab() {
    if !require_root() {
        return;
    }
    let file = tempfile::Builder::new().suffix(".nft").tempfile().unwrap();
    std::fs::write(file.path(), "table inet filter {\n chain forward { type filtre hook forward priority 0; }\n}\n")
        .unwrap();
    let mut lab = Command::new(program().unwrap());
    lab.args(["lab", "run", "--gateway-ruleset"]).arg(file.path());
    lab.args(["--servers", "bundled", "--clients", "curl"]);
    let lab = Program::start(lab).unwrap();
    // A lab's name bears the number of its process, and that is in the names of its namespaces.
    let its = format!("fh-r{}x", lab.id());
    let told = lab.finish().unwrap();
    assert_eq!(told.code, 1, "{told:?}");
    let place = format!("{}:2:", file.path().display());
    assert!(told.err.contains(&place) && told.err.contains("filtre"), "{}", told.err);
    let left: Vec<_> = namespaces().into_iter().filter(|n| n.starts_with(&its)).collect();
    assert_eq!(left, [""; 0]);
}

fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries.filter_map(|n| n.ok()?.file_name().into_string().ok()).collect()
}
