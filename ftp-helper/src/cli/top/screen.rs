//! The terminal: taken over, and given back as it was however the program ends.

use std::{
    io::{self, BufWriter, Stdout, Write, stdout},
    panic, process, thread,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// The screen while the view is on it. Dropping it gives the terminal back.
pub(super) struct Screen {
    /// What is drawn on.
    pub(super) terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Takes the terminal over. A panic, on whichever thread, gives it back before it is told, and ends the program: a
    /// view of which a part has died shows what is not so any more.
    ///
    /// # Errors
    /// There is no terminal that could be taken over.
    pub(super) fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let before = panic::take_hook();
        let main = thread::current().id();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
            if thread::current().id() != main {
                process::exit(101);
            }
        }));
        // From here on whatever fails gives it back.
        let mut guard = Giver(true);
        // Not by the terminal's own `clear`, which asks where the cursor is, and fails where nobody answers.
        execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(stdout())))?;
        guard.0 = false;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back unless told that it need not.
struct Giver(bool);

impl Drop for Giver {
    fn drop(&mut self) {
        if self.0 {
            give_back();
        }
    }
}

/// If the terminal is gone, nobody misses what can't be given back.
fn give_back() {
    let _ = leave(&mut stdout());
    let _ = disable_raw_mode();
}

fn leave(to: &mut impl Write) -> io::Result<()> {
    execute!(to, LeaveAlternateScreen, Show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_the_screen_and_the_cursor() {
        let mut written = Vec::new();
        leave(&mut written).unwrap();
        assert_eq!(written, b"\x1b[?1049l\x1b[?25h");
    }
}
