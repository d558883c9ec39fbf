//! Mode `mark`: the ruleset stays in charge. With the rules removed that `doctor` names and those loaded that `integrate`
//! prints, transfers pass in every mode and a scan finds nothing, on each of the rulesets that `doctor` is shown on.

use std::net::{SocketAddr, TcpListener};

use ftp_helper::{
    api::Status,
    event::Kind,
    lab::{
        self,
        clients::{Family, Mode},
        dialogue::Dialogue,
        servers::{DIRECTORY, DOWNLOAD},
    },
};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    connect::connect,
    firewall::{BY_HAND, DEBIAN, Firewalld, Ground, WITH_HELPER, of},
    gateway::{Gateway, PATIENCE, counter, within},
    spinner::{self, Spinner},
};

const ALL: [(Mode, Family); 6] = [
    (Mode::Pasv, Family::V4),
    (Mode::Epsv, Family::V4),
    (Mode::Epsv, Family::V6),
    (Mode::Port, Family::V4),
    (Mode::Eprt, Family::V4),
    (Mode::Eprt, Family::V6),
];

/// That the kernel side has left the decision to the ruleset.
fn left_to_the_ruleset(status: &Status) {
    assert_eq!((status.mode.as_str(), counter(status, "syn_denied")), ("mark", 0));
    assert!(counter(status, "syn_would_deny") > 1000, "the scans came without the mark");
    assert!(counter(status, "syn_passed") >= 9, "the transfers came with it");
}

/// The findings before, then `integrate`, then that it holds, and that nothing is printed twice.
fn integrated(ground: &Ground, with: &str, environment: &[(&str, String)], more: impl FnOnce()) -> String {
    let config = ground.file(&ground.settings("mark", ""));
    let (code, findings) = ground.doctor(&config);
    assert_eq!(code, 4, "{findings:#?}");
    assert!(!of(&findings, "mark_unread").is_empty(), "no rule looks at the mark: {findings:#?}");
    let script = ground.integrate(with, &config, environment);
    more();
    left_to_the_ruleset(&ground.holds_in("mark", "", &ALL));
    let again = ground.integrate(with, &config, environment);
    assert!(again.contains("# Nothing has to be added.") && again.contains("# Nothing has to be removed."), "{again}");
    script
}

#[test]
fn debians_default_ruleset() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(DEBIAN);
    let script = integrated(&ground, "nft", &[], || ());
    // It accepts whatever no rule drops: so one has to.
    assert!(script.contains("chain ftp_helper_forward { type filter hook forward priority filter - 5;"), "{script}");
    assert!(script.contains("meta mark & 0x0f000000 != 0x0f000000 counter drop"), "{script}");
}

#[test]
fn a_ruleset_by_hand_with_policy_drop() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(BY_HAND);
    let rule = ["add", "rule", "inet", "filter", "from_outside", "tcp", "dport", "{ 21, 8443 }", "accept"];
    let script = integrated(&ground, "nft", &[], || ground.gateway("nft", &rule));
    let accept = "insert rule inet filter forward iifname \"wan0\" meta mark & 0x0f000000 == 0x0f000000 counter accept";
    assert!(script.contains(accept) && !script.contains("ftp_helper_forward"), "{script}");
    assert!(script.contains("nft delete rule inet filter from_outside handle "), "{script}");
    // With the rule gone that accepts by the mark, it is missed.
    ground.nft(&BY_HAND.replace(", 40000-60000", ""));
    let (code, findings) = ground.doctor(&ground.file(&ground.settings("mark", "")));
    let (dropped, unread) = (of(&findings, "pinhole_dropped"), of(&findings, "mark_unread"));
    assert!(code == 4 && !dropped.is_empty() && unread[0]["where"] == "hook forward", "{findings:#?}");
}

#[test]
fn a_ruleset_with_the_kernels_helper() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.nft(WITH_HELPER);
    let script = integrated(&ground, "nft", &[], || ());
    assert!(script.contains("nft delete rule inet filter prerouting handle "), "{script}");
}

#[test]
fn a_ruleset_of_iptables() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(false);
    ground.iptables();
    let script = integrated(&ground, "nft", &[], || ());
    for program in ["iptables", "ip6tables"] {
        let accept = format!("{program} -t filter -I FORWARD -i wan0 -m mark --mark 0x0f000000/0x0f000000 -j ACCEPT");
        assert_eq!(script.matches(&accept).count(), 1, "{script}");
    }
}

