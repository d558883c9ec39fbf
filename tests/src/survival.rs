//! What the survival tests share: many clients at once, a probe that nothing is open that nobody negotiated, a look at the
//! pinned tables of a daemon, and keeping figures.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use ftp_helper::lab::{Host, Lab};
use serde_json::Value;

use crate::{
    gateway::Gateway,
    responder::CONTENT,
    spinner::{Cut, Mode, Spinner},
};

/// Keeps what a test has measured as JSON, in the folder that `FTP_HELPER_FIGURES` names, if it does.
///
/// # Errors
/// When it can't be written.
pub fn keep(name: &str, figures: &Value) -> Result<()> {
    let Some(folder) = std::env::var_os("FTP_HELPER_FIGURES") else { return Ok(()) };
    let file = PathBuf::from(folder).join(format!("{name}.json"));
    std::fs::write(&file, format!("{figures:#}\n")).with_context(|| format!("can't write {}", file.display()))
}

/// How clients write their commands: every third one splits or pipelines them, so that the kernel can't follow.
fn cut_of(client: usize, turn: usize) -> Cut {
    match (client % 3, turn % 3) {
        (0, 0) => Cut::At(3),
        (0, 1) => Cut::Pipelined,
        (0, _) => Cut::Bytes,
        _ => Cut::Whole,
    }
}

/// Clients that transfer until they are told to stop.
#[derive(Debug)]
pub struct Crowd {
    stop: AtomicBool,
    /// How long a client waits between two transfers. As people do: and a machine with two cores has to have time for the
    /// daemon too.
    pub pause: Duration,
    /// Transfers that came through.
    transfers: AtomicU64,
    /// What went wrong.
    troubles: Mutex<Vec<String>>,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            stop: AtomicBool::new(false),
            pause: Duration::from_millis(300),
            transfers: AtomicU64::new(0),
            troubles: Mutex::default(),
        }
    }
}

impl Crowd {
    /// Transfers that have come through, and how many clients have given up.
    pub fn so_far(&self) -> (u64, usize) {
        (self.transfers.load(Ordering::Relaxed), self.troubles().len())
    }

    /// What went wrong.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has `n` clients transfer in all modes, while `meanwhile` runs; then all end their sessions.
    ///
    /// # Errors
    /// When a client can't begin, and as `meanwhile`.
    pub fn run<T>(
        &self,
        lab: &Lab,
        targets: &[SocketAddr],
        n: usize,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        std::thread::scope(|scope| {
            for i in 0..n {
                scope.spawn(move || self.client(lab.client(), targets[i % targets.len()], i));
            }
            let result = meanwhile();
            self.stop.store(true, Ordering::Relaxed);
            result
        })
    }

    fn client(&self, host: &Host, to: SocketAddr, number: usize) {
        let mut turn = number;
        let talk = || -> Result<()> {
            let mut spinner = Spinner::connect(to, false)?;
            spinner.login("u", "p")?;
            // A SYN that is lost is sent again after 1, 3, 7 and 15 s.
            spinner.connect_limit = Duration::from_secs(20);
            while !self.stop.load(Ordering::Relaxed) {
                let mode = match (turn % 4, to.is_ipv4()) {
                    (0, true) => Mode::Pasv,
                    (1, true) => Mode::Port,
                    (0 | 2, _) => Mode::Epsv,
                    _ => Mode::Eprt,
                };
                spinner.cut = cut_of(number, turn / 4);
                let cut = spinner.cut;
                spinner
                    .fetch(mode, "x", CONTENT.len())
                    .with_context(|| format!("{mode:?}, {cut:?}, transfer {turn}"))?;
                self.transfers.fetch_add(1, Ordering::Relaxed);
                turn += 1;
                std::thread::sleep(self.pause);
            }
            spinner.ask("QUIT", 221)?;
            Ok(())
        };
        let done = host.run_in(talk).map_err(anyhow::Error::from).and_then(|r| r);
        if let Err(e) = done {
            let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            troubles.push(format!("client {number}: {e:#}"));
        }
    }
}

/// Tries a port that nobody negotiated, again and again while `meanwhile` runs; how often it was tried.
///
/// # Errors
/// When it was open once, and as `meanwhile`.
pub fn probe<T>(from: &Host, to: SocketAddr, meanwhile: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| {
            from.run_in(|| {
                let mut tries = 0;
                while !stop.load(Ordering::Relaxed) {
                    // One SYN each: the next would come after a second.
                    if std::net::TcpStream::connect_timeout(&to, Duration::from_millis(30)).is_ok() {
                        anyhow::bail!("{to} was open, at try {tries}");
                    }
                    tries += 1;
                }
                Ok(tries)
            })
        });
        let result = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let tries = prober.join().map_err(|_| anyhow::anyhow!("the prober has panicked"))??;
        Ok((result?, tries?))
    })
}

/// The folder of a daemon's tables and links in the BPF file system.
///
/// # Errors
/// When there is none, or more than one.
pub fn tables(gateway: &Gateway) -> Result<PathBuf> {
    let pins = gateway.pins()?;
    let [instance] = pins.iter().collect::<Vec<_>>()[..] else { anyhow::bail!("not one instance: {pins:?}") };
    let instance = PathBuf::from("/sys/fs/bpf/ftp-helper").join(instance);
    let layouts = std::fs::read_dir(&instance)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    let [layout] = &layouts[..] else { anyhow::bail!("not one layout: {layouts:?}") };
    Ok(layout.clone())
}

/// A pinned hash table of a daemon.
///
/// # Errors
/// When it can't be opened.
pub fn table<K: aya::Pod, V: aya::Pod>(gateway: &Gateway, name: &str) -> Result<HashMap<MapData, K, V>> {
    let data = MapData::from_pin(tables(gateway)?.join(name))?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}
