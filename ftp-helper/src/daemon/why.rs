//! Whether a connection would be let through now, by what the kernel's guard goes by.

use ftp_helper_common::{
    addr::Addr,
    key::{HOOK_IN, HOOK_OUT, PinholeKey},
    reason::Reason,
    state::pinhole_flag,
};

use super::{clock, core::Daemon, status};
use crate::{
    api::{Asked, Guarded, PinholeRow, Verdict, Why},
    dataplane::{Direction, Guard},
    engine::policy::Mode,
};

/// Near misses that are told at most.
const NEAR: usize = 8;

/// What the guard would make of a first SYN, without sending one.
///
/// # Errors
/// When the kernel's table can't be read.
pub(super) fn why(d: &Daemon, asked: Asked) -> anyhow::Result<Why> {
    let control_port = d.config.watch.control_ports.contains(&asked.to.port());
    let rows = status::pinholes(d);
    let mut guards = Vec::new();
    for (i, guard) in d.guards.iter().enumerate().filter(|(_, g)| !control_port && covers(g, &asked)) {
        let (hook, direction) = match guard.direction {
            Direction::In => (HOOK_IN, "in"),
            Direction::Out => (HOOK_OUT, "out"),
        };
        let reason = refusal(d, &asked, hook, &rows)?;
        let range = if reason.is_some() { range(d, &asked, hook)? } else { None };
        let pinhole = rows.iter().find(|r| is_between(r, &asked) && r.pinhole.port == asked.to.port()).cloned();
        guards.push(Guarded {
            guard: i + 1,
            direction: direction.into(),
            reason: reason.filter(|_| range.is_none()).map(|r| r.as_str().to_owned()),
            range,
            pinhole,
        });
    }
    let refused = guards.iter().any(|g| g.reason.is_some());
    let is_near = |r: &&PinholeRow| {
        let (other_port, other_initiator) = (r.pinhole.port != asked.to.port(), r.pinhole.initiator != asked.from);
        r.pinhole.responder == asked.to.ip() && other_port != other_initiator
    };
    let near = rows.iter().filter(|r| refused && is_near(r)).take(NEAR).cloned().collect();
    let mode = d.config.policy.mode;
    let verdict = match mode {
        Mode::Drop if refused => Verdict::Denied,
        Mode::Mark if refused => Verdict::Unmarked,
        _ => Verdict::Allowed,
    };
    Ok(Why { asked, verdict, mode: status::mode_name(mode).into(), control_port, guards, near })
}

fn covers(guard: &Guard, asked: &Asked) -> bool {
    let port = asked.to.port();
    guard.networks.iter().any(|n| n.contains(&asked.to.ip()))
        && guard.initiators.iter().any(|n| n.contains(&asked.from))
        && guard.ports.contains(&port)
        && !guard.except.iter().any(|r| r.contains(&port))
}

fn is_between(row: &PinholeRow, asked: &Asked) -> bool {
    row.pinhole.initiator == asked.from && row.pinhole.responder == asked.to.ip()
}

/// The range that its hosts' encrypted sessions open, if it is in there.
fn range(d: &Daemon, asked: &Asked, hook: u8) -> anyhow::Result<Option<String>> {
    let (policy, port) = (&d.policy, asked.to.port());
    let (initiator, responder) = (Addr::from(asked.from), Addr::from(asked.to.ip()));
    let Some(range) = policy.opaque_range(responder) else { return Ok(None) };
    if !range.contains(&port) || policy.deny_ports.contains(&port) {
        return Ok(None);
    }
    let key = PinholeKey { initiator, responder, port: 0, hook, pad: 0 };
    let is_open = d.plane.ranges()?.iter().any(|(k, state)| *k == key && state.sessions > 0);
    Ok(is_open.then(|| format!("{}-{}", range.start(), range.end())))
}

/// Why the kernel has no pinhole for it, in the order in which the guard looks.
fn refusal(d: &Daemon, asked: &Asked, hook: u8, rows: &[PinholeRow]) -> anyhow::Result<Option<Reason>> {
    let port = asked.to.port();
    let (initiator, responder) = (Addr::from(asked.from), Addr::from(asked.to.ip()));
    let Some(p) = d.plane.pinhole(&PinholeKey { initiator, responder, port, hook, pad: 0 })? else {
        let of_another = rows.iter().any(|r| r.pinhole.responder == asked.to.ip() && r.pinhole.port == port);
        return Ok(Some(if of_another { Reason::OtherInitiator } else { Reason::NoPinhole }));
    };
    Ok(if p.deadline <= clock::now() {
        Some(Reason::Expired)
    } else if p.flags & pinhole_flag::SOURCE_20 != 0 && asked.from_port != Some(20) {
        Some(Reason::SourcePortNot20)
    } else if p.is_bound() && asked.from_port != Some(p.source_port()) {
        Some(Reason::OtherSourcePort)
    } else {
        None
    })
}
