//! `ftp-helper why`.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use super::{
    output::{Out, OutputArgs},
    target::TargetArgs,
    text,
};
use crate::{
    api::{Asked, PinholeRow, Verdict, Why},
    error::Code,
};

/// Arguments of `why`.
#[derive(clap::Args, Debug)]
pub(super) struct WhyArgs {
    /// Who would connect: an address, or an address and a port
    #[arg(value_name = "SRC", value_parser = source)]
    from: (IpAddr, Option<u16>),

    /// Where to: an address and a port, such as 192.0.2.10:50000 or [2001:db8::10]:50000
    #[arg(value_name = "DST:PORT")]
    to: SocketAddr,

    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Says whether a connection would be let through, and why.
pub(super) fn run(args: WhyArgs) -> anyhow::Result<ExitCode> {
    let (from, from_port) = args.from;
    let why = args.target.connect()?.why(Asked { from, from_port, to: args.to })?;
    let mut out = Out::new(args.output);
    out.value(&why, describe)?;
    out.flush()?;
    Ok(match why.verdict {
        Verdict::Allowed => ExitCode::SUCCESS,
        Verdict::Denied | Verdict::Unmarked => Code::Denied.into(),
    })
}

fn source(value: &str) -> Result<(IpAddr, Option<u16>), String> {
    let address = value.parse::<IpAddr>().map(|ip| (ip, None));
    let with_port = |_| value.parse::<SocketAddr>().map(|a| (a.ip(), Some(a.port())));
    address.or_else(with_port).map_err(|_| "not an address, nor an address and a port".to_owned())
}

/// The answer for people.
fn describe(why: &Why) -> String {
    let Why { asked: Asked { from, from_port, to }, verdict, mode, control_port, guards, near } = why;
    let from = from_port.map_or_else(|| from.to_string(), |port| SocketAddr::new(*from, port).to_string());
    let mut s = format!("{}: {from} -> {to}", text::name(verdict));
    // Writing to a String does not fail.
    if *control_port {
        s.push_str("\nits port is a control port, which is never guarded");
    } else if guards.is_empty() {
        s.push_str("\nno guard covers it");
    }
    for g in guards {
        let _ = write!(s, "\nguard {} ({}) covers it: ", g.guard, text::printable(&g.direction));
        match (&g.reason, &g.range, &g.pinhole) {
            (Some(reason), ..) => s.push_str(&text::printable(reason)),
            (None, Some(range), _) => {
                let _ = write!(s, "an encrypted session opens the range {}", text::printable(range));
            }
            (None, None, Some(row)) => s.push_str(&pinhole(row)),
            (None, None, None) => s.push_str("there is a pinhole for it"),
        }
    }
    for row in near {
        let _ = write!(s, "\nnearest        {}", pinhole(row));
    }
    if *verdict == Verdict::Allowed && guards.iter().any(|g| g.reason.is_some()) {
        let _ = write!(s, "\nmode {} lets it through; drop would deny it", text::printable(mode));
    }
    if *verdict == Verdict::Unmarked {
        s.push_str("\nmode mark lets it through without the mark: the ruleset decides");
    }
    s
}

fn pinhole(row: &PinholeRow) -> String {
    let PinholeRow { session, added, client: _, server: _, inside, uid: _, note: _, pinhole: p } = row;
    let to = SocketAddr::new(p.responder, p.port);
    let inside = inside.map_or_else(String::new, |i| format!(" (inside {i})"));
    let owner = match (session, added) {
        (Some(id), _) => format!("of session {}", text::printable(id)),
        (None, Some(id)) => format!("added by an operator as {}", text::printable(id)),
        (None, None) => "of no session".to_owned(),
    };
    format!(
        "{} {} -> {to}{inside} {}, {} left, {owner}",
        text::name(&p.mode),
        p.initiator,
        text::name(&p.state),
        text::milliseconds(p.expires_in_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Guarded,
        event::{NegotiatedBy, Pinhole, PinholeState},
    };

    #[test]
    fn who_connects_may_have_a_port() {
        assert_eq!(source("192.0.2.1"), Ok(("192.0.2.1".parse().unwrap(), None)));
        assert_eq!(source("[2001:db8::1]:20"), Ok(("2001:db8::1".parse().unwrap(), Some(20))));
        assert!(source("ftp.example").is_err());
    }

    #[test]
    fn the_answer_names_guard_reason_and_near_miss() {
        let row = PinholeRow {
            session: Some("00000000000000a1".into()),
            added: None,
            client: Some("192.0.2.10:40000".parse().unwrap()),
            server: Some("198.51.100.5:21".parse().unwrap()),
            inside: None,
            uid: None,
            note: None,
            pinhole: Pinhole {
                mode: NegotiatedBy::Epsv,
                initiator: "192.0.2.10".parse().unwrap(),
                responder: "198.51.100.5".parse().unwrap(),
                port: 50069,
                state: PinholeState::Confirmed,
                expires_in_ms: 9000,
            },
        };
        let guarded = |reason: Option<&str>, pinhole| Guarded {
            guard: 1,
            direction: "in".into(),
            reason: reason.map(ToOwned::to_owned),
            range: None,
            pinhole,
        };
        let mut why = Why {
            asked: Asked {
                from: "192.0.2.10".parse().unwrap(),
                from_port: None,
                to: "198.51.100.5:50070".parse().unwrap(),
            },
            verdict: Verdict::Denied,
            mode: "drop".into(),
            control_port: false,
            guards: vec![guarded(Some("no_pinhole"), None)],
            near: vec![row.clone()],
        };
        const ROW: &str = "epsv 192.0.2.10 -> 198.51.100.5:50069 confirmed, 9s left, of session 00000000000000a1";
        assert_eq!(
            describe(&why),
            format!(
                "denied: 192.0.2.10 -> 198.51.100.5:50070\nguard 1 (in) covers it: no_pinhole\nnearest        {ROW}"
            )
        );
        why.verdict = Verdict::Allowed;
        why.mode = "observe".into();
        assert!(describe(&why).ends_with("mode observe lets it through; drop would deny it"));
        (why.verdict, why.mode) = (Verdict::Unmarked, "mark".into());
        assert!(describe(&why).starts_with("unmarked: 192.0.2.10"));
        assert!(describe(&why).ends_with("\nmode mark lets it through without the mark: the ruleset decides"));
        why.verdict = Verdict::Allowed;
        why.guards = vec![guarded(None, Some(row))];
        why.near.clear();
        assert!(describe(&why).ends_with(&format!("guard 1 (in) covers it: {ROW}")));
        why.guards[0].range = Some("40000-50000".into());
        assert!(describe(&why).ends_with("guard 1 (in) covers it: an encrypted session opens the range 40000-50000"));
        why.guards.clear();
        assert!(describe(&why).ends_with("no guard covers it"));
    }
}
