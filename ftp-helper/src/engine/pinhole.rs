//! A pinhole, and whether the policy allows it.

use ftp_helper_common::{
    addr::Addr,
    canon::pinhole_key,
    key::{HOOK_IN, PinholeKey, SessionKey},
    reason::Reason,
    state::{pending, pinhole_flag},
};

use super::{
    Nanos,
    dialogue::{ActiveAt, Announcement},
    policy::{ActiveOpen, Policy, SourcePort},
};
use crate::event::{self, NegotiatedBy};

/// A permission that nobody has used yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pinhole {
    /// What it allows.
    pub(super) key: PinholeKey,
    /// When it is gone.
    pub(super) deadline: Nanos,
    /// The announcement's sequence number, as kernel and engine call it.
    pub(super) seq: u32,
    /// Sequence number of the line that opened it.
    pub(super) line: u32,
    /// `pending::PASV`, `EPSV`, `PORT` or `EPRT`.
    pub(super) kind: u8,
    /// How far it is.
    pub(super) stage: Stage,
}

/// How far a pinhole is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The kernel opened it, and was asked whether it is still there.
    Provisional,
    /// It stood in the table of a session that was taken over; the kernel was asked whether it is still there.
    Adopted,
    /// The kernel opened it, or is at work on the segment that does; it is asked then.
    Unsettled(Nanos),
    /// The kernel said at `since` that it is not there. If nothing is found by `until` to have used it before `since`, it
    /// is opened again.
    Missing { since: Nanos, until: Nanos },
    /// The kernel was asked to open it.
    Asked,
    /// The kernel has said that it is open.
    Confirmed,
}

impl Pinhole {
    /// When something is to be done about it.
    pub(super) fn due(&self) -> Nanos {
        match self.stage {
            Stage::Missing { until, .. } | Stage::Unsettled(until) => until.min(self.deadline),
            Stage::Provisional | Stage::Adopted | Stage::Asked | Stage::Confirmed => self.deadline,
        }
    }

    /// As events and `pinholes` show it.
    pub(super) fn show(&self, now: Nanos) -> event::Pinhole {
        let state = match self.stage {
            Stage::Provisional | Stage::Adopted | Stage::Unsettled(_) | Stage::Missing { .. } | Stage::Asked => {
                event::PinholeState::Provisional
            }
            Stage::Confirmed => event::PinholeState::Confirmed,
        };
        show(&self.key, self.kind, state, self.deadline.saturating_sub(now))
    }
}

/// A pinhole as events show it.
pub(super) fn show(key: &PinholeKey, kind: u8, state: event::PinholeState, left: Nanos) -> event::Pinhole {
    event::Pinhole {
        mode: mode(kind),
        initiator: key.initiator.to_ip(),
        responder: key.responder.to_ip(),
        port: key.port,
        state,
        expires_in_ms: left / 1_000_000,
    }
}

/// The name of a way to negotiate, a `state::pending`.
pub fn mode(kind: u8) -> NegotiatedBy {
    match kind {
        pending::PASV => NegotiatedBy::Pasv,
        pending::EPSV => NegotiatedBy::Epsv,
        pending::PORT => NegotiatedBy::Port,
        pending::RANGE => NegotiatedBy::Range,
        pending::ADDED => NegotiatedBy::Added,
        _ => NegotiatedBy::Eprt,
    }
}

/// When PORT and EPRT open in a session whose client's packets pass `client_hook`. Towards inside never before the
/// server's reply.
pub(super) fn active_at(policy: &Policy, client_hook: u8) -> ActiveAt {
    match policy.active_open {
        ActiveOpen::Transfer => ActiveAt::Transfer,
        ActiveOpen::Auto | ActiveOpen::Command if client_hook == HOOK_IN => ActiveAt::Command,
        _ => ActiveAt::Reply,
    }
}

