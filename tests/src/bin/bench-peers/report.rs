//! What was measured: by row and by peer, one figure a round; what is made of it, and what it was to be.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::{Value, json};

use crate::ground::Peer;

/// What a row's figures are held against.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Kind {
    /// More is better: the ratio to plain forwarding is at least this.
    AtLeast(f64),
    /// Less is better: the ratio to plain forwarding is at most this.
    AtMost(f64),
    /// What is on top of plain forwarding is at most this part of what the kernel's helper has on top.
    Extra(f64),
}

/// A row of the comparison.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) kind: Kind,
    /// Whether it is an announcement, which is to cost less beside a ruleset than with the kernel's helper.
    pub(crate) announcement: bool,
}

const fn row(what: &'static str, unit: &'static str, kind: Kind) -> Row {
    Row { what, unit, kind, announcement: false }
}

/// All rows, in the order of the indices below.
pub(crate) const ROWS: [Row; 10] = [
    row("MTU-sized TCP through the gateway", "MB/s", Kind::AtLeast(0.97)),
    row("small transfers, 1 at once", "1/s", Kind::AtLeast(0.97)),
    row("small transfers, 16 at once", "1/s", Kind::AtLeast(0.97)),
    row("small transfers, 64 at once", "1/s", Kind::AtLeast(0.97)),
    row("connect after the 229, median", "µs", Kind::AtMost(1.03)),
    row("connect after the 229, 99 %", "µs", Kind::AtMost(1.10)),
    row("established data packet", "ns", Kind::Extra(0.15)),
    row("control line", "ns", Kind::Extra(0.4)),
    Row { announcement: true, ..row("227", "ns", Kind::Extra(0.4)) },
    Row { announcement: true, ..row("229", "ns", Kind::Extra(0.4)) },
];
pub(crate) const THROUGHPUT: usize = 0;
pub(crate) const SMALL: [usize; 3] = [1, 2, 3];
pub(crate) const CONNECT: [usize; 2] = [4, 5];
pub(crate) const PACKETS: [usize; 4] = [6, 7, 8, 9];

/// Whether a target was met, and what it was.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Verdict {
    pub(crate) text: String,
    pub(crate) met: bool,
}

/// A figure that has no round.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) peer: Option<Peer>,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) verdict: Option<Verdict>,
}

/// Lower quartile, median, upper quartile.
pub(crate) type Spread = [f64; 3];

/// All figures.
#[derive(Default)]
pub(crate) struct Figures {
    rounds: BTreeMap<(usize, Peer), Vec<f64>>,
    pub(crate) single: Vec<Figure>,
    /// What was measured again, and why.
    pub(crate) repeated: Vec<String>,
}

impl Figures {
    /// One more round of a row.
    pub(crate) fn push(&mut self, row: usize, peer: Peer, value: f64) {
        self.rounds.entry((row, peer)).or_default().push(value);
    }

    /// One that has no round; with a limit, which is the most it may be.
    pub(crate) fn single(&mut self, what: &str, peer: Option<Peer>, value: f64, unit: &'static str, most: Option<f64>) {
        let verdict =
            most.map(|m| Verdict { text: format!("at most {m} {unit}").trim_end().to_owned(), met: value <= m });
        self.single.push(Figure { what: what.to_owned(), peer, value, unit, verdict });
    }

