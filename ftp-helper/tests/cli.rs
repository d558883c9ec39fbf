//! The program as users and scripts meet it: what it prints where, and its exit codes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn ftp_helper() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftp-helper"));
    command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn run(args: &[&str]) -> Said {
    let Output { status, stdout, stderr } = ftp_helper().args(args).output().unwrap();
    Said {
        code: status.code().expect("ended by a signal"),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

fn file(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A pcap file with one announcement that is opened and one that is refused.
fn capture() -> Vec<u8> {
    let (client, server) = ([192, 0, 2, 10], [198, 51, 100, 5]);
    let mut next = [1000_u32, 2000];
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0];
    let mut send = |side: usize, syn: bool, ack: bool, text: &str| {
        let ((from, from_port), (to, to_port)) =
            if side == 0 { ((client, 40000), (server, 21)) } else { ((server, 21), (client, 40000)) };
        let mut tcp = etherparse::PacketBuilder::ipv4(from, to, 64).tcp(from_port, to_port, next[side], 65535);
        if syn {
            tcp = tcp.syn();
        }
        if ack {
            tcp = tcp.ack(next[1 - side]);
        }
        let mut packet = Vec::new();
        tcp.write(&mut packet, text.as_bytes()).unwrap();
        next[side] += u32::try_from(text.len()).unwrap() + u32::from(syn);
        let length = u32::try_from(packet.len()).unwrap();
        for word in [1_700_000_000, 0, length, length] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend(packet);
    };
    send(0, true, false, "");
    send(1, true, true, "");
    send(0, false, true, "");
    for (side, text) in [
        (1, "220 here\r\n"),
        (0, "USER me\r\n"),
        (1, "331 password?\r\n"),
        (0, "PASS secret\r\n"),
        (1, "230 in\r\n"),
        (0, "PORT 203,0,113,77,0,25\r\n"),
        (1, "500 no\r\n"),
        (0, "PASV\r\n"),
        (1, "227 Entering Passive Mode (198,51,100,5,195,149).\r\n"),
    ] {
        send(side, false, true, text);
    }
    file
}

#[test]
fn help_and_version_are_data() {
    for args in [&["--help"][..], &["help", "replay"], &["observe", "--help"]] {
        let said = run(args);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{args:?}");
        assert!(said.out.contains("Usage: ftp-helper"), "{}", said.out);
    }
    assert!(run(&["--version"]).out.starts_with("ftp-helper "));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let commands = [
        "run",
        "check",
        "status",
        "sessions",
        "pinholes",
        "connections",
        "observe",
        "why",
        "reload",
        "bugreport",
        "replay",
        "lab",
        "ftpd",
    ];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(&["completions", shell]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{shell}");
        assert!(commands.iter().all(|c| said.out.contains(c)), "{shell}: {}", said.out);
    }
    let said = run(&["man"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.contains(".TH ftp-helper 1"), "{}", said.out);
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let said = run(&["man", "--into", pages.to_str().unwrap()]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""));
    for command in commands {
        assert!(pages.join(format!("ftp-helper-{command}.1")).is_file(), "{command}");
    }
    for (page, about) in [("ftp-helper.toml.5", "on_daemon_loss"), ("ftp-helper-events.7", "session_start")] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains("\n.SH NAME\n") && text.contains(about), "{page}: {text}");
    }
    let in_the_way = file(dir.path(), "a-file", "");
    let said = run(&["man", "--into", in_the_way.to_str().unwrap()]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("can't write the manual pages into"), "{}", said.err);
}

#[test]
fn wrong_arguments_are_usage() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["status", "--socket", "/x", "-c", "/y"],
        &["observe", "--reason", "because"],
        &["observe", "--event", "party"],
        &["observe", "--client", "300.1.1.1"],
        &["observe", "--not", "denied"],
        &["observe", "--since", "yesterday"],
        &["observe", "--color", "sometimes"],
        &["pinholes", "add", "192.0.2.1", "192.0.2.2:50000"],
        &["pinholes", "add", "192.0.2.1", "192.0.2.2", "--reason", "x"],
        &["pinholes", "add", "192.0.2.1", "192.0.2.2:50000", "--reason", "two\nlines"],
        &["pinholes", "add", "192.0.2.1", "192.0.2.2:50000", "--reason", "x", "--for", "1500ms"],
        &["pinholes", "del", "192.0.2.1", "--reason", "x"],
        &["pinholes", "flush"],
        &["sessions", "kill", "a1"],
        &["sessions", "show", "xyz"],
        &["replay"],
        &["status", "-o", "xml"],
    ] {
        let said = run(args);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}: {}", said.err);
        assert!(!said.err.is_empty());
    }
}

