//! Floods (A80 to A84, A86): of SYNs, of connections, of announcements, of lines, of single bytes. Through each of them a
//! legitimate client goes on as if nothing were, the daemon's memory stays what it was, and nothing that lives gives way.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use ftp_helper::lab::{Lab, LabOptions, require_root};
use ftp_helper_common::reason::Reason;
use ftp_helper_tests::{
    flood::{Raw, nobody, resident, v4},
    gateway::{Gateway, PATIENCE, Settings, counter, engine, full, within},
    responder::{CONTENT, Responder},
    spinner::{Mode, Spinner},
};

/// What a flood may cost the daemon, bytes: its buffers grow once to what they may hold, and no further.
const ROOM: u64 = 24 << 20;
/// Sessions that there is room for.
const SESSIONS: usize = 200;

/// A lab with a daemon that has room for few, a server, and a client's session that was there before.
struct Scene {
    responder: Responder,
    gateway: Gateway,
    lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new(&LabOptions::default()).unwrap();
        let limits = format!("[limits]\nsessions = {SESSIONS}\nring = \"1MiB\"");
        let gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop").section(&limits), &[]).unwrap();
        let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
        Self { responder, gateway, lab }
    }

    fn memory(&self) -> u64 {
        resident(self.gateway.status().unwrap().pid).unwrap()
    }

    /// Runs a flood, with a client beside it that has logged in before and transfers until the flood is over, in every
    /// mode. Returns what the flood returns.
    fn beside<T: Send>(&self, what: &str, least: u64, flood: impl FnOnce() -> anyhow::Result<T> + Send) -> T {
        let to = self.responder.address();
        let over = AtomicBool::new(false);
        let ready = AtomicBool::new(false);
        let transfers = AtomicU64::new(0);
        let before = self.memory();
        let client = || -> anyhow::Result<bool> {
            let mut spinner = Spinner::connect(to, false)?;
            spinner.login("u", "p")?;
            spinner.fetch(Mode::Pasv, "x", CONTENT.len())?;
            ready.store(true, Ordering::Release);
            let modes = [Mode::Pasv, Mode::Epsv, Mode::Port, Mode::Eprt];
            for n in 0.. {
                if over.load(Ordering::Acquire) && n >= least {
                    break;
                }
                let mode = modes[n as usize % 4];
                spinner.fetch(mode, "x", CONTENT.len()).with_context(|| format!("transfer {n}, {mode:?}"))?;
                transfers.fetch_add(1, Ordering::Relaxed);
            }
            // The session that was there before is there still, and in sight.
            let local = spinner.local()?;
            let sighted = within(PATIENCE, || {
                spinner.ask("NOOP", 200)?;
                Ok(self.gateway.sessions()?.iter().any(|s| s.client == local && s.sighted))
            })?;
            spinner.ask("QUIT", 221)?;
            Ok(sighted)
        };
        let result = std::thread::scope(|scope| {
            let client = scope.spawn(|| self.lab.client().run_in(client).unwrap());
            let begun = within(PATIENCE, || Ok(ready.load(Ordering::Acquire) || client.is_finished())).unwrap();
            assert!(begun, "{what}: the client does not begin");
            let result = flood();
            over.store(true, Ordering::Release);
            assert!(client.join().unwrap().unwrap(), "{what}: the client's session is blind to the end");
            result.unwrap()
        });
        let after = self.memory();
        println!(
            "{what}: {} transfers beside it; memory {} KiB before, {} KiB after",
            transfers.into_inner(),
            before >> 10,
            after >> 10
        );
        assert!(after < before + ROOM, "{what}: {before} bytes before, {after} after");
        assert_eq!(engine(&self.gateway.status().unwrap(), "divergences"), 0, "{what}");
        result
    }

    fn end(self) {
        self.responder.stop(self.lab.server());
    }
}

/// A connection to the server that has been greeted.
fn greeted(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    read_line(&mut stream)?;
    Ok(stream)
}

fn read_line(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        ensure!(stream.read(&mut byte)? == 1, "the server has closed");
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// A82, A83: SYNs to the control port and into the guarded range, from senders that do not exist.
#[test]
fn a82_a_flood_of_syns_makes_no_session_and_costs_nothing() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let to = v4(scene.responder.address()).unwrap();
    let before = scene.gateway.status().unwrap();
    let n: u32 = if full() { 1_000_000 } else { 100_000 };
    scene.beside("a flood of SYNs", 8, || {
        scene.lab.stranger().run_in(|| {
            let raw = Raw::open()?;
            for i in 0..n {
                let mut target = to;
                // Every other one to the control port.
                if i % 2 == 0 {
                    target.set_port(1024 + (i.wrapping_mul(7919) % 64_000) as u16);
                }
                raw.syn(nobody(i), target, i)?;
            }
            anyhow::Ok(())
        })?
    });
    let after = scene.gateway.status().unwrap();
    let denied = counter(&after, "syn_denied") - counter(&before, "syn_denied");
    println!("{denied} SYNs into the guarded range were denied");
    assert!(denied >= u64::from(n) / 4, "only {denied} of {n} arrived: this flood proves nothing");
    // Only whoever has finished a handshake has a session: the client.
    assert!(counter(&after, "sessions") - counter(&before, "sessions") <= 2, "SYNs have made sessions");
    scene.end();
}

