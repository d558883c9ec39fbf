//! The comparison as a picture: for each row a panel, for each peer its median against plain forwarding, with its quartiles.

use std::fmt::Write as _;

use crate::{
    ground::Peer,
    report::{Figures, Kind},
};

const WIDTH: f64 = 900.0;
/// Where the scale begins and ends.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 860.0;
const LINE: f64 = 18.0;

/// SVG 1.1.
pub(crate) fn svg(figures: &Figures, title: &str) -> String {
    let peers: Vec<Peer> = figures.peers().into_iter().filter(|p| *p != Peer::Plain).collect();
    let panel = LINE * (peers.len() as f64 + 2.5);
    let top = LINE * (peers.len() as f64 + 3.0);
    let height = top + panel * figures.rows().count() as f64;
    let mut out = String::new();
    push(
        &mut out,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">"#
        ),
    );
    push(&mut out, format_args!(r#"<rect width="{WIDTH}" height="{height}" fill="white"/>"#));
    push(&mut out, format_args!(r#"<text x="10" y="20" font-size="15">{}</text>"#, escape(title)));
    for (i, peer) in peers.iter().enumerate() {
        let y = LINE * (i as f64 + 2.2);
        push(
            &mut out,
            format_args!(r#"<text x="10" y="{y}" fill="{}">{}: {}</text>"#, color(*peer), peer.letter(), peer.name()),
        );
    }
    for (i, (n, row)) in figures.rows().enumerate() {
        let extra = matches!(row.kind, Kind::Extra(_));
        let y = top + panel * i as f64;
        let base = if extra { 0.0 } else { 1.0 };
        let spreads: Vec<_> = peers.iter().map(|p| (*p, figures.against(n, *p, Peer::Plain))).collect();
        let all = || spreads.iter().flat_map(|(_, s)| *s).filter(|x| x.is_finite()).chain([base]);
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        let margin = ((high - low) * 0.08).max(1e-3);
        let (low, high) = (low - margin, high + margin);
        let x = |value: f64| LEFT + (value - low) / (high - low) * (RIGHT - LEFT);
        let against = if extra { "on top of a, ns" } else { "against a" };
        push(
            &mut out,
            format_args!(r#"<text x="10" y="{y}" font-weight="bold">{} ({against})</text>"#, escape(row.what)),
        );
        let (zero, from, to) = (x(base), y + 6.0, y + LINE * (peers.len() as f64 + 0.6));
        push(
            &mut out,
            format_args!(
                r#"<line x1="{zero:.1}" y1="{from:.1}" x2="{zero:.1}" y2="{to:.1}" stroke="black" stroke-dasharray="3 3"/>"#
            ),
        );
        for (i, (peer, [q1, median, q3])) in spreads.iter().enumerate() {
            if !median.is_finite() {
                continue;
            }
            let y = y + LINE * (i as f64 + 1.0);
            let c = color(*peer);
            push(&mut out, format_args!(r#"<text x="40" y="{:.1}" fill="{c}">{}</text>"#, y + 4.0, peer.letter()));
            push(
                &mut out,
                format_args!(
                    r#"<line x1="{:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="{c}" stroke-width="3"/>"#,
                    x(*q1),
                    x(*q3)
                ),
            );
            push(&mut out, format_args!(r#"<circle cx="{:.1}" cy="{y:.1}" r="4.5" fill="{c}"/>"#, x(*median)));
            let label = if extra { format!("{median:+.0}") } else { format!("{median:.3}") };
            let (at, anchor) = if x(*q3) > RIGHT - 60.0 { (x(*q1) - 8.0, "end") } else { (x(*q3) + 8.0, "start") };
            push(
                &mut out,
                format_args!(
                    r#"<text x="{at:.1}" y="{:.1}" font-size="10" text-anchor="{anchor}">{label}</text>"#,
                    y + 4.0
                ),
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

const fn color(peer: Peer) -> &'static str {
    match peer {
        Peer::Plain | Peer::Again => "#777777",
        Peer::WideOpen => "#b8860b",
        Peer::KernelHelper => "#c0392b",
        Peer::Drop => "#1f6fb4",
        Peer::Mark => "#2e8b57",
        Peer::Shield => "#7d3c98",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ROWS;

    #[test]
    fn every_peer_has_its_dot_in_every_row() {
        let mut figures = Figures::default();
        for row in 0..ROWS.len() {
            for (peer, value) in [(Peer::Plain, 100.0), (Peer::KernelHelper, 130.0), (Peer::Drop, 101.0)] {
                figures.push(row, peer, value);
            }
        }
        let picture = svg(&figures, "a < b");
        assert_eq!(picture.matches("<circle").count(), 2 * ROWS.len());
        assert!(picture.contains("a &lt; b") && !picture.contains("NaN"), "{picture}");
    }
}