    /// Those that were measured.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        Peer::ALL.into_iter().filter(|p| self.rounds.keys().any(|(_, q)| p == q)).collect()
    }

    /// The rows that were measured, each with its place in [`ROWS`].
    pub(crate) fn rows(&self) -> impl Iterator<Item = (usize, &'static Row)> {
        ROWS.iter().enumerate().filter(|(n, _)| self.rounds.keys().any(|(row, _)| row == n))
    }

    fn of(&self, row: usize, peer: Peer) -> &[f64] {
        self.rounds.get(&(row, peer)).map_or(&[], Vec::as_slice)
    }

    /// The figures themselves.
    pub(crate) fn value(&self, row: usize, peer: Peer) -> Spread {
        spread(self.of(row, peer).to_vec())
    }

    /// Each round's figure against another peer's of that round: their ratio, or for [`Kind::Extra`] their difference.
    pub(crate) fn against(&self, row: usize, peer: Peer, base: Peer) -> Spread {
        let difference = matches!(ROWS[row].kind, Kind::Extra(_));
        let pairs = self.of(row, peer).iter().zip(self.of(row, base));
        spread(pairs.map(|(x, b)| if difference { x - b } else { x / b }).collect())
    }

    /// What a row's target says of a peer of ours.
    pub(crate) fn verdict(&self, row: usize, peer: Peer) -> Option<Verdict> {
        let base = if peer == Peer::Mark { Peer::WideOpen } else { Peer::Plain };
        let [_, median, _] = self.against(row, peer, base);
        let over = base.letter();
        match (ROWS[row].kind, peer) {
            (_, p) if !p.is_ours() => None,
            (Kind::AtLeast(least), _) => {
                Some(Verdict { text: format!("at least {least} of {over}"), met: median >= least })
            }
            (Kind::AtMost(_), Peer::Mark) => {
                // As fast as the other is at least this part of its speed.
                let most = 1.0 / 0.97;
                Some(Verdict { text: format!("at most {most:.2} of {over}"), met: median <= most })
            }
            (Kind::AtMost(most), _) => Some(Verdict { text: format!("at most {most} of {over}"), met: median <= most }),
            (Kind::Extra(_), Peer::Mark) => ROWS[row].announcement.then(|| {
                let [[_, ours, _], [_, theirs, _]] =
                    [peer, Peer::KernelHelper].map(|p| self.against(row, p, Peer::Plain));
                Verdict { text: format!("less than c's +{theirs:.0}"), met: ours < theirs }
            }),
            (Kind::Extra(part), _) => {
                let [_, theirs, _] = self.against(row, Peer::KernelHelper, Peer::Plain);
                let most = part * theirs;
                Some(Verdict { text: format!("at most +{most:.0}: {part} of c's"), met: median <= most })
            }
        }
    }

    /// What has no figure: nothing but the rows of `without`, or the run has not done what it is for.
    pub(crate) fn missing(&self, peers: &[Peer], without: &[usize]) -> Vec<String> {
        let mut missing = Vec::new();
        for (n, row) in ROWS.iter().enumerate().filter(|(n, _)| !without.contains(n)) {
            for peer in peers {
                let [_, median, _] = self.value(n, *peer);
                // What a packet takes may not be less than nothing, nor may anything else.
                if !(median.is_finite() && median > 0.0) {
                    missing.push(format!("{}, {}", row.what, peer.letter()));
                }
            }
        }
        missing.extend(self.single.iter().filter(|f| !f.value.is_finite()).map(|f| f.what.clone()));
        missing
    }

    /// The comparison, one row a peer.
    pub(crate) fn comparison(&self) -> Table {
        let mut table = table(&["", "", "median", "unit", "against a", "quartiles", "against b", "target", ""], 2..5);
        for (n, row) in self.rows() {
            for (i, peer) in self.peers().into_iter().enumerate() {
                let [_, value, _] = self.value(n, peer);
                let [low, median, high] = self.against(n, peer, Peer::Plain);
                let [_, over, _] = self.against(n, peer, Peer::WideOpen);
                let show = |x: f64| {
                    if matches!(row.kind, Kind::Extra(_)) { format!("{x:+.0}") } else { format!("{x:.3}") }
                };
                let base = peer == Peer::Plain;
                let verdict = self.verdict(n, peer);
                table.add_row([
                    if i == 0 { row.what } else { "" }.to_owned(),
                    peer.letter().to_owned(),
                    digits(value),
                    row.unit.to_owned(),
                    if base { String::new() } else { show(median) },
                    if base { String::new() } else { format!("{} to {}", show(low), show(high)) },
                    if matches!(peer, Peer::Mark) { show(over) } else { String::new() },
                    verdict.as_ref().map_or_else(String::new, |v| v.text.clone()),
                    met(verdict.as_ref()).to_owned(),
                ]);
            }
        }
        table
    }

    /// The others.
    pub(crate) fn singles(&self) -> Table {
        let mut table = table(&["", "", "", "unit", "target", ""], 2..3);
        for f in &self.single {
            table.add_row([
                f.what.clone(),
                f.peer.map_or("", Peer::letter).to_owned(),
                digits(f.value),
                f.unit.to_owned(),
                f.verdict.as_ref().map_or_else(String::new, |v| v.text.clone()),
                met(f.verdict.as_ref()).to_owned(),
            ]);
        }
        table
    }

    /// All of it.
    pub(crate) fn json(&self) -> Value {
        let spread =
            |[low, median, high]: Spread| json!({ "lower_quartile": low, "median": median, "upper_quartile": high });
        let verdict = |v: Option<&Verdict>| v.map(|v| json!({ "target": v.text, "met": v.met }));
        let rows: Vec<Value> = self
            .rows()
            .flat_map(|(n, row)| {
                self.peers().into_iter().map(move |peer| {
                    json!({
                        "what": row.what, "peer": peer.letter(), "unit": row.unit,
                        "value": spread(self.value(n, peer)),
                        "against_a": spread(self.against(n, peer, Peer::Plain)),
                        "against_b": spread(self.against(n, peer, Peer::WideOpen)),
                        "against_is": if matches!(row.kind, Kind::Extra(_)) { "difference" } else { "ratio" },
                        "rounds": self.of(n, peer),
                        "verdict": verdict(self.verdict(n, peer).as_ref()),
                    })
                })
            })
            .collect();
        let single: Vec<Value> = self
            .single
            .iter()
            .map(|f| {
                json!({
                    "what": f.what, "peer": f.peer.map(Peer::letter), "value": f.value, "unit": f.unit,
                    "verdict": verdict(f.verdict.as_ref()),
                })
            })
            .collect();
        json!({ "rows": rows, "figures": single, "repeated": self.repeated })
    }
}

