//! What fails for a while, and what fails for good: in neither does the guard open.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Result, ensure};
use aya::maps::MapData;
use ftp_helper::{
    api::client::Client,
    lab::{Lab, LabOptions, OUTSIDE_INTERFACE, require_root},
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, engine, program, traces, within},
    program::said,
    responder::Responder,
    survival::{probe, tables},
};

use super::{fetch, listened};

/// Until the daemon has gone `n` times through what it does each second.
fn beats(client: &mut Client, n: u64) -> Result<()> {
    let before = engine(&client.status()?, "audit_looks");
    ensure!(within(PATIENCE, || Ok(engine(&client.status()?, "audit_looks") >= before + n))?, "no beat");
    Ok(())
}

/// Each second the daemon looks at the host's interfaces, which takes a descriptor. It has none here.
#[test]
fn what_fails_for_a_while_is_tried_again() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let settings = Settings::guarded(&lab, "drop");
    let guards = format!("{}[[guard]]\nnetworks = [\"@{OUTSIDE_INTERFACE}\"]\n", settings.guards);
    let mut gateway = Gateway::start(&lab, &Settings { guards, ..settings }, &[]).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let (_listener, closed) = listened(&lab);
    // Asked before, since no new connection can be taken without a descriptor either.
    let mut client = gateway.client().unwrap();
    client.status().unwrap();
    let descriptors = |n: u32| {
        let id = gateway.id().unwrap().to_string();
        let done = std::process::Command::new("prlimit").args(["--pid", &id, &format!("--nofile={n}:")]).status();
        assert!(done.unwrap().success());
    };
    let address = |word: &str| {
        let mut command = lab.gateway().command("ip");
        assert!(command.args(["addr", word, "10.9.0.1/32", "dev", OUTSIDE_INTERFACE]).status().unwrap().success());
    };
    let said = |what: &str| within(PATIENCE, || Ok(gateway.output()?.contains(what))).unwrap();
    let poor = "interfaces can't be followed, and stay as they are: can't list the network interfaces";

    descriptors(3);
    assert!(said(poor), "{}", gateway.output().unwrap());
    address("add");
    let meanwhile = || {
        fetch(&lab, responder.address())?;
        beats(&mut client, 2)
    };
    let ((), tries) = probe(lab.stranger(), closed, meanwhile).unwrap();
    assert!(tries > 0);
    let output = gateway.output().unwrap();
    assert_eq!(output.matches(poor).count(), 1, "{output}");
    assert!(!output.contains("have changed"), "{output}");
    descriptors(1024);
    assert!(said("have changed"), "{}", gateway.output().unwrap());
    fetch(&lab, responder.address()).unwrap();
    // The same again is told again.
    descriptors(3);
    assert!(within(PATIENCE, || Ok(gateway.output()?.matches(poor).count() == 2)).unwrap());
    descriptors(1024);
    address("del");
    let status = client.status().unwrap();
    assert_eq!((engine(&status, "divergences"), engine(&status, "audit_differences")), (0, 0), "{status:?}");
    let done = gateway.stop().unwrap();
    assert!(done.success(), "{}", done.output);
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
    responder.stop(lab.server());
}

/// `BPF_MAP_FREEZE`: from now on nobody but the programs writes to a table.
fn freeze(gateway: &Gateway, name: &str) -> Result<()> {
    const BPF_MAP_FREEZE: libc::c_long = 22;
    let map = MapData::from_pin(tables(gateway)?.join(name))?;
    let mut attributes = [map.fd().as_fd().as_raw_fd()];
    // SAFETY: the kernel reads the given number of bytes of the attributes, of which a descriptor of a map is all.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_FREEZE, attributes.as_mut_ptr(), size_of_val(&attributes)) };
    ensure!(done == 0, "{name} can't be frozen: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A table that can't be written any more is one without which the daemon can't go on.
#[test]
fn a_daemon_that_can_not_go_on_leaves_the_guard_as_it_is() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let (_listener, closed) = listened(&lab);
    fetch(&lab, responder.address()).unwrap();
    let end = || -> Result<()> {
        freeze(&gateway, "HEARTBEAT")?;
        let ended = within(PATIENCE, || Ok(gateway.output()?.contains("ftp-helper: the daemon can't go on")))?;
        ensure!(ended, "{}", gateway.output()?);
        let done = gateway.stop()?;
        ensure!(done.status.is_some_and(|s| s.code() == Some(1)), "{done:?}");
        ensure!(done.output.contains("can't write the heartbeat"), "{done:?}");
        ensure!(done.output.contains("`ftp-helper detach`"), "{done:?}");
        ensure!(!done.output.contains("detaching"), "{done:?}");
        // The canonical goes on, as after a crash.
        fetch(&lab, responder.address())?;
        // Nor can a next one begin, and what was left is not touched by its failure.
        ensure!(gateway.start_again().is_err(), "started with a frozen table");
        gateway.kill()
    };
    let ((), tries) = probe(lab.stranger(), closed, end).unwrap();
    assert!(tries > 0);
    assert!(!gateway.pins().unwrap().is_empty());
    let mut detach = lab.gateway().command(program().unwrap());
    detach.arg("detach").arg("--socket").arg(gateway.socket());
    let detached = said(detach).unwrap();
    assert_eq!(detached.code, 0, "{detached:?}");
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
    responder.stop(lab.server());
}
