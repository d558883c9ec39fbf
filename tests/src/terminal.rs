//! A terminal that a test sits at: tmux.
//!
//! `UPDATE_SNAPSHOTS=1` writes the screens in `snapshots/top` anew; numbers are masked in them. A failure ends the test.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::unistd::Pid;

use crate::{
    gateway::{PATIENCE, until},
    program::said,
};

/// A terminal with a shell in it, whose prompt is `ready: `. Dropping it ends both.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
    /// Texts that differ from run to run, and what stands for them in [`Terminal::expect`].
    pub masked: BTreeMap<String, &'static str>,
}

impl Terminal {
    /// In a directory of the lab, so that nobody else's tmux is meant.
    pub fn open(directory: &Path, width: u16, height: u16) -> Self {
        Self::with_shell(directory, width, height, "env PS1='ready: ' LC_ALL=C.UTF-8 sh -i")
    }

    /// The same with a shell that is started by a line of its own, and has that prompt.
    pub fn with_shell(directory: &Path, width: u16, height: u16, shell: &str) -> Self {
        let terminal = Self { socket: directory.join("tmux"), masked: BTreeMap::new() };
        let (x, y) = (width.to_string(), height.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &x, "-y", &y, shell]);
        terminal.wait("ready:");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.socket).args(arguments).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        let said = said(command).unwrap();
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        said.out
    }

    /// Presses keys by tmux's names, such as `Enter`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a text.
    pub fn write(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Gives it another size.
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// The text on it.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// With the sequences that make it look as it does.
    pub fn looks(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until a text is on it; all that is on it then.
    pub fn wait(&self, text: &str) -> String {
        self.wait_for(text, |screen| screen.contains(text))
    }

    /// Waits until what is on it fits, which is `what`.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if fits(&screen) {
                return screen;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} is not on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen is the committed one. `text` is what the right screen has, and any other has not.
    pub fn expect(&self, name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/top").join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|v| v == "1") {
            let screen = self.masked(&self.wait(text));
            std::fs::write(&path, screen).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let what = format!("what is in {},\n{expected}\nis not what", path.display());
        self.wait_for(&what, |screen| self.masked(screen) == expected);
    }

    /// Without what differs from run to run: numbers, and how far they push other things.
    fn masked(&self, screen: &str) -> String {
        let mut screen = screen.to_owned();
        for (text, mask) in &self.masked {
            screen = screen.replace(text, mask);
        }
        let mut masked = String::new();
        for line in screen.lines() {
            let mut last = None;
            for c in line.trim_end().chars() {
                let c = if c.is_ascii_digit() { '#' } else { c };
                if !(matches!(c, '#' | ' ' | '─' | '█' | '░') && last == Some(c)) {
                    masked.push(c);
                }
                last = Some(c);
            }
            masked.push('\n');
        }
        // However long it took.
        for time in ["#m #s #ms", "#m #s", "#s #ms", "#m#s"] {
            masked = masked.replace(time, "#s");
        }
        masked
    }

    /// The process that the shell has started.
    pub fn child(&self) -> Pid {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = format!("/proc/{shell}/task/{shell}/children");
        until("a child of the shell", || {
            std::fs::read_to_string(&children).ok()?.trim().parse().ok().map(Pid::from_raw)
        })
        .unwrap()
    }

    /// Whether the shell has its terminal back, with lines and echo.
    pub fn is_restored(&self, code: u8) {
        self.wait("ready:");
        self.write("echo code=$? tty=$(stty -a | grep -cwE '(-icanon|-echo)')");
        self.press(&["Enter"]);
        self.wait(&format!("code={code} tty=0"));
        self.write("clear");
        self.press(&["Enter"]);
        self.wait_for("an empty screen", |screen| screen.trim() == "ready:");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its own server, by its own socket.
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).arg("kill-server").stderr(Stdio::null());
        let _ = command.status();
    }
}
