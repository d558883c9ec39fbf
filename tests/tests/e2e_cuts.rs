//! Rule 8 on the wire: however a dialogue is cut into segments, it opens the same pinholes, and the transfers work.
//!
//! What sockets can't do, reordering and retransmission at will, is shown by `replay` and by the loss tests.

use ftp_helper::{
    api::Filter,
    event::{By, Kind, NegotiatedBy},
    lab::{Lab, LabOptions, require_root},
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, engine, within},
    responder::{CONTENT, Responder},
    spinner::{Cut, Mode, Spinner},
};

/// Runs one session in which the mode's dialogue is cut in every way, and compares what opened with what was announced.
fn every_cut(mode: Mode, v6: bool) {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let address = if v6 { lab.server().v6().into() } else { lab.server().v4().into() };
    let responder = Responder::start(lab.server(), address).unwrap();
    let to = responder.address();
    let talk = || -> anyhow::Result<Vec<u16>> {
        let mut spinner = Spinner::connect(to, false)?;
        spinner.login("u", "p")?;
        // The longest command and reply that there may be here; what is cut beyond its end is not cut.
        let (command, reply) = match mode {
            Mode::Pasv | Mode::Epsv => (7, 52),
            Mode::Port | Mode::Eprt => (40, 17),
        };
        let mut ports = Vec::new();
        for n in 0..command {
            spinner.cut = Cut::At(n);
            ports.push(spinner.fetch(mode, "x", CONTENT.len())?.port);
        }
        spinner.cut = Cut::Whole;
        for n in 1..reply {
            spinner.ask(&format!("SITE CUT {n}"), 200)?;
            ports.push(spinner.fetch(mode, "x", CONTENT.len())?.port);
        }
        for site in ["SITE CUT 0", "SITE BYTES"] {
            spinner.ask(site, 200)?;
            for cut in [Cut::Whole, Cut::Bytes, Cut::Pipelined] {
                spinner.cut = cut;
                ports.push(spinner.fetch(mode, "x", CONTENT.len())?.port);
            }
        }
        spinner.ask("QUIT", 221)?;
        Ok(ports)
    };
    let announced = lab.client().run_in(talk).unwrap().unwrap();
    let wanted = match mode {
        Mode::Pasv => NegotiatedBy::Pasv,
        Mode::Epsv => NegotiatedBy::Epsv,
        Mode::Port => NegotiatedBy::Port,
        Mode::Eprt => NegotiatedBy::Eprt,
    };
    let (client, server) =
        if v6 { (lab.client().v6().into(), lab.server().v6().into()) } else { (lab.client().v4().into(), address) };
    let ends = if matches!(mode, Mode::Pasv | Mode::Epsv) { (client, server) } else { (server, client) };
    let mut opened = Vec::new();
    let complete = within(PATIENCE, || {
        let filter = Filter { event: vec![Kind::Opened], ..Filter::default() };
        opened = gateway.events(filter)?;
        Ok(opened.len() >= announced.len())
    });
    let slow = opened.iter().filter(|e| e.by == Some(By::Daemon)).count();
    println!("{mode:?} v6={v6}: {} dialogues, {} pinholes, {slow} of them the daemon's", announced.len(), opened.len());
    assert!(complete.unwrap(), "{} of {} pinholes", opened.len(), announced.len());
    let opened: Vec<_> =
        opened.into_iter().filter_map(|e| e.pinhole).map(|p| (p.mode, (p.initiator, p.responder), p.port)).collect();
    let expected: Vec<_> = announced.iter().map(|&port| (wanted, ends, port)).collect();
    assert_eq!(opened, expected);
    assert!(slow > 0, "nothing was cut");
    let status = gateway.status().unwrap();
    assert_eq!(engine(&status, "divergences"), 0);
    let bad = status.engine.iter().find(|(k, _)| k.starts_with("standing.") || k.starts_with("refused."));
    assert_eq!(bad, None);
    assert_eq!(responder.troubles(), [""; 0]);
    responder.stop(lab.server());
}

#[test]
fn pasv_cut_everywhere() {
    every_cut(Mode::Pasv, false);
}

#[test]
fn epsv_cut_everywhere() {
    every_cut(Mode::Epsv, true);
}

#[test]
fn port_cut_everywhere() {
    every_cut(Mode::Port, false);
}

#[test]
fn eprt_cut_everywhere() {
    every_cut(Mode::Eprt, true);
}
