//! What is chosen, ordered, filtered and open, and what a key changes about it. It neither draws nor asks: what it wants
//! done comes out as a [`Wish`].

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    known::{Fetched, Known, Moment},
    panes::Pane,
    theme::Tone,
};
use crate::{api::PinholeRow, event::Event};

/// Events that are kept while the view is paused.
const HELD: usize = 4096;
/// How long a message stays.
const MESSAGE: Moment = Moment::from_secs(6);
/// A reason holds this many characters at most.
const REASON: usize = 120;

/// Something that others have to do.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Wish {
    /// End the program.
    Quit,
    /// Ask for a session's story.
    Story(String),
    /// Take a pinhole back.
    Revoke(Box<PinholeRow>, String),
    /// Kill a session.
    Kill(String, String),
}

/// What lies over the panes.
#[derive(Clone, Debug, Default)]
pub(super) enum Overlay {
    /// Nothing.
    #[default]
    None,
    /// The filter is being typed; what it was before.
    Filter(String),
    /// The keys.
    Help,
    /// A session's story.
    Story(StoryView),
    /// A question before something is done.
    Confirm(Confirm),
}

/// A session's story.
#[derive(Clone, Debug)]
pub(super) struct StoryView {
    /// The session.
    pub(super) session: String,
    /// Its lines; nothing until they have come.
    pub(super) lines: Option<Vec<StoryLine>>,
    /// How many rows of the screen the lines take; as of the last drawing, as all that follows.
    pub(super) rows: usize,
    /// The first row on the screen.
    pub(super) offset: usize,
    /// How many rows the screen holds.
    pub(super) page: usize,
}

/// A line of a story.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoryLine {
    /// The text.
    pub(super) text: String,
    /// What it is.
    pub(super) tone: Tone,
}

/// A question before something is done.
#[derive(Clone, Debug)]
pub(super) struct Confirm {
    /// What is to be done.
    pub(super) deed: Deed,
    /// Why, as far as it is typed.
    pub(super) reason: String,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// Take a pinhole back.
    Revoke(Box<PinholeRow>),
    /// Kill a session: its id, and its two ends for people.
    Kill(String, String),
}

/// A pane's rows: which, in which order, and which of them is chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct List {
    /// Only rows with this text.
    pub(super) filter: String,
    /// The column by which they are ordered.
    pub(super) column: usize,
    /// Whether the largest comes first.
    pub(super) descending: bool,
    /// Their numbers among all rows.
    pub(super) order: Vec<usize>,
    /// Which is chosen, by its place in `order`.
    pub(super) chosen: usize,
    /// What tells the chosen row from the others.
    key: Option<String>,
    /// The first row on the screen.
    pub(super) offset: usize,
    /// How many rows the screen holds.
    pub(super) page: usize,
}

/// Whether the daemon answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// It does.
    Up,
    /// It does not, since then; why.
    Down(Moment, String),
}

/// The state of the view.
#[derive(Debug)]
pub(super) struct App {
    /// What is known of the daemon.
    pub(super) known: Known,
    /// The pane that has the keys.
    pub(super) pane: Pane,
    /// The rows, by [`Pane::index`].
    pub(super) lists: [List; 5],
    /// What lies over the panes.
    pub(super) overlay: Overlay,
    /// Whether the daemon answers.
    pub(super) link: Link,
    /// A message and since when it is shown.
    message: Option<(Moment, String, Tone)>,
    paused: Option<Paused>,
}

/// What has come since the view was paused.
#[derive(Debug)]
struct Paused {
    at: Moment,
    fetched: Option<Box<Fetched>>,
    events: Vec<Event>,
}

impl App {
    /// A view that knows nothing yet.
    pub(super) fn new() -> Self {
        let list = |pane: Pane| {
            let (column, descending) = pane.first_order();
            List { column, descending, page: 1, ..List::default() }
        };
        Self {
            known: Known::default(),
            pane: Pane::Sessions,
            lists: Pane::ALL.map(list),
            overlay: Overlay::None,
            link: Link::Up,
            message: None,
            paused: None,
        }
    }