fn table(header: &[&str], right: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(right.start).take(right.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn met(verdict: Option<&Verdict>) -> &'static str {
    match verdict {
        None => "",
        Some(v) if v.met => "met",
        Some(_) => "MISSED",
    }
}

/// Three digits that count, or the whole number.
fn digits(x: f64) -> String {
    let places = match x.abs() {
        0.0 => 0,
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 1.0 => 2,
        _ => 3,
    };
    format!("{x:.places$}")
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| match values.len() {
        0 => f64::NAN,
        n => {
            let place = part * (n - 1) as f64;
            let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
            low + (high - low) * place.fract()
        }
    };
    [at(0.25), at(0.5), at(0.75)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_values() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0, 5.0, 4.0]), [2.0, 3.0, 4.0]);
        assert_eq!(spread(vec![1.0, 2.0]), [1.25, 1.5, 1.75]);
        assert!(spread(vec![])[1].is_nan());
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        let mut figures = Figures::default();
        for (a, c, d) in [(100.0, 1100.0, 150.0), (200.0, 1200.0, 260.0), (1000.0, 2000.0, 1040.0)] {
            for (peer, value) in [(Peer::Plain, a), (Peer::KernelHelper, c), (Peer::Drop, d)] {
                figures.push(PACKETS[0], peer, value);
                figures.push(THROUGHPUT, peer, value);
            }
        }
        assert_eq!(figures.against(PACKETS[0], Peer::Drop, Peer::Plain)[1], 50.0);
        assert_eq!(figures.against(THROUGHPUT, Peer::Drop, Peer::Plain)[1], 1.3);
        // 50 of at most 0.15 of 1000.
        assert!(figures.verdict(PACKETS[0], Peer::Drop).is_some_and(|v| v.met));
        assert_eq!(figures.verdict(PACKETS[0], Peer::KernelHelper), None);
    }

    #[test]
    fn what_has_no_figure_is_named() {
        let mut figures = Figures::default();
        assert_eq!(figures.missing(&[Peer::Plain], &[]).len(), ROWS.len());
        assert_eq!(figures.missing(&[Peer::Plain], &PACKETS).len(), ROWS.len() - PACKETS.len());
        for row in 0..ROWS.len() {
            figures.push(row, Peer::Plain, 1.0);
        }
        assert_eq!(figures.rows().count(), ROWS.len());
        figures.single("x", None, f64::NAN, "", None);
        assert_eq!(figures.missing(&[Peer::Plain], &[]), ["x"]);
    }

    #[test]
    fn digits_that_count() {
        assert_eq!([0.0, 0.0123, 1.234, 12.34, 1234.5].map(digits), ["0", "0.012", "1.23", "12.3", "1234"]);
    }
}