#[test]
fn check() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.toml", "[watch]\ninterfaces = [\"lo\", \"nosuch7\"]\n");
    let said = run(&["check", "-c", good.to_str().unwrap()]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.contains("is valid."), "{}", said.out);
    assert!(said.out.contains("no interface \"nosuch7\" here now"), "{}", said.out);
    assert!(!said.out.contains("no interface \"lo\""), "{}", said.out);
    let said = run(&["check", "-o", "json", "-c", good.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["interfaces"][0], "lo");
    let value = |key: &str| json["values"].as_array().unwrap().iter().find(|v| v["key"] == key).unwrap().clone();
    assert_eq!(
        value("watch.interfaces"),
        serde_json::json!({ "key": "watch.interfaces", "value": ["lo", "nosuch7"], "line": 2 })
    );
    assert_eq!(value("mode"), serde_json::json!({ "key": "mode", "value": "observe" }));
    let said = run(&["check", "-c", good.to_str().unwrap()]);
    let line = |key: &str| said.out.lines().find(|l| l.starts_with(&format!("{key} "))).unwrap().to_owned();
    let interfaces = line("watch.interfaces");
    assert!(interfaces.contains("[\"lo\",\"nosuch7\"]  "), "{}", said.out);
    assert!(interfaces.ends_with(&format!("  {}:2", good.display())), "{}", said.out);
    assert!(line("mode").contains("\"observe\" ") && line("mode").ends_with("  default"), "{}", said.out);

    let said = run(&["check", "--schema"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(schema["title"], "ftp-helper.toml");

    let bad = file(dir.path(), "bad.toml", "mode = \"block\"\n[watch]\ninterfaces = [\"lo\"]\nhok = 1\n");
    let said = run(&["check", "-c", bad.to_str().unwrap()]);
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    let path = bad.display();
    let places = [
        format!("ftp-helper: {path}:1:8: mode: \"block\" is not known; write \"observe\", \"drop\" or \"mark\""),
        format!("{path}:4:1: watch.hok: unknown key; did you mean \"hook\"?"),
    ];
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines[0], places[0]);
    let tells = |l: &&&str| l.trim_start_matches("ftp-helper: ").starts_with(&format!("{path}:"));
    assert_eq!(lines.iter().filter(tells).count(), 2, "{}", said.err);
    let second = lines.iter().position(|l| *l == places[1]).unwrap_or_else(|| panic!("{}", said.err));
    // Each is marked in its line, without colours where nobody sees them.
    for (part, source) in [(&lines[..second], "mode = \"block\""), (&lines[second..], "hok = 1")] {
        assert!(part.iter().any(|l| l.trim_end().ends_with(&format!("│ {source}"))), "{}", said.err);
        assert!(part.iter().any(|l| l.trim_start().starts_with("help: ")), "{}", said.err);
    }
    assert!(!said.err.contains('\u{1b}'), "{}", said.err);
    let said = run(&["run", "-c", bad.to_str().unwrap()]);
    assert_eq!(said.code, 2, "{}", said.err);
    let said = run(&["check", "-c", "/nonexistent.toml"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("/nonexistent.toml: can't be read"), "{}", said.err);
}

#[test]
fn nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let config = file(
        dir.path(),
        "c.toml",
        format!("[watch]\ninterfaces = [\"lo\"]\n[api]\nsocket = \"{}\"\n", socket.display()),
    );
    for command in ["status", "sessions", "pinholes", "connections", "observe", "reload"] {
        for args in [[command, "--socket", socket.to_str().unwrap()], [command, "-c", config.to_str().unwrap()]] {
            let said = run(&args);
            assert_eq!((said.code, said.out.as_str()), (3, ""), "{args:?}");
            assert!(said.err.contains(&format!("no daemon answers at {}", socket.display())), "{}", said.err);
        }
    }
}

#[test]
fn a_report_without_a_daemon_says_what_is_missing_and_hides_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let text = format!(
        "mode = \"observe\"\n# password = \"sesame\"\n[watch]\ninterfaces = [\"lo\"]\n[[guard]]\n\
         networks = [\"192.0.2.10\", \"2001:db8::/32\"]\n[api]\nsocket = \"{}\"\n",
        socket.display()
    );
    let config = file(dir.path(), "c.toml", text);
    let report = dir.path().join("report.tar.gz");
    let (report, config) = (report.to_str().unwrap(), config.to_str().unwrap());
    let said = run(&["bugreport", "-c", config, "--into", report]);
    assert_eq!((said.code, said.out.trim_end()), (0, report), "{}", said.err);
    assert!(said.err.contains("not in the report: status, sessions, "), "{}", said.err);
    assert_eq!(fs::metadata(report).unwrap().mode() & 0o7777, 0o600);
    let unpack = |file: &str| {
        let mut text = String::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(file).unwrap()));
        for entry in archive.entries().unwrap() {
            entry.unwrap().read_to_string(&mut text).unwrap();
        }
        text
    };
    let hidden = unpack(report);
    assert!(hidden.contains("interfaces = [\"lo\"]") && hidden.contains("Missing:"), "{hidden}");
    for secret in ["192.0.2.10", "2001:db8::", "sesame"] {
        assert!(!hidden.contains(secret), "{secret} in {hidden}");
    }
    // Not over what is there.
    let said = run(&["bugreport", "-c", config, "--into", report]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("is there already"), "{}", said.err);
    let open = dir.path().join("open.tar.gz");
    let said = run(&["bugreport", "-c", config, "--into", open.to_str().unwrap(), "--with-addresses", "-o", "json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let open = unpack(open.to_str().unwrap());
    assert!(open.contains("192.0.2.10") && open.contains("2001:db8::/32") && !open.contains("sesame"), "{open}");
    let said = run(&["bugreport", "-c", config, "--into", "/nonexistent/report.tar.gz"]);
    assert_eq!((said.code, said.err.contains("can't write /nonexistent/report.tar.gz")), (1, true), "{}", said.err);
}

/// A daemon that answers one request with these lines.
fn answer(dir: &Path, lines: &'static str) -> (PathBuf, std::thread::JoinHandle<String>) {
    let socket = dir.join("s.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
        stream.write_all(lines.as_bytes()).unwrap();
        request
    });
    (socket, thread)
}

