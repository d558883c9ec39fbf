//! The daemon: the engine driven by the kernel's records, the kernel driven by the engine's actions.
//!
//! One thread, one loop (`core`). What people ask for comes through the control socket (`backend`) as messages to
//! the loop, so that nothing is locked and every answer is of one moment.

mod act;
mod audit;
mod backend;
mod clock;
mod core;
mod guards;
mod left;
mod nat;
mod privileges;
mod rings;
mod saved;
mod service;
mod status;
mod why;

use std::time::Duration;

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

pub(crate) use self::guards::{policy, resolve as guards};
use self::{
    backend::{Handle, Question},
    core::Daemon,
    service::Watchdog,
};
pub use self::{
    left::{detach, is_left},
    rings::LOOK,
    service::is_stopping,
};
pub use crate::dataplane::{AttachKind, FastPath, Shield};
use crate::{
    api::{self, History, access::Access},
    config::Config,
    dataplane::Platform,
    error::{Code, Fault},
    metrics,
};

/// What `run` is told beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// How programs are attached.
    pub attach: AttachKind,
    /// How the shield is attached where the configuration asks for one.
    pub shield: Shield,
    /// What of the kernel's shortcuts is on.
    pub fast: FastPath,
    /// The programs' own log, down to this level (1 error to 5 trace); 0 is off and costs nothing.
    pub kernel_log: u8,
}

/// Runs until SIGTERM or SIGINT, then detaches and leaves nothing behind; or until SIGUSR1, then leaves programs and tables to the
/// next daemon.
///
/// # Errors
/// When it can't start; what was done until then is undone. When it can't go on, because the kernel side can't be read or written any
/// more; programs and tables are left to the next daemon then.
pub fn run(config: Config, options: RunOptions) -> anyhow::Result<()> {
    // One thread: the control socket, the interfaces and the packet sockets belong to its network namespace.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")?;
    let result = runtime.block_on(serve(config, options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What becomes of programs and tables at the end.
#[derive(Clone, Copy)]
enum End {
    /// They are removed.
    Detach,
    /// They stay for the next daemon.
    Leave,
}

async fn serve(config: Config, options: RunOptions) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    let mut replaced = signal(SignalKind::user_defined1()).context("can't listen for SIGUSR1")?;
    let mut hangup = signal(SignalKind::hangup()).context("can't listen for SIGHUP")?;
    // Before anything is made that would have to be removed again.
    Platform::here().check()?;
    clock::check()?;
    let access = Access::resolve(&config.api.read_group, &config.api.write_group)?;
    let (listener, _cleanup) = api::socket::bind(&config.api.socket, &access)?;
    let metrics_listener = match config.api.metrics {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|e| {
            Fault::new(Code::Failure, format!("api.metrics: can't listen on {address}: {e}; choose another address"))
        })?),
        None => None,
    };
    let events = History::default();
    let (asked, mut questions) = mpsc::channel(64);
    let handle = Handle::new(asked);
    let mut daemon = Daemon::start(config, options, events.clone())?;
    let server = tokio::spawn(api::server::serve(listener, access, events, handle.clone()));
    let metrics = metrics_listener.map(|l| tokio::spawn(metrics::serve(l, move || handle.clone().snapshot())));
    let mut watchdog = Watchdog::start();
    service::ready(&daemon.summary());
    let result = loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break Ok(End::Detach),
            _ = interrupt.recv() => break Ok(End::Detach),
            _ = replaced.recv() => break Ok(End::Leave),
            _ = hangup.recv() => {
                service::reloading();
                daemon.reload_and_tell();
                service::ready(&daemon.summary());
            }
            () = watchdog.alive() => {}
            Some(question) = questions.recv() => {
                let reload = matches!(question, Question::Reload(_));
                daemon.answer(question);
                if reload {
                    service::status(&daemon.summary());
                }
            }
            step = daemon.step() => if let Err(e) = step { break Err(e) },
        }
    };
    service::stopping();
    server.abort();
    if let Some(m) = metrics {
        m.abort();
    }
    match result {
        Ok(End::Detach) => daemon.stop(),
        Ok(End::Leave) => {
            daemon.leave();
            Ok(())
        }
        // As after a crash: a guard that is open by mistake is worse.
        Err(e) => {
            daemon.leave();
            Err(e.context("the daemon can't go on; a next one takes over, or `ftp-helper detach` removes what is left"))
        }
    }
}