/// How long a pinhole lives.
pub(super) fn timeout(policy: &Policy) -> Nanos {
    Nanos::try_from(policy.pinhole_timeout.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Flags of the pinholes of a mode.
pub(super) fn flags(policy: &Policy, kind: u8) -> u8 {
    let active = kind == pending::PORT || kind == pending::EPRT;
    let source = if active && policy.active_source_port == SourcePort::Twenty { pinhole_flag::SOURCE_20 } else { 0 };
    pinhole_flag::CONFIRMED | source
}

/// Whether the policy allows this endpoint in this session, whatever the dialogue has come to. `inside` is the address
/// that the end inside has there, if that is another.
///
/// # Errors
/// Why not.
pub(super) fn judge(
    policy: &Policy,
    key: &SessionKey,
    client_hook: u8,
    inside: Option<Addr>,
    a: &Announcement,
) -> Result<(), Reason> {
    let pinhole = pinhole_key(key, client_hook, a.kind, a.port);
    if !policy.modes.allows(a.kind) {
        return Err(Reason::ModeDisabled);
    }
    // Who waits for a connection that comes in is the end inside.
    let as_inside =
        pinhole.hook == HOOK_IN && a.addr.is_some() && a.addr == inside && inside != Some(pinhole.responder);
    if let Some(addr) = a.addr
        && addr != pinhole.responder
        && !as_inside
    {
        let alike = addr.is_v4() == pinhole.responder.is_v4();
        return Err(if alike { Reason::ThirdHost } else { Reason::AddressFamily });
    }
    if a.port < 1024 {
        return Err(if policy.control_ports.contains(&a.port) { Reason::ControlPort } else { Reason::LowPort });
    }
    if policy.control_ports.contains(&a.port) || a.port == key.server_port {
        return Err(Reason::ControlPort);
    }
    if policy.deny_ports.contains(&a.port) {
        return Err(Reason::DeniedPort);
    }
    if as_inside {
        // The kernel side leaves such ports as they are, too: what is wrong with them is told first.
        return Err(Reason::NotRewritten);
    }
    if a.kind == pending::PASV || a.kind == pending::EPSV {
        match policy.passive_range(key.server) {
            Some(range) if !range.contains(&a.port) => Err(Reason::OutsideRange),
            _ => Ok(()),
        }
    } else if client_hook != HOOK_IN && !policy.active_inbound {
        Err(Reason::ActiveInboundOff)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ftp_helper_common::key::HOOK_OUT;

    use super::*;
    use crate::engine::policy::{Modes, Server};

    fn addr(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn every_reason_of_the_policy() {
        let key = SessionKey {
            client: addr("192.0.2.10"),
            server: addr("198.51.100.5"),
            client_port: 4000,
            server_port: 2121,
        };
        let policy = Policy {
            deny_ports: [3306].into(),
            control_ports: [21, 2121, 8021].into(),
            servers: vec![Server {
                networks: vec!["198.51.100.0/24".parse().unwrap()],
                passive_ports: Some(40000..=50000),
                opaque: Default::default(),
            }],
            ..Policy::default()
        };
        let own = |kind| if kind == pending::PASV || kind == pending::EPSV { key.server } else { key.client };
        let check = |policy: &Policy, hook, kind, host: Option<Addr>, port| {
            judge(policy, &key, hook, None, &Announcement { kind, addr: host, port, side: 0, seq: 0 })
        };
        for kind in [pending::PASV, pending::PORT, pending::EPRT] {
            let me = Some(own(kind));
            let active = kind != pending::PASV;
            assert_eq!(check(&policy, HOOK_IN, kind, me, 45000), Ok(()));
            for host in ["203.0.113.66", "0.0.0.0", "255.255.255.255", "127.0.0.1", "224.0.0.1"] {
                assert_eq!(check(&policy, HOOK_IN, kind, Some(addr(host)), 45000), Err(Reason::ThirdHost));
            }
            assert_eq!(check(&policy, HOOK_IN, kind, Some(addr("::1")), 45000), Err(Reason::AddressFamily));
            for (port, reason) in [
                (0, Reason::LowPort),
                (22, Reason::LowPort),
                (21, Reason::ControlPort),
                (1023, Reason::LowPort),
                (2121, Reason::ControlPort),
                (8021, Reason::ControlPort),
                (3306, Reason::DeniedPort),
            ] {
                assert_eq!(check(&policy, HOOK_IN, kind, me, port), Err(reason), "{port}");
            }
            for port in [1024, 39999, 50001, 65535] {
                let verdict = if active { Ok(()) } else { Err(Reason::OutsideRange) };
                assert_eq!(check(&policy, HOOK_IN, kind, me, port), verdict);
            }
            let verdict = if active { Err(Reason::ActiveInboundOff) } else { Ok(()) };
            assert_eq!(check(&policy, HOOK_OUT, kind, me, 45000), verdict);
            let none = Policy { modes: Modes::NONE, ..policy.clone() };
            assert_eq!(check(&none, HOOK_IN, kind, me, 45000), Err(Reason::ModeDisabled));
        }
    }

    #[test]
    fn an_inside_address_that_was_not_rewritten_is_told_from_a_third_host() {
        let key =
            SessionKey { client: addr("192.0.2.10"), server: addr("198.51.100.5"), client_port: 4000, server_port: 21 };
        let policy = Policy { active_inbound: true, ..Policy::default() };
        let inside = addr("10.0.0.5");
        let check = |hook, kind, named, inside| {
            judge(&policy, &key, hook, inside, &Announcement { kind, addr: Some(named), port: 45000, side: 0, seq: 0 })
        };
        // The end inside is the server, or the client; the other one knows nothing of that address.
        for (hook, own, other) in [(HOOK_IN, pending::PASV, pending::PORT), (HOOK_OUT, pending::PORT, pending::PASV)] {
            assert_eq!(check(hook, own, inside, Some(inside)), Err(Reason::NotRewritten));
            assert_eq!(check(hook, other, inside, Some(inside)), Err(Reason::ThirdHost));
            assert_eq!(check(hook, own, addr("10.0.0.6"), Some(inside)), Err(Reason::ThirdHost));
            assert_eq!(check(hook, own, inside, None), Err(Reason::ThirdHost));
            let public = if hook == HOOK_IN { key.server } else { key.client };
            assert_eq!(check(hook, own, public, Some(inside)), Ok(()));
        }
    }

    #[test]
    fn inward_never_before_the_reply() {
        for open in [ActiveOpen::Auto, ActiveOpen::Command, ActiveOpen::Reply, ActiveOpen::Transfer] {
            let policy = Policy { active_open: open, ..Policy::default() };
            assert_ne!(active_at(&policy, HOOK_OUT), ActiveAt::Command);
        }
        assert_eq!(active_at(&Policy::default(), HOOK_IN), ActiveAt::Command);
    }
}
