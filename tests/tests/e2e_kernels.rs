//! What has to work on every kernel that ftp-helper supports, in one go: attach, one transfer a mode over both families by
//! the fast path, nothing else through the guard, another daemon in the place of one that was killed, and an end that
//! leaves nothing behind. It needs no program but ftp-helper, ip and tc, so that it also runs in the small systems that
//! `cargo xtask test --kernel` boots.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use ftp_helper::{
    api::ShieldKind,
    lab::{Lab, LabOptions, require_root},
};
use ftp_helper_tests::{
    connect::connect,
    gateway::{Gateway, Settings, counter, engine, traces, until},
    responder::{CONTENT, Responder},
    spinner::{Mode, Spinner},
};

/// The modes that a control connection over this family can negotiate.
fn modes(address: IpAddr) -> &'static [Mode] {
    if address.is_ipv4() { &[Mode::Pasv, Mode::Epsv, Mode::Port, Mode::Eprt] } else { &[Mode::Epsv, Mode::Eprt] }
}

#[test]
fn one_transfer_a_mode_and_nothing_else() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let servers = [IpAddr::from(lab.server().v4()), lab.server().v6().into()];
    let responders = servers.map(|at| Responder::start(lab.server(), at).unwrap());
    let logged_in = responders.each_ref().map(|responder| {
        let to = responder.address();
        let login = || {
            let mut spinner = Spinner::connect(to, false)?;
            spinner.login("u", "p")?;
            anyhow::Ok(spinner)
        };
        lab.client().run_in(login).unwrap().unwrap()
    });
    let mut sessions = logged_in;
    let mut transfers = 0;
    let mut round = |sessions: &mut [Spinner; 2]| {
        for (spinner, at) in sessions.iter_mut().zip(servers) {
            for &mode in modes(at) {
                let taken = lab.client().run_in(|| spinner.fetch(mode, "x", CONTENT.len())).unwrap();
                taken.unwrap_or_else(|e| panic!("{mode:?} {at}: {e:#}"));
                transfers += 1;
            }
        }
        transfers
    };
    let done = round(&mut sessions);
    let status = until("every announcement is read", || {
        let status = gateway.status().ok()?;
        (engine(&status, "announcements") == done).then_some(status)
    });
    let status = status.unwrap();
    assert_eq!((engine(&status, "taken_by_fast_path"), engine(&status, "divergences")), (done, 0));
    assert_eq!(counter(&status, "syn_denied"), 0);

    // Nobody has negotiated this port.
    for at in servers {
        let to = SocketAddr::new(at, 40_404);
        let _listener = lab.server().run_in(|| TcpListener::bind(to)).unwrap().unwrap();
        let by: IpAddr = if at.is_ipv4() { lab.client().v4().into() } else { lab.client().v6().into() };
        let came = connect(lab.client(), by, to, Duration::from_millis(500));
        assert!(came.is_err(), "{to} is open");
    }
    until("two SYNs are denied", || (counter(&gateway.status().ok()?, "syn_denied") >= 2).then_some(())).unwrap();

    // Sessions outlive the daemon, and transfers do not wait for the next one.
    gateway.kill().unwrap();
    round(&mut sessions);
    gateway.start_again().unwrap();
    round(&mut sessions);
    let status = gateway.status().unwrap();
    assert_eq!((engine(&status, "sessions_adopted"), engine(&status, "divergences")), (2, 0));

    let ended = gateway.stop().unwrap();
    assert!(ended.success(), "{}", ended.output);
    assert_eq!(traces(lab.gateway()).unwrap(), clean);

    // With a shield in XDP, in the driver and in the stack.
    for (how, kind) in [("native", ShieldKind::Native), ("generic", ShieldKind::Generic)] {
        let settings = Settings { watch: "hook = \"xdp+tc\"\n".to_owned(), ..Settings::guarded(&lab, "drop") };
        let mut gateway = Gateway::start(&lab, &settings, &["--shield", how]).unwrap();
        assert_eq!(gateway.status().unwrap().interfaces[0].shield, Some(kind));
        for (at, responder) in servers.into_iter().zip(&responders) {
            let fetch = || {
                let mut spinner = Spinner::connect(responder.address(), false)?;
                spinner.login("u", "p")?;
                modes(at).iter().try_for_each(|&mode| spinner.fetch(mode, "x", CONTENT.len()).map(drop))
            };
            lab.client().run_in(fetch).unwrap().unwrap_or_else(|e| panic!("{how} {at}: {e:#}"));
            let by: IpAddr = if at.is_ipv4() { lab.client().v4().into() } else { lab.client().v6().into() };
            let came = connect(lab.client(), by, SocketAddr::new(at, 40_404), Duration::from_millis(300));
            assert!(came.is_err(), "{how}: {at} is open");
        }
        let status = gateway.status().unwrap();
        let (denied, shielded) = (counter(&status, "syn_denied"), counter(&status, "syn_shielded"));
        assert!(denied >= 2 && denied == shielded, "{how}: {:?}", status.counters);
        gateway.stop().unwrap();
        assert_eq!(traces(lab.gateway()).unwrap(), clean);
    }
    for responder in responders {
        responder.stop(lab.server());
    }
}
