//! A timeline as SVG. It is written by an XML writer, which escapes whatever stands in a text or an attribute.

use std::{fmt::Display, io, time::Duration};

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event as Xml},
};

use super::chart::{Chart, Lane, Lasting, Sign, Step, Tone};

/// Colours for light and for dark surroundings.
const STYLE: &str = "
text{font:13px DejaVu Sans,Verdana,sans-serif;fill:#1f2328;text-anchor:middle;paint-order:stroke;stroke:#ffffff;stroke-width:4px;stroke-linejoin:round}
.paper{fill:#ffffff}
.dim,.time{fill:#59636e;font-size:12px}
.time{text-anchor:start;font-family:DejaVu Sans Mono,monospace}
.head{font-weight:bold;font-size:15px}
.lane{stroke:#c4ccd4;stroke-width:2}
.hole{fill:#1a7f37}
.data{fill:#0969da;fill-opacity:.14;stroke:#0969da;stroke-opacity:.55}
.plain{stroke:#59636e;fill:#59636e}
.good{stroke:#1a7f37;fill:#1a7f37}
.bad{stroke:#cf222e;fill:#cf222e}
line.plain,line.good,line.bad,path.plain,path.good,path.bad{stroke-width:2}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3;stroke:#0d1117}
.paper{fill:#0d1117}
.dim,.time{fill:#9198a1}
.lane{stroke:#3d444d}
.hole{fill:#3fb950}
.data{fill:#4493f8;fill-opacity:.2;stroke:#4493f8}
.plain{stroke:#9198a1;fill:#9198a1}
.good{stroke:#3fb950;fill:#3fb950}
.bad{stroke:#f85149;fill:#f85149}
}
";

const WIDTH: u32 = 1080;
const TIME: u32 = 20;
const HEAD: u32 = 112;
const ROW: u32 = 60;
/// What a pause between two steps takes on the paper.
const PAUSE: u32 = 26;
/// From here on it is a pause that is told.
const LONG: Duration = Duration::from_secs(1);
/// Longer texts are cut; the whole event is in the step's title.
const NOTE: usize = 90;

/// Draws a chart.
///
/// # Errors
/// The writer fails, which it does not do in memory.
pub(super) fn svg(chart: &Chart) -> io::Result<String> {
    let rows = rows(chart);
    let height = rows.last().map_or(HEAD, |row| row.y) + ROW;
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    writer.write_event(Xml::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("svg")
        .with_attributes([("xmlns", "http://www.w3.org/2000/svg"), ("role", "img")])
        .with_attribute(("width", text(WIDTH).as_str()))
        .with_attribute(("height", text(height).as_str()))
        .with_attribute(("viewBox", format!("0 0 {WIDTH} {height}").as_str()))
        .write_inner_content(|writer| {
            let mut paper = Paper(writer);
            paper.words("title", &[], &format!("FTP session {}, from {}", chart.session, chart.began))?;
            paper.words("style", &[], STYLE)?;
            paper.shape("rect", &[("class", &"paper"), ("width", &"100%"), ("height", &"100%")])?;
            lanes(&mut paper, chart, height)?;
            spans(&mut paper, chart, &rows)?;
            for (step, row) in chart.steps.iter().zip(&rows) {
                draw_step(&mut paper, step, row)?;
            }
            Ok(())
        })?;
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// Where a step is.
struct Row {
    y: u32,
    /// How long nothing had happened before it, if that was long.
    pause: Option<Duration>,
}

fn rows(chart: &Chart) -> Vec<Row> {
    let mut y = HEAD;
    let mut before = Duration::ZERO;
    let each = |step: &Step| {
        let pause = step.at.checked_sub(before).filter(|p| *p >= LONG);
        before = before.max(step.at);
        y += ROW + if pause.is_some() { PAUSE } else { 0 };
        Row { y, pause }
    };
    // The first row is near the head.
    chart.steps.iter().map(each).map(|row| Row { y: row.y - ROW / 3, ..row }).collect()
}

fn lanes(paper: &mut Paper<'_>, chart: &Chart, height: u32) -> io::Result<()> {
    let known = |address: Option<std::net::SocketAddr>| address.map_or_else(String::new, |a| a.to_string());
    for (lane, name, below) in [
        (Lane::Client, "client", known(chart.client)),
        (Lane::Gateway, "gateway", "ftp-helper".to_owned()),
        (Lane::Server, "server", known(chart.server)),
    ] {
        let x = x(lane);
        paper.words("text", &[("class", &"head"), ("x", &x), ("y", &32)], name)?;
        paper.words("text", &[("class", &"dim"), ("x", &x), ("y", &54)], &below)?;
        paper.line("lane", (x, 70), (x, height - 16))?;
    }
    let session = format!("session {}", chart.session);
    paper.words("text", &[("class", &"time"), ("x", &TIME), ("y", &84)], &session)?;
    paper.words("text", &[("class", &"time"), ("x", &TIME), ("y", &102)], &chart.began)
}

fn spans(paper: &mut Paper<'_>, chart: &Chart, rows: &[Row]) -> io::Result<()> {
    for span in &chart.spans {
        let (Some(from), Some(to)) = (rows.get(span.from), rows.get(span.to)) else { continue };
        let height = to.y.saturating_sub(from.y).max(2);
        let (class, left, width) = match span.kind {
            Lasting::Pinhole => ("hole", x(Lane::Gateway) - 4, 8),
            Lasting::Data => ("data", x(Lane::Client), x(Lane::Server) - x(Lane::Client)),
        };
        let place: [(&str, &dyn Display); 5] =
            [("class", &class), ("x", &left), ("y", &from.y), ("width", &width), ("height", &height)];
        paper.shape("rect", &place)?;
    }
    Ok(())
}

fn draw_step(paper: &mut Paper<'_>, step: &Step, row: &Row) -> io::Result<()> {
    let y = row.y;
    let class = match step.tone {
        Tone::Plain => "plain",
        Tone::Good => "good",
        Tone::Bad => "bad",
    };
    paper.group(&step.kind, |paper| {
        paper.words("title", &[], &step.whole)?;
        if let Some(pause) = row.pause {
            let told = format!("{:.1} s later", pause.as_secs_f64());
            let place: [(&str, &dyn Display); 3] = [("class", &"time"), ("x", &TIME), ("y", &(y - ROW / 2 - 6))];
            paper.words("text", &place, &told)?;
        }
        let at = format!("+{}.{:06} s", step.at.as_secs(), step.at.subsec_micros());
        paper.words("text", &[("class", &"time"), ("x", &TIME), ("y", &(y + 5))], &at)?;
        match step.sign {
            Sign::Across(from, to) => paper.arrow(class, x(from), x(to), y)?,
            Sign::Stopped(from) => {
                paper.arrow(class, x(from), x(Lane::Gateway), y)?;
                paper.cross(class, y)?;
            }
            Sign::Mark if step.tone == Tone::Bad => paper.cross(class, y)?,
            Sign::Mark => {
                let place: [(&str, &dyn Display); 4] =
                    [("class", &class), ("cx", &x(Lane::Gateway)), ("cy", &y), ("r", &6)];
                paper.shape("circle", &place)?;
            }
        }
        // Above the arrow or the mark what it is, below it more.
        paper.words("text", &[("x", &x(Lane::Gateway)), ("y", &(y - 11))], &cut(&step.title))?;
        if step.note.is_empty() {
            return Ok(());
        }
        paper.words("text", &[("class", &"dim"), ("x", &x(Lane::Gateway)), ("y", &(y + 21))], &cut(&step.note))
    })
}

/// The middle of a lane.
fn x(lane: Lane) -> u32 {
    match lane {
        Lane::Client => 270,
        Lane::Gateway => 590,
        Lane::Server => 910,
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= NOTE {
        return text.to_owned();
    }
    text.chars().take(NOTE - 1).chain(['…']).collect()
}

/// A place in the document.
struct Paper<'a>(&'a mut Writer<Vec<u8>>);

/// Attributes with their values.
type Attributes<'a> = [(&'a str, &'a dyn Display)];

impl Paper<'_> {
    /// An element without content.
    fn shape(&mut self, name: &str, attributes: &Attributes<'_>) -> io::Result<()> {
        element(self.0, name, attributes).write_empty().map(drop)
    }

    /// An element with a text.
    fn words(&mut self, name: &str, attributes: &Attributes<'_>, words: &str) -> io::Result<()> {
        let words = allowed(words);
        element(self.0, name, attributes).write_text_content(BytesText::new(&words)).map(drop)
    }

    /// What belongs to one event.
    fn group(&mut self, event: &str, inner: impl FnOnce(&mut Paper<'_>) -> io::Result<()>) -> io::Result<()> {
        element(self.0, "g", &[("data-event", &event)]).write_inner_content(|w| inner(&mut Paper(w))).map(drop)
    }

    fn line(&mut self, class: &str, from: (u32, u32), to: (u32, u32)) -> io::Result<()> {
        let place: [(&str, &dyn Display); 5] =
            [("class", &class), ("x1", &from.0), ("y1", &from.1), ("x2", &to.0), ("y2", &to.1)];
        self.shape("line", &place)
    }

    fn arrow(&mut self, class: &str, from: u32, to: u32, y: u32) -> io::Result<()> {
        self.line(class, (from, y), (to, y))?;
        let back = if from < to { to - 11 } else { to + 11 };
        let head = format!("M{to} {y}L{back} {}L{back} {}Z", y - 5, y + 5);
        self.shape("path", &[("class", &class), ("d", &head)])
    }

    /// A cross at the gateway.
    fn cross(&mut self, class: &str, y: u32) -> io::Result<()> {
        let x = x(Lane::Gateway);
        let strokes = format!("M{} {}L{} {}M{} {}L{} {}", x - 7, y - 7, x + 7, y + 7, x - 7, y + 7, x + 7, y - 7);
        self.shape("path", &[("class", &class), ("d", &strokes), ("stroke-width", &3)])
    }
}

fn element<'a>(
    writer: &'a mut Writer<Vec<u8>>,
    name: &str,
    attributes: &Attributes<'_>,
) -> quick_xml::writer::ElementWriter<'a, Vec<u8>> {
    let mut element = writer.create_element(name.to_owned());
    for (name, value) in attributes {
        element = element.with_attribute((*name, text(value).as_str()));
    }
    element
}

fn text(value: impl Display) -> String {
    allowed(&value.to_string())
}

/// What XML 1.0 (section 2.2) has as a character: the rest can't be written, not even escaped.
fn allowed(text: &str) -> String {
    let is_char = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|c| if is_char(c) { c } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_characters_of_xml_are_written() {
        assert_eq!(
            allowed("a\u{0}b\u{1b}\u{ffff}\u{fffe}\u{1f600}\n"),
            "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}\u{1f600}\n"
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"ä".repeat(200));
        assert_eq!((long.chars().count(), long.ends_with('…')), (NOTE, true));
    }
}
