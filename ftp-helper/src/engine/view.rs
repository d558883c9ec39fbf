//! What `sessions` and `pinholes` show.

use std::net::{IpAddr, SocketAddr};

use ftp_helper_common::{
    addr::Addr,
    key::{PinholeKey, SessionKey},
    reason::Reason,
};

use super::{
    Nanos, Order,
    session::{Session, Standing},
};
use crate::event::Pinhole;

/// A session, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionView {
    /// Its id.
    pub id: u64,
    /// The client.
    pub client: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// The address that the end inside has there, where that is another.
    pub inside: Option<IpAddr>,
    /// What it is doing.
    pub state: Visible,
    /// Whether the kernel has lost sight of the dialogue, and the daemon reads alone.
    pub blind: bool,
    /// Whether the client is logged in.
    pub logged_in: bool,
    /// When it began.
    pub started: Nanos,
    /// When something was last heard of it.
    pub last: Nanos,
    /// Its unconsumed pinhole; times are as of [`SessionView::last`].
    pub pinhole: Option<Pinhole>,
    /// Data connections that are running.
    pub running: u32,
    /// Data connections that have ended.
    pub transfers: u64,
    /// Payload bytes of ended data connections, those of their initiators and of their responders.
    pub bytes: [u64; 2],
}

/// What a session is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Visible {
    /// The greeting is awaited.
    Greeting,
    /// The client is not logged in.
    Login,
    /// It may open pinholes.
    Ready,
    /// It may open nothing any more.
    Tainted(Reason),
    /// And its control packets are dropped.
    Killed(Reason),
    /// It is encrypted.
    Opaque(Reason),
    /// The control connection is ending.
    Closing,
}

impl Visible {
    /// The name in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Login => "login",
            Self::Ready => "ready",
            Self::Tainted(_) => "tainted",
            Self::Killed(_) => "killed",
            Self::Opaque(_) => "opaque",
            Self::Closing => "closing",
        }
    }

    /// Why it may open nothing.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Tainted(r) | Self::Killed(r) | Self::Opaque(r) => Some(r),
            Self::Greeting | Self::Login | Self::Ready | Self::Closing => None,
        }
    }
}

/// An unconsumed pinhole and its session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinholeView {
    /// The session's id, or its own where an operator has added it.
    pub owner: u64,
    /// The control connection's client and server; `None` where it belongs to no session.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The address that the end inside has there, where that is another.
    pub inside: Option<IpAddr>,
    /// The kernel's key of it.
    pub key: PinholeKey,
    /// Who has added it, where an operator has, and that is known.
    pub order: Option<Order>,
    /// The pinhole.
    pub pinhole: Pinhole,
}

impl Session {
    /// As `sessions` shows it.
    pub(super) fn view(&self) -> SessionView {
        let (client, server) = ends(&self.key);
        let state = match self.standing {
            Standing::Tainted(r) => Visible::Tainted(r),
            Standing::Killed(r) => Visible::Killed(r),
            Standing::Opaque(r) => Visible::Opaque(r),
            Standing::Good if self.is_closing() => Visible::Closing,
            Standing::Good if !self.dialogue.greeted() => Visible::Greeting,
            Standing::Good if !self.dialogue.logged_in() => Visible::Login,
            Standing::Good => Visible::Ready,
        };
        SessionView {
            id: self.id,
            client,
            server,
            inside: self.inside.map(|a| a.to_ip()),
            state,
            blind: self.kernel.is_blind(),
            logged_in: self.dialogue.logged_in(),
            started: self.started,
            last: self.last,
            pinhole: self.pinhole.map(|p| p.show(self.last)),
            running: self.running,
            transfers: self.transfers,
            bytes: self.bytes,
        }
    }

    /// Its unconsumed pinhole, as `pinholes` shows it.
    pub(super) fn pinhole_view(&self, now: Nanos) -> Option<PinholeView> {
        let (client, server) = ends(&self.key);
        let inside = self.inside.map(|a| a.to_ip());
        self.pinhole.map(|p| PinholeView {
            owner: self.id,
            ends: Some((client, server)),
            inside,
            key: p.key,
            order: None,
            pinhole: p.show(now),
        })
    }
}

/// An address and a port.
pub(super) fn socket(addr: Addr, port: u16) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port)
}

/// Both ends of a control connection.
pub(super) fn ends(key: &SessionKey) -> (SocketAddr, SocketAddr) {
    (socket(key.client, key.client_port), socket(key.server, key.server_port))
}
