//! Questions from the control socket and the metrics endpoint, as messages to the loop.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};

use crate::{
    api::{
        Asked, ConnectionRow, PinholeRow, ReloadReport, Session, Status, Story, Why,
        server::{Act, Backend, Done, Refusal},
    },
    metrics::Snapshot,
};

/// A question and where its answer goes. Who asks may be gone by then; that is no error.
pub(super) enum Question {
    Status(oneshot::Sender<Status>),
    Sessions(oneshot::Sender<Vec<Session>>),
    Pinholes(oneshot::Sender<Vec<PinholeRow>>),
    Connections(oneshot::Sender<Vec<ConnectionRow>>),
    Story(String, oneshot::Sender<Result<Story, Refusal>>),
    Act(u32, Act, oneshot::Sender<Result<Done, Refusal>>),
    Why(Asked, oneshot::Sender<Result<Why, String>>),
    Reload(oneshot::Sender<Result<ReloadReport, String>>),
    Metrics(oneshot::Sender<Snapshot>),
}

/// What is answered when nobody answers any more.
const STOPPING: &str = "the daemon is stopping";

/// The loop, seen from elsewhere.
#[derive(Clone)]
pub(super) struct Handle(mpsc::Sender<Question>);

impl Handle {
    pub(super) fn new(asked: mpsc::Sender<Question>) -> Self {
        Self(asked)
    }

    /// What the metrics tell now.
    pub(super) async fn snapshot(self) -> Snapshot {
        self.ask(Question::Metrics).await.unwrap_or_default()
    }

    /// None when the daemon is stopping.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.ok()?;
        answered.await.ok()
    }
}

impl Backend for Handle {
    async fn status(&self) -> Status {
        self.ask(Question::Status).await.unwrap_or_default()
    }

    async fn sessions(&self) -> Vec<Session> {
        self.ask(Question::Sessions).await.unwrap_or_default()
    }

    async fn pinholes(&self) -> Vec<PinholeRow> {
        self.ask(Question::Pinholes).await.unwrap_or_default()
    }

    async fn why(&self, asked: Asked) -> Result<Why, String> {
        self.ask(|to| Question::Why(asked, to)).await.unwrap_or_else(|| Err(STOPPING.into()))
    }

    async fn connections(&self) -> Vec<ConnectionRow> {
        self.ask(Question::Connections).await.unwrap_or_default()
    }

    async fn story(&self, session: String) -> Result<Story, Refusal> {
        self.ask(|to| Question::Story(session, to)).await.unwrap_or_else(|| Err(stopping()))
    }

    async fn act(&self, uid: u32, act: Act) -> Result<Done, Refusal> {
        self.ask(|to| Question::Act(uid, act, to)).await.unwrap_or_else(|| Err(stopping()))
    }

    fn reload(&self) -> impl Future<Output = Result<ReloadReport, String>> + Send {
        let this = self.clone();
        async move { this.ask(Question::Reload).await.unwrap_or_else(|| Err(STOPPING.into())) }
    }
}

fn stopping() -> Refusal {
    Refusal::failed(STOPPING)
}