#[test]
fn refusals_of_the_daemon() {
    for (lines, code, part) in [
        (
            "{\"v\":1,\"response\":\"error\",\"data\":{\"kind\":\"no_permission\",\"message\":\"not you\"}}\n",
            5,
            "not you",
        ),
        (
            "{\"v\":1,\"response\":\"error\",\"data\":{\"kind\":\"failed\",\"message\":\"f:1:1: bad\"}}\n",
            1,
            "f:1:1: bad",
        ),
        ("hello\n", 1, "does not answer like ftp-helper"),
        ("", 3, "has gone away"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (socket, thread) = answer(dir.path(), lines);
        let said = run(&["reload", "--socket", socket.to_str().unwrap()]);
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{}", said.err);
        assert!(said.err.contains(part), "{}", said.err);
        assert_eq!(thread.join().unwrap(), "{\"v\":1,\"request\":\"reload\"}\n");
    }
}

#[test]
fn rows_in_every_format() {
    const ROW: &str = "{\"v\":1,\"response\":\"pinhole\",\"data\":{\"session\":\"00000000000000a1\",\"client\":\"192.0.2.10:40000\",\"server\":\"198.51.100.5:21\",\"mode\":\"pasv\",\"initiator\":\"192.0.2.10\",\"responder\":\"198.51.100.5\",\"port\":50069,\"state\":\"confirmed\",\"expires_in_ms\":9000}}\n{\"v\":1,\"response\":\"end\"}\n";
    let print = |format: &str| {
        let dir = tempfile::tempdir().unwrap();
        let (socket, thread) = answer(dir.path(), ROW);
        let said = run(&["pinholes", "-o", format, "--socket", socket.to_str().unwrap()]);
        thread.join().unwrap();
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        said.out
    };
    let table = print("table");
    let lines: Vec<Vec<_>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["SESSION", "CLIENT", "SERVER", "MODE", "INITIATOR", "RESPONDER", "PORT", "STATE", "EXPIRES"]);
    assert_eq!(
        lines[1],
        [
            "00000000000000a1",
            "192.0.2.10:40000",
            "198.51.100.5:21",
            "pasv",
            "192.0.2.10",
            "198.51.100.5",
            "50069",
            "confirmed",
            "9s"
        ]
    );
    assert!(table.lines().all(|l| l == l.trim_end()), "{table:?}");
    let json: serde_json::Value = serde_json::from_str(&print("json")).unwrap();
    assert_eq!(json[0]["port"], 50069);
    let jsonl = print("jsonl");
    assert_eq!(jsonl.lines().count(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&jsonl).unwrap()["mode"], "pasv");
}