/// A83: more connections than there is room for. What is there stays, what is new is refused by name, and passes.
#[test]
fn a83_a_flood_of_connections_takes_no_place_of_those_that_live() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let held = scene.beside("a flood of connections", 8, || {
        scene.lab.stranger().run_in(|| {
            (0..SESSIONS + 60).map(|_| greeted(scene.responder.address())).collect::<anyhow::Result<Vec<_>>>()
        })?
    });
    let refused = || Ok(counter_of_reason(&scene.gateway, Reason::SessionsFull)? >= 60);
    assert!(within(PATIENCE, refused).unwrap(), "nobody was refused");
    let status = scene.gateway.status().unwrap();
    assert!(status.sessions.live <= SESSIONS as u64, "{:?}", status.sessions);
    // With room again, a new client opens as ever.
    drop(held);
    let room = || Ok(scene.gateway.sessions()?.len() < SESSIONS / 2);
    assert!(within(PATIENCE, room).unwrap(), "the sessions of the flood do not end");
    scene.beside("after the flood", 8, || Ok(()));
    scene.end();
}

/// A80, A87: announcements that nobody uses, by the thousand.
#[test]
fn a80_a_flood_of_announcements_leaves_one_pinhole_open() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let n = if full() { 20_000 } else { 2_000_u32 };
    let most = scene.beside("a flood of announcements", 8, || {
        scene.lab.stranger().run_in(|| {
            let mut spinner = Spinner::connect(scene.responder.address(), false)?;
            spinner.login("u", "p")?;
            let local = spinner.local()?;
            let mut most = 0;
            for i in 0..n {
                let port = 20_000 + i % 40_000;
                match i % 3 {
                    0 => drop(spinner.ask("EPSV", 229)?),
                    1 => drop(spinner.ask("PASV", 227)?),
                    _ => drop(spinner.ask(&format!("EPRT |1|{}|{port}|", local.ip()), 200)?),
                }
                if i % 50 == 0 {
                    let own = scene.gateway.pinholes()?.into_iter().filter(|p| p.client == Some(local)).count();
                    most = most.max(own);
                }
            }
            spinner.ask("QUIT", 221)?;
            anyhow::Ok(most)
        })?
    });
    assert!(most <= 1, "{most} pinholes of one session");
    let gone = || Ok(scene.gateway.status()?.pinholes.live == 0);
    assert!(within(PATIENCE, gone).unwrap(), "pinholes are left");
    scene.end();
}

/// A81, A86: commands without waiting, lines without an end, and lines that come byte by byte.
#[test]
fn a81_a86_floods_of_lines_are_bounded() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let to = scene.responder.address();
    // Commands that nobody waits for: tainted at the cap.
    let stream = scene.beside("a flood of commands", 8, || {
        scene.lab.stranger().run_in(|| {
            let mut stream = greeted(to)?;
            let mut reader = stream.try_clone()?;
            let n = 10_000;
            std::thread::scope(|scope| {
                let replies = scope.spawn(move || (0..n).try_for_each(|_| read_line(&mut reader).map(drop)));
                stream.write_all("NOOP\r\n".repeat(n).as_bytes())?;
                replies.join().map_err(|_| anyhow::anyhow!("the reader has panicked"))?
            })?;
            anyhow::Ok(stream)
        })?
    });
    let local = stream.local_addr().unwrap();
    let own = scene.gateway.sessions().unwrap().into_iter().find(|s| s.client == local);
    let reason = own.as_ref().and_then(|s| s.reason.as_deref());
    assert_eq!(reason, Some(Reason::PipelineOverflow.as_str()), "{own:?}");
    drop(stream);
    // A line that never ends, of several sessions.
    let blocks = if full() { 64 } else { 12 };
    scene.beside("lines without an end", 8, || {
        scene.lab.stranger().run_in(|| {
            let mut streams = (0..4).map(|_| greeted(to)).collect::<anyhow::Result<Vec<_>>>()?;
            for stream in &mut streams {
                stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            }
            let block = vec![b'A'; 1 << 16];
            for _ in 0..blocks {
                for stream in &mut streams {
                    // The server may have enough of it.
                    let _ = stream.write(&block);
                }
            }
            anyhow::Ok(())
        })?
    });
    // Lines that come byte by byte, from many.
    scene.beside("single bytes", 8, || {
        scene.lab.stranger().run_in(|| {
            let mut streams = (0..60).map(|_| greeted(to)).collect::<anyhow::Result<Vec<_>>>()?;
            for byte in b"USER anonymous-and-in-no-hurry-at-all".iter().chain(b"\r\n") {
                for stream in &mut streams {
                    stream.write_all(&[*byte])?;
                }
            }
            for stream in &mut streams {
                ensure!(read_line(stream)?.starts_with("331"), "USER byte by byte");
            }
            anyhow::Ok(())
        })?
    });
    scene.end();
}

fn counter_of_reason(gateway: &Gateway, reason: Reason) -> anyhow::Result<u64> {
    Ok(gateway.status()?.reasons.get(reason.as_str()).copied().unwrap_or(0))
}