    /// Takes new answers of the daemon.
    pub(super) fn fetch(&mut self, fetched: Box<Fetched>) {
        self.link = Link::Up;
        match &mut self.paused {
            Some(paused) => paused.fetched = Some(fetched),
            None => {
                self.known.fetch(fetched);
                self.arrange_all();
            }
        }
    }

    /// Takes events of the daemon.
    pub(super) fn event(&mut self, event: Event) {
        match &mut self.paused {
            Some(paused) => {
                if paused.events.len() == HELD {
                    paused.events.remove(0);
                }
                paused.events.push(event);
            }
            None => self.known.event(&event),
        }
    }

    /// The daemon does not answer.
    pub(super) fn lost(&mut self, why: String, now: Moment) {
        let since = match &self.link {
            Link::Down(since, _) => *since,
            Link::Up => now,
        };
        self.link = Link::Down(since, why);
    }

    /// A story has come.
    pub(super) fn story(&mut self, session: &str, story: Result<Vec<StoryLine>, String>, now: Moment) {
        let Overlay::Story(view) = &mut self.overlay else { return };
        if view.session != session {
            return;
        }
        match story {
            Ok(lines) => {
                // At its end first: that is where the dialogue is.
                if view.lines.is_none() {
                    view.offset = usize::MAX;
                }
                view.lines = Some(lines);
            }
            Err(why) => {
                self.overlay = Overlay::None;
                self.say(why, Tone::Bad, now);
            }
        }
    }

    /// Shows a message for a while.
    pub(super) fn say(&mut self, message: String, tone: Tone, now: Moment) {
        self.message = Some((now, message, tone));
    }

    /// The message to show.
    pub(super) fn message(&self, now: Moment) -> Option<(&str, Tone)> {
        let (since, message, tone) = self.message.as_ref()?;
        (now.saturating_sub(*since) < MESSAGE).then_some((message.as_str(), *tone))
    }

    /// Whether the view stands still.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The moment that is shown.
    pub(super) fn shown(&self, now: Moment) -> Moment {
        self.paused.as_ref().map_or(now, |p| p.at)
    }

    /// The rows of a pane.
    pub(super) fn list(&self, pane: Pane) -> &List {
        &self.lists[pane.index()]
    }

    fn current(&mut self) -> &mut List {
        &mut self.lists[self.pane.index()]
    }