/// firewalld knows no rule by mark: it is told to accept, and a table before it decides.
#[test]
fn firewalld() {
    if !lab::require_root() {
        return;
    }
    let ground = Ground::new(true);
    let daemon = Firewalld::start(&ground.lab);
    daemon.serve_widely();
    let script = integrated(&ground, "firewalld", &Firewalld::environment(&daemon.directory), || ());
    assert!(script.contains("ftp_helper_input") && script.contains("--add-rich-rule="), "{script}");
    // It does not touch what is not its own.
    daemon.tell(&["--reload"]);
    let (_, findings) = ground.doctor(&ground.file(&ground.settings("mark", "")));
    assert!(of(&findings, "wide_range").is_empty(), "{findings:#?}");
}

/// The daemon alone reads: SYNs come before their pinholes, are kept, and go on with the mark. One that no pinhole opens
/// for goes on without, and the ruleset decides.
#[test]
fn a_syn_that_comes_too_early_is_sent_on_with_the_mark_and_one_in_vain_without() {
    if !lab::require_root() {
        return;
    }
    const SERVICE: u16 = 8443;
    let ground = Ground::new(false);
    ground.nft(&BY_HAND.replace(", 40000-60000", ""));
    let settings = ground.settings("mark", "");
    ground.integrate("nft", &ground.file(&settings), &[]);
    let mut gateway = Gateway::start(&ground.lab, &settings, &["--no-fast-path"]).unwrap();
    let (client, server) = (ground.lab.client(), ground.server.host());
    let to = SocketAddr::new(server.v4().into(), ground.server.port());
    let (path, size) = (format!("{DIRECTORY}/{DOWNLOAD}"), 100_000);
    let fetch = || -> anyhow::Result<()> {
        let mut spinner = Spinner::connect(to, true)?;
        spinner.login(&ground.server.login().user, &ground.server.login().password)?;
        for i in 0..20 {
            let mode = if i % 2 == 0 { spinner::Mode::Pasv } else { spinner::Mode::Epsv };
            spinner.fetch(mode, &path, size)?;
        }
        Ok(())
    };
    client.run_in(fetch).unwrap().unwrap();
    let status = gateway.status().unwrap();
    let parked = counter(&status, "syn_parked");
    assert!(parked > 0, "none came too early: {:?}", status.counters);
    assert_eq!(counter(&status, "syn_unparked"), parked, "{:?}", status.counters);

    // Another service of the same host, which the ruleset accepts, in the range of the guard: the session's hosts are
    // looked at closely, since their session is blind.
    let listen = || TcpListener::bind((server.v4(), SERVICE)).unwrap();
    let _listener = server.run_in(listen).unwrap();
    let service = SocketAddr::new(server.v4().into(), SERVICE);
    let in_vain = || {
        let mut dialogue = Dialogue::open(client, to, PATIENCE)?;
        dialogue.login(ground.server.login())?;
        let before = gateway.status()?;
        dialogue.pasv()?;
        connect(client, client.v4().into(), service, PATIENCE)?;
        let after = gateway.status()?;
        // Of the kernel's records the daemon may have read the announcement first: then nobody kept it.
        Ok(counter(&after, "syn_unparked") > counter(&before, "syn_unparked"))
    };
    assert!(within(PATIENCE, in_vain).unwrap(), "a SYN that was kept in vain goes on");
    let told = gateway.events(Default::default()).unwrap();
    let denied = |e: &&ftp_helper::event::Event| {
        e.event == Kind::Denied && e.connection.as_ref().is_some_and(|c| c.to == service)
    };
    let last = told.iter().rfind(denied).expect("it is told");
    assert_eq!((last.reason, last.connection.as_ref().unwrap().dropped), (Some(Reason::NoPinhole), Some(false)));

    // What would become of a connection.
    let ask =
        |port: u16| gateway.ask(&["why", &client.v4().to_string(), &format!("{}:{port}", server.v4()), "-o", "json"]);
    let said = ask(SERVICE).unwrap();
    assert_eq!((said.code, &said.json().unwrap()["verdict"]), (10, &"unmarked".into()), "{said:?}");
    let mut dialogue = Dialogue::open(client, to, PATIENCE).unwrap();
    dialogue.login(ground.server.login()).unwrap();
    let port = dialogue.pasv().unwrap();
    let allowed = || Ok(ask(port)?.code == 0);
    assert!(within(PATIENCE, allowed).unwrap());
    gateway.stop().unwrap();
}
