//! Words for people.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::colour::Paint;
use crate::event::Event;

/// An event in one line, in columns.
pub(super) fn event(event: &Event, paint: Paint) -> String {
    let Event { ts, event: kind, client, server, .. } = event;
    let id = event.owner().as_ref().map_or_else(String::new, ToString::to_string);
    let ends = match (client, server) {
        (Some(client), Some(server)) => format!("{client} -> {server}"),
        _ => String::new(),
    };
    // Two addresses of IPv4 with their ports; what is longer moves the rest.
    let head = format!(
        "{} {} {} {ends:<46}",
        paint.faint(&ts.to_string()),
        paint.kind(*kind, &format!("{:<13}", name(kind))),
        paint.strong(&format!("{id:<16}")),
    );
    format!("{head}{}", happening(event, paint)).trim_end().to_owned()
}

/// What an event is about, behind the session that it belongs to.
pub(super) fn happening(event: &Event, paint: Paint) -> String {
    let Event {
        v: _,
        ts: _,
        event: _,
        session: _,
        client: _,
        server: _,
        added: _,
        reason,
        pinhole,
        connection,
        by,
        uid,
        note,
        detail,
    } = event;
    let mut s = String::new();
    // Writing to a String does not fail.
    if let Some(p) = pinhole {
        let _ = write!(s, "  {} {} -> {} {}", name(&p.mode), p.initiator, at(p.responder, p.port), name(&p.state));
        if p.expires_in_ms > 0 {
            let _ = write!(s, " {}", milliseconds(p.expires_in_ms));
        }
    }
    if let Some(by) = by {
        let _ = write!(s, " by {}", name(by));
    }
    if let Some(c) = connection {
        let _ = write!(s, "  {} -> {}", c.from, c.to);
        if let (Some(out), Some(back)) = (c.bytes_out, c.bytes_back) {
            let _ = write!(s, " {out} bytes out, {back} bytes back");
        }
        if let Some(duration) = c.duration_ms {
            let _ = write!(s, " in {}", milliseconds(duration));
        }
        match c.dropped {
            Some(true) => s.push_str(" dropped"),
            Some(false) => s.push_str(" passed"),
            None => {}
        }
    }
    if let Some(reason) = reason {
        let _ = write!(s, "  {}", paint.strong(reason.as_str()));
    }
    if let Some(uid) = uid {
        let _ = write!(s, "  user {uid}");
    }
    if let Some(note) = note {
        let _ = write!(s, ": {}", printable(note));
    }
    if let Some(detail) = detail {
        let _ = write!(s, "  ({})", printable(detail));
    }
    s
}

/// The name that a value has in JSON.
pub(super) fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(e) => format!("?{e}"),
    }
}

/// A duration, such as `1m 30s`.
pub(super) fn milliseconds(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// Text from elsewhere without the characters that a terminal or a log reader would act upon.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut s, c| {
        // Control characters, and those that change the direction of what follows.
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            s.extend(c.escape_default());
        } else {
            s.push(c);
        }
        s
    })
}

fn at(ip: std::net::IpAddr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use ftp_helper_common::reason::Reason;

    use super::*;
    use crate::event::{By, Connection, Kind, NegotiatedBy, Pinhole, PinholeState, SessionId};

    fn plain(e: &Event) -> String {
        event(e, Paint::PLAIN)
    }

    fn blank(kind: Kind) -> Event {
        Event {
            v: 1,
            ts: "2026-01-01T00:00:00.000000Z".parse().unwrap(),
            event: kind,
            session: Some(SessionId(0xa1)),
            client: Some("192.0.2.10:40000".parse().unwrap()),
            server: Some("198.51.100.5:21".parse().unwrap()),
            reason: None,
            pinhole: None,
            connection: None,
            added: None,
            by: None,
            uid: None,
            note: None,
            detail: None,
        }
    }

    #[test]
    fn one_line_each() {
        let pinhole = Pinhole {
            mode: NegotiatedBy::Epsv,
            initiator: "2001:db8::1".parse().unwrap(),
            responder: "2001:db8::2".parse().unwrap(),
            port: 50069,
            state: PinholeState::Provisional,
            expires_in_ms: 10_000,
        };
        let opened = Event { pinhole: Some(pinhole), by: Some(By::Kernel), ..blank(Kind::Opened) };
        assert_eq!(
            plain(&opened),
            "2026-01-01T00:00:00.000000Z opened        00000000000000a1 192.0.2.10:40000 -> 198.51.100.5:21             epsv 2001:db8::1 -> [2001:db8::2]:50069 provisional 10s by kernel"
        );
        let added = Event {
            session: None,
            added: Some(SessionId(0x8000_0000_0000_0001)),
            client: None,
            server: None,
            by: Some(By::Operator),
            uid: Some(1000),
            note: Some("ticket\u{1b}[2J".into()),
            ..blank(Kind::Opened)
        };
        assert_eq!(
            plain(&added).split_whitespace().skip(1).collect::<Vec<_>>().join(" "),
            r"opened 8000000000000001 by operator user 1000: ticket\u{1b}[2J"
        );
        let connection = Connection {
            from: "192.0.2.10:5000".parse().unwrap(),
            to: "198.51.100.5:50069".parse().unwrap(),
            bytes_out: Some(0),
            bytes_back: Some(1000),
            duration_ms: Some(1500),
            dropped: None,
        };
        let ended = Event { connection: Some(connection), ..blank(Kind::DataEnd) };
        assert!(
            plain(&ended).ends_with("  192.0.2.10:5000 -> 198.51.100.5:50069 0 bytes out, 1000 bytes back in 1s 500ms")
        );
        let refused = Event {
            reason: Some(Reason::LowPort),
            detail: Some("PORT\r\n\u{1b}[2J\u{202e}".into()),
            ..blank(Kind::Refused)
        };
        assert!(plain(&refused).ends_with(r"  low_port  (PORT\r\n\u{1b}[2J\u{202e})"), "{}", plain(&refused));
    }
}