#[test]
fn replay() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.pcap", capture());
    let said = run(&["replay", good.to_str().unwrap(), "-o", "jsonl"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let events: Vec<serde_json::Value> = said.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["session_start", "refused", "opened"]);
    assert_eq!(events[1]["reason"], "third_host");
    assert_eq!((events[2]["mode"].as_str(), events[2]["port"].as_u64()), (Some("pasv"), Some(50069)));
    assert!(said.err.contains("12 packets, 1 control connections, 1 pinholes opened"), "{}", said.err);
    let said = run(&["replay", good.to_str().unwrap()]);
    assert!(
        said.out.contains(" opened        0000000000000001 192.0.2.10:40000 -> 198.51.100.5:21             pasv "),
        "{}",
        said.out
    );

    let config = file(
        dir.path(),
        "c.toml",
        "[watch]\ninterfaces = [\"x\"]\n[[server]]\naddress = [\"198.51.100.5\"]\npassive_ports = \"1024-2000\"\n",
    );
    let said = run(&["replay", good.to_str().unwrap(), "-c", config.to_str().unwrap(), "-o", "json"]);
    assert!(said.out.contains("\"reason\":\"outside_range\""), "{}", said.out);

    let cut = file(dir.path(), "cut.pcap", &capture()[..300]);
    let said = run(&["replay", cut.to_str().unwrap()]);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("session_start"), "what came before is told: {}", said.out);
    assert!(said.err.contains("cut.pcap: truncated: it ends within packet"), "{}", said.err);
    let said = run(&["replay", config.to_str().unwrap()]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("neither a pcap nor a pcapng file"), "{}", said.err);
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.pcap", capture());
    // Nobody reads, from the beginning.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = ftp_helper().args(["replay", good.to_str().unwrap(), "-o", "jsonl"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn the_log_level_and_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.toml", "[watch]\ninterfaces = [\"lo\"]\n");
    let said = |setup: fn(&mut Command)| {
        let mut command = ftp_helper();
        command.args(["check", "-c", good.to_str().unwrap()]);
        setup(&mut command);
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let wrong = said(|c| {
        c.env("RUST_LOG", "ftp_helper=loud");
    });
    assert!(wrong.contains("WARN") && wrong.contains("RUST_LOG=ftp_helper=loud"), "{wrong}");
    // A JOURNAL_STREAM of another file is not ours.
    let other = said(|c| {
        c.env("RUST_LOG", "ftp_helper=loud").env("JOURNAL_STREAM", "1:2");
    });
    assert!(!other.starts_with('<'), "{other}");
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let metadata = log.metadata().unwrap();
    let mut command = ftp_helper();
    command.args(["check", "-c", good.to_str().unwrap()]).stdout(Stdio::null()).stderr(log);
    command.env("RUST_LOG", "ftp_helper=loud").env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    assert!(command.status().unwrap().success());
    let journal = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(journal.starts_with("<4>") && journal.contains("RUST_LOG=ftp_helper=loud"), "{journal}");
}

#[test]
fn the_log_of_the_daemon_as_json() {
    let dir = tempfile::tempdir().unwrap();
    // Not readable as a configuration: it ends before anything needs root.
    let bad = file(dir.path(), "bad.toml", "mode = \"block\"\n");
    let said = |journal: bool, format: &str| {
        let path = dir.path().join("log");
        let log = fs::File::create(&path).unwrap();
        let metadata = log.metadata().unwrap();
        let mut command = ftp_helper();
        command.args(["run", "--log-format", format, "-c", bad.to_str().unwrap()]).stderr(log);
        if journal {
            command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
        }
        assert_eq!(command.env("RUST_LOG", "ftp_helper=loud").status().unwrap().code(), Some(2));
        fs::read_to_string(path).unwrap()
    };
    for (journal, before) in [(false, ["", ""]), (true, ["<4>", "<3>"])] {
        let text = said(journal, "json");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .zip(before)
            .map(|(l, b)| serde_json::from_str(l.strip_prefix(b).unwrap()).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect();
        assert_eq!((lines.len(), text.lines().count()), (2, 2), "{text}");
        assert_eq!((&lines[0]["level"], &lines[1]["level"]), (&"WARN".into(), &"ERROR".into()));
        assert!(lines[0]["message"].as_str().unwrap().contains("RUST_LOG=ftp_helper=loud"), "{text}");
        let message = lines[1]["message"].as_str().unwrap();
        assert!(message.contains("bad.toml:1:8: mode") && !message.contains('│'), "{text}");
        assert_eq!(lines.iter().all(|l| l["timestamp"].is_string()), !journal, "{text}");
    }
    let text = said(false, "text");
    assert!(text.lines().last().is_some_and(|l| !l.starts_with('{')), "{text}");
    assert!(text.contains("ftp-helper: ") && text.contains("WARN"), "{text}");
}