    /// The row that is chosen, by its number among all rows.
    pub(super) fn chosen(&self) -> Option<usize> {
        let list = self.list(self.pane);
        list.order.get(list.chosen).copied()
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent, now: Moment) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c')) {
            return Some(Wish::Quit);
        }
        match &mut self.overlay {
            Overlay::None => self.key_in_pane(key, now),
            Overlay::Filter(_) => {
                self.key_in_filter(key);
                None
            }
            Overlay::Help => {
                self.overlay = Overlay::None;
                (key.code == KeyCode::Char('q')).then_some(Wish::Quit)
            }
            Overlay::Story(_) => self.key_in_story(key),
            Overlay::Confirm(_) => self.key_in_question(key, now),
        }
    }

    fn key_in_pane(&mut self, key: KeyEvent, now: Moment) -> Option<Wish> {
        match key.code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Char('?') | KeyCode::F(1) => self.overlay = Overlay::Help,
            KeyCode::Char(c @ '1'..='5') => self.pane = Pane::ALL[c as usize - '1' as usize],
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Char('p') => self.pause(now),
            KeyCode::Char('/') => {
                let before = self.current().filter.clone();
                self.overlay = Overlay::Filter(before);
            }
            KeyCode::Esc => {
                self.current().filter.clear();
                self.arrange(self.pane);
            }
            KeyCode::Char('s') => {
                let columns = self.pane.columns();
                if !columns.is_empty() {
                    let list = self.current();
                    list.column = (list.column + 1) % columns.len();
                    list.descending = columns[list.column].number;
                    self.arrange(self.pane);
                }
            }
            KeyCode::Char('S') => {
                let list = self.current();
                list.descending = !list.descending;
                self.arrange(self.pane);
            }
            KeyCode::Enter => {
                let session = self.chosen().and_then(|row| self.pane.session(&self.known, row));
                let Some(session) = session else {
                    self.say("no session is chosen here".to_owned(), Tone::Warn, now);
                    return None;
                };
                let view = StoryView { session: session.clone(), lines: None, rows: 0, offset: 0, page: 1 };
                self.overlay = Overlay::Story(view);
                return Some(Wish::Story(session));
            }
            KeyCode::Char('d') => self.ask_to_revoke(now),
            KeyCode::Char('K') => self.ask_to_kill(now),
            code => {
                let scrolls = self.pane == Pane::Health;
                let list = self.current();
                let page = list.page.max(1);
                let last = list.order.len().saturating_sub(1);
                let to = match code {
                    KeyCode::Down | KeyCode::Char('j') => list.chosen.saturating_add(1),
                    KeyCode::Up | KeyCode::Char('k') => list.chosen.saturating_sub(1),
                    KeyCode::PageDown => list.chosen.saturating_add(page),
                    KeyCode::PageUp => list.chosen.saturating_sub(page),
                    KeyCode::Home | KeyCode::Char('g') => 0,
                    KeyCode::End | KeyCode::Char('G') => last,
                    _ => return None,
                };
                if scrolls {
                    // Its lines are no rows: they scroll. Drawing holds them within what there is.
                    list.offset = match code {
                        KeyCode::Down | KeyCode::Char('j') => list.offset.saturating_add(1),
                        KeyCode::Up | KeyCode::Char('k') => list.offset.saturating_sub(1),
                        KeyCode::PageDown => list.offset.saturating_add(page),
                        KeyCode::PageUp => list.offset.saturating_sub(page),
                        KeyCode::End | KeyCode::Char('G') => usize::MAX,
                        _ => 0,
                    };
                } else {
                    list.chosen = to.min(last);
                    self.remember();
                }
            }
        }
        None
    }

    fn key_in_filter(&mut self, key: KeyEvent) {
        let Overlay::Filter(before) = &self.overlay else { return };
        match key.code {
            KeyCode::Enter => self.overlay = Overlay::None,
            KeyCode::Esc => {
                let before = before.clone();
                self.current().filter = before;
                self.overlay = Overlay::None;
            }
            KeyCode::Backspace => drop(self.current().filter.pop()),
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => self.current().filter.clear(),
            KeyCode::Char(c) if !c.is_control() && self.list(self.pane).filter.chars().count() < REASON => {
                self.current().filter.push(c);
            }
            _ => return,
        }
        self.arrange(self.pane);
    }

    fn key_in_story(&mut self, key: KeyEvent) -> Option<Wish> {
        let Overlay::Story(view) = &mut self.overlay else { return None };
        let last = view.rows.saturating_sub(view.page);
        let to = match key.code {
            KeyCode::Esc | KeyCode::Enter => {
                self.overlay = Overlay::None;
                return None;
            }
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Char('r') => return Some(Wish::Story(view.session.clone())),
            KeyCode::Down | KeyCode::Char('j') => view.offset.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => view.offset.saturating_sub(1),
            KeyCode::PageDown => view.offset.saturating_add(view.page),
            KeyCode::PageUp => view.offset.saturating_sub(view.page),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => return None,
        };
        view.offset = to.min(last);
        None
    }

    fn key_in_question(&mut self, key: KeyEvent, now: Moment) -> Option<Wish> {
        let Overlay::Confirm(confirm) = &mut self.overlay else { return None };
        match key.code {
            KeyCode::Esc => {
                self.overlay = Overlay::None;
                self.say("nothing was done".to_owned(), Tone::Plain, now);
            }
            KeyCode::Enter if confirm.reason.trim().is_empty() => {
                self.say("type a reason first: it is kept in the events".to_owned(), Tone::Warn, now);
            }
            KeyCode::Enter => {
                let reason = confirm.reason.trim().to_owned();
                let wish = match &confirm.deed {
                    Deed::Revoke(row) => Wish::Revoke(row.clone(), reason),
                    Deed::Kill(session, _) => Wish::Kill(session.clone(), reason),
                };
                self.overlay = Overlay::None;
                return Some(wish);
            }
            KeyCode::Backspace => drop(confirm.reason.pop()),
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => confirm.reason.clear(),
            KeyCode::Char(c) if !c.is_control() && confirm.reason.chars().count() < REASON => confirm.reason.push(c),
            _ => {}
        }
        None
    }

    fn ask_to_revoke(&mut self, now: Moment) {
        let row = self.chosen().filter(|_| self.pane == Pane::Pinholes);
        match row.and_then(|row| self.known.pinholes().get(row)) {
            Some(row) => {
                let deed = Deed::Revoke(Box::new(row.clone()));
                self.overlay = Overlay::Confirm(Confirm { deed, reason: String::new() });
            }
            None => self.say("choose a pinhole first, in pane 2".to_owned(), Tone::Warn, now),
        }
    }

    fn ask_to_kill(&mut self, now: Moment) {
        let session = self.chosen().and_then(|row| self.pane.session(&self.known, row));
        match session {
            Some(session) => {
                let known = self.known.sessions().iter().find(|s| s.session == session);
                let ends = known.map_or_else(String::new, |s| format!("{} → {}", s.client, s.server));
                let deed = Deed::Kill(session, ends);
                self.overlay = Overlay::Confirm(Confirm { deed, reason: String::new() });
            }
            None => self.say("choose a session first, in pane 1".to_owned(), Tone::Warn, now),
        }
    }

    fn turn(&mut self, by: usize) {
        self.pane = Pane::ALL[(self.pane.index() + by) % Pane::ALL.len()];
    }

    fn pause(&mut self, now: Moment) {
        match self.paused.take() {
            None => self.paused = Some(Paused { at: now, fetched: None, events: Vec::new() }),
            Some(Paused { at: _, fetched, events }) => {
                for event in &events {
                    self.known.event(event);
                }
                if let Some(fetched) = fetched {
                    self.known.fetch(fetched);
                }
                self.arrange_all();
            }
        }
    }

    fn arrange_all(&mut self) {
        for pane in Pane::ALL {
            self.arrange(pane);
        }
    }

    /// Orders and filters the rows of a pane anew. The chosen row stays chosen wherever it goes; where it is gone, the
    /// one in its place is.
    fn arrange(&mut self, pane: Pane) {
        let known = &self.known;
        let list = &mut self.lists[pane.index()];
        list.order.clear();
        list.order.extend(0..pane.len(known));
        if !list.filter.is_empty() {
            let wanted = list.filter.to_ascii_lowercase();
            let mut line = String::new();
            list.order.retain(|&row| pane.fits(known, row, &wanted, &mut line));
        }
        let (column, descending) = (list.column, list.descending);
        list.order.sort_by(|&a, &b| {
            let order = pane.compare(known, column, a, b);
            if descending { order.reverse() } else { order }
        });
        let found = list
            .key
            .as_ref()
            .and_then(|key| list.order.iter().position(|&row| pane.key(known, row).as_ref() == Some(key)));
        list.chosen = found.unwrap_or(list.chosen).min(list.order.len().saturating_sub(1));
        if found.is_none() {
            list.key = list.order.get(list.chosen).and_then(|&row| pane.key(known, row));
        }
    }

    fn remember(&mut self) {
        let key = self.chosen().and_then(|row| self.pane.key(&self.known, row));
        self.current().key = key;
    }
}
