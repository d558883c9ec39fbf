//! The terminal: taken over, and given back as it was however the program ends.

use std::{
    io::{self, BufWriter, Stdout, Write, stdout},
    panic, process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
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

/// Whether the terminal is taken over. There is one, and it is given back once: a second time would put the cursor where it was
/// before the message that came between.
static TAKEN: AtomicBool = AtomicBool::new(false);

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
        TAKEN.store(true, Ordering::SeqCst);
        let before = panic::take_hook();
        let main = thread::current().id();
        panic::set_hook(Box::new(move |info| {
            // Held until the program ends: nothing is drawn any more over what is told.
            let _drawing = stdout().lock();
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
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = leave(&mut stdout());
        let _ = disable_raw_mode();
    }
}

fn leave(to: &mut impl Write) -> io::Result<()> {
    execute!(to, LeaveAlternateScreen, Show)
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command, process::Stdio};

    use super::*;

    /// What the test below has this one do in a terminal of its own: panic, on the thread that is named.
    const PANICS_ON: &str = "FTP_HELPER_TOP_PANICS_ON";

    #[test]
    fn panics_where_it_is_told_to() {
        let Some(on) = env::var_os(PANICS_ON) else { return };
        let _screen = Screen::take().unwrap();
        if on == "another" {
            let _ = thread::spawn(|| panic!("as told, on {:?}", thread::current().id())).join();
            unreachable!("the program has ended with it");
        }
        panic!("as told, on {:?}", thread::current().id());
    }

    #[test]
    fn a_panic_gives_the_terminal_back_and_is_told_then() {
        let program = env::current_exe().unwrap();
        let test = concat!(module_path!(), "::panics_where_it_is_told_to");
        let test = test.split_once("::").unwrap().1;
        let line = format!("stty -g; {} --exact --nocapture {test}; echo code=$?; stty -g", program.display());
        for on in ["this", "another"] {
            let mut script = Command::new("script");
            script.args(["--quiet", "--command", &line, "/dev/null"]).env(PANICS_ON, on).stdin(Stdio::null());
            let output = script.output().unwrap();
            let output = String::from_utf8_lossy(&output.stdout);
            let (_, rest) = output.split_once("\x1b[?1049h").unwrap_or_else(|| panic!("{on}: not taken: {output:?}"));
            let (taken, back) = rest.split_once("\x1b[?1049l").unwrap_or_else(|| panic!("{on}: not back: {output:?}"));
            assert!(!taken.contains("as told") && back.contains("as told, on"), "{on}: {output:?}");
            assert!(!back.contains("\x1b[?1049l"), "{on}: given back twice: {output:?}");
            assert!(back.contains("code=101"), "{on}: {output:?}");
            let lines: Vec<&str> = output.lines().map(str::trim_end).collect();
            assert_eq!(lines.first(), lines.last(), "{on}: the terminal's settings");
        }
    }

    #[test]
    fn what_is_given_back_is_the_screen_and_the_cursor() {
        let mut written = Vec::new();
        leave(&mut written).unwrap();
        assert_eq!(written, b"\x1b[?1049l\x1b[?25h");
    }
}
