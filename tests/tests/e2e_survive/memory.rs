//! No memory: for the tables at the start, and while transfers go on.

use anyhow::{Result, ensure};
use ftp_helper::{
    api::{Session, Standing},
    lab::{Lab, LabOptions, require_root},
};
use ftp_helper_common::state::SAVED_BYTES;
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, engine, traces, within},
    memory::MemoryGroup,
    responder::{CONTENT, Responder},
    spinner::Mode,
    survival::{probe, table},
};

use super::{empties, fetch, listened, login};

#[test]
fn no_memory_for_the_tables_is_one_message_and_leaves_nothing() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    // A table of the kernel's is counted as memory of the group that its maker is in.
    let group = MemoryGroup::new().unwrap();
    group.limit(32 << 20).unwrap();
    let settings = Settings::guarded(&lab, "drop").section("[limits]\nsessions = 1048576\n");
    let config = lab.directory().join("poor.toml");
    std::fs::write(&config, settings.text(&lab.directory().join("poor.sock"))).unwrap();
    let mut command = lab.gateway().command("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.members());
    command.arg(ftp_helper_tests::gateway::program().unwrap()).arg("run").arg("-c").arg(&config);
    let said = ftp_helper_tests::program::said(command).unwrap();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("the kernel has no memory for the table"), "{said:?}");
    assert!(said.err.contains("set limits.sessions or limits.ring lower"), "{said:?}");
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
}

#[test]
fn without_memory_it_goes_on_and_opens_nothing_else() {
    /// Of more than the kernel keeps room for.
    const SESSIONS: usize = 120;
    /// The same for networks that are guarded.
    const NETWORKS: u32 = 1000;
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let settings = Settings::guarded(&lab, "drop");
    // The tables go on counting as memory of the group that they were made in; the daemon itself is to have enough.
    let group = MemoryGroup::new().unwrap();
    let mut gateway = group.around(|| Gateway::start(&lab, &settings, &[])).unwrap();
    group.dismiss(gateway.id().unwrap()).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let to = responder.address();
    let (_listener, closed) = listened(&lab);
    let saved =
        |gateway: &Gateway| -> Result<usize> { Ok(table::<u64, [u8; SAVED_BYTES]>(gateway, "SAVED")?.keys().count()) };
    // Half a line in each session: what the daemon has read of it, it saves for the next one. How many it has saved then.
    let dialogues = |gateway: &Gateway, poor: bool| -> Result<usize> {
        let mut all = (0..SESSIONS).map(|_| login(to)).collect::<Result<Vec<_>>>()?;
        for spinner in &mut all {
            if poor {
                // What the daemon has given back since would serve instead.
                group.squeeze()?;
            }
            spinner.write(b"EP")?;
        }
        let blind = |s: &&Session| !s.sighted && s.state == Standing::LoggedIn;
        let blind = || Ok(gateway.sessions()?.iter().filter(blind).count() == SESSIONS);
        ensure!(within(PATIENCE, blind)?, "half lines are not read: {:?}", gateway.status()?);
        let n = saved(gateway)?;
        // The other half counts, and the session opens what it announces.
        for spinner in &mut all {
            spinner.ask("SV", 229)?;
            spinner.fetch(Mode::Epsv, "x", CONTENT.len())?;
        }
        all.iter_mut().try_for_each(|s| s.ask("QUIT", 221).map(drop))?;
        Ok(n)
    };
    let poor = || lab.client().run_in(|| dialogues(&gateway, true))?;
    let (n, tries) = probe(lab.stranger(), closed, poor).unwrap();
    println!("without memory {n} of {SESSIONS} dialogues were saved; {tries} tries of a closed port, none let through");
    assert!(n < SESSIONS && tries > 0, "{n} of {SESSIONS}, {tries} tries");
    let output = gateway.output().unwrap();
    assert_eq!(output.matches("can't save a session").count(), 1, "{output}");
    assert!(within(PATIENCE, || Ok(saved(&gateway)? == 0)).unwrap());

    // A policy that finds no room leaves the old one in force.
    let networks = (0..NETWORKS).map(|n| format!("\"10.{}.{}.0/24\"", n / 256, n % 256)).collect::<Vec<_>>().join(", ");
    let wider =
        Settings { guards: format!("{}[[guard]]\nnetworks = [{networks}]\n", settings.guards), ..settings.clone() };
    group.squeeze().unwrap();
    let refused = gateway.reload(&wider).unwrap_err();
    assert!(format!("{refused:#}").contains("can't put"), "{refused:#}");
    probe(lab.stranger(), closed, || fetch(&lab, to)).unwrap();

    // When there is memory again, all of it works.
    group.limit(u64::MAX).unwrap();
    // The kernel fills what it has in reserve for a table when that was found empty: the first ones may come before.
    let all = || Ok(lab.client().run_in(|| dialogues(&gateway, false))?? == SESSIONS);
    assert!(within(PATIENCE, all).unwrap(), "{}", gateway.output().unwrap());
    assert!(within(PATIENCE, || Ok(gateway.reload(&wider).is_ok())).unwrap());
    probe(lab.stranger(), closed, || fetch(&lab, to)).unwrap();
    empties(&gateway);
    let status = gateway.status().unwrap();
    assert_eq!((engine(&status, "divergences"), engine(&status, "audit_differences")), (0, 0), "{status:?}");
    assert!(gateway.stop().unwrap().success());
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
    responder.stop(lab.server());
}
