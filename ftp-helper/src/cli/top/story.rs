//! A session's story as lines of text.

use super::{
    super::{colour::Paint, text},
    app::StoryLine,
    theme::Tone,
};
use crate::{
    api::{Speaker, Story},
    event::{Event, Kind},
};

/// The lines of a story: who said what and when, and what came of it.
pub(super) fn lines(story: &Story) -> Vec<StoryLine> {
    let head = &story.head;
    let ended = if head.ended { ", ended" } else { "" };
    let mut lines = vec![StoryLine { text: format!("{} → {}{ended}", head.client, head.server), tone: Tone::Head }];
    if head.forgotten > 0 {
        let text = format!("{} older lines are not kept any more", head.forgotten);
        lines.push(StoryLine { text, tone: Tone::Dim });
    }
    for line in &story.lines {
        let time = line.ts.to_string();
        let time = time.get(11..23).unwrap_or(&time);
        if let Some(said) = &line.text {
            let (who, tone) = match line.from {
                Speaker::Client => ("C>", Tone::Plain),
                Speaker::Server => ("<S", Tone::Plain),
                Speaker::Daemon => ("  ", Tone::Dim),
            };
            let more = if line.long { " …" } else { "" };
            lines.push(StoryLine { text: format!("{time} {who} {}{more}", text::printable(said)), tone });
        }
        if let Some(event) = &line.event {
            lines.push(StoryLine { text: format!("{time}  * {}", happened(event)), tone: tone(event.event) });
        }
    }
    lines
}

/// An event without what the head of the story says already.
fn happened(event: &Event) -> String {
    let what = format!("{} {}", text::name(&event.event), text::happening(event, Paint::PLAIN));
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn tone(kind: Kind) -> Tone {
    match kind {
        Kind::Opened | Kind::Confirmed | Kind::Used => Tone::Good,
        Kind::Refused | Kind::Denied | Kind::Tainted | Kind::Killed => Tone::Bad,
        Kind::Expired | Kind::Revoked | Kind::Opaque => Tone::Warn,
        Kind::SessionStart | Kind::DataEnd | Kind::SessionEnd => Tone::Dim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StoryHead;

    #[test]
    fn a_story_is_told_line_by_line() {
        let head = StoryHead {
            session: "00000000000000a1".into(),
            client: "192.0.2.1:1000".parse().unwrap(),
            server: "198.51.100.1:21".parse().unwrap(),
            ended: true,
            forgotten: 2,
        };
        let line = |from, text: &str| crate::api::StoryLine {
            ts: "2026-01-01T12:34:56.789012Z".parse().unwrap(),
            from,
            text: Some(text.into()),
            long: text.len() > 10,
            event: None,
        };
        let refused = r#"{"v":1,"ts":"2026-01-01T12:34:57.000000Z","event":"refused","session":"00000000000000a1","client":"192.0.2.1:1000","server":"198.51.100.1:21","reason":"low_port"}"#;
        let event = crate::api::StoryLine {
            text: None,
            event: Some(serde_json::from_str(refused).unwrap()),
            ..line(Speaker::Daemon, "")
        };
        let story = Story {
            head,
            lines: vec![line(Speaker::Client, "PASS ***"), line(Speaker::Server, "230 \u{1b}[2J and so on"), event],
        };
        let told: Vec<_> = lines(&story).into_iter().map(|l| l.text).collect();
        assert_eq!(
            told,
            [
                "192.0.2.1:1000 → 198.51.100.1:21, ended",
                "2 older lines are not kept any more",
                "12:34:56.789 C> PASS ***",
                r"12:34:56.789 <S 230 \u{1b}[2J and so on …",
                "12:34:56.789  * refused low_port"
            ]
        );
    }
}
