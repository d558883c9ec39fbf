//! The bundled server: on a thread of this process, or as the program's own command.

use std::{net::SocketAddr, thread::JoinHandle};

use tokio::sync::oneshot;

use super::{Credentials, Launch, Running, Setup};
use crate::{
    ftpd,
    lab::error::{LabError, Result},
};

/// A thread on the host with a runtime of its own. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Thread {
    stop: Option<oneshot::Sender<()>>,
    handle: Option<JoinHandle<Result<(), nix::Error>>>,
}

impl Thread {
    pub(super) fn ended(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        match self.handle.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(e))) => tracing::warn!("the bundled server's thread can't enter its namespace: {e}"),
            Some(Err(_)) => tracing::warn!("the bundled server's thread has panicked"),
        }
    }
}

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let port = setup.options.port;
    let listen = [SocketAddr::new(setup.host.v4().into(), port), SocketAddr::new(setup.host.v6().into(), port)];
    if let Some(program) = &setup.options.bundled {
        let mut command = setup.host.command(program);
        command.arg("ftpd").arg("--root").arg(&setup.root);
        for address in listen {
            command.arg("--listen").arg(address.to_string());
        }
        command.arg("--passive-ports").arg(setup.options.passive_ports.to_string());
        return Launch::process(command, "anonymous");
    }
    let options = ftpd::Options {
        listen: listen.to_vec(),
        root: setup.root.clone(),
        login: ftpd::Login::Anonymous,
        passive_ports: setup.options.passive_ports,
        active: true,
    };
    // The runtime's thread and those it starts are on the host.
    let (ready, bound) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let handle = setup.host.namespace().spawn_in(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return drop(ready.send(Err(LabError::io("can't start a runtime for the bundled server")(e)))),
        };
        runtime.block_on(async {
            match ftpd::Server::bind(options).await {
                Ok(server) => {
                    drop(ready.send(Ok(())));
                    // Dropping the sender stops it, as sending would.
                    server.serve(async { drop(stopped.await) }).await;
                }
                Err(e) => drop(ready.send(Err(LabError::Usage(format!("bundled server: {e}"))))),
            }
        });
        runtime.shutdown_background();
    })?;
    let thread = Thread { stop: Some(stop), handle: Some(handle) };
    bound.recv().map_err(|_| LabError::Usage("the bundled server's thread ended at once".to_owned()))??;
    let login = Credentials { user: "anonymous".to_owned(), password: "lab".to_owned() };
    Ok(Launch { running: Running::Thread(thread), login })
}
