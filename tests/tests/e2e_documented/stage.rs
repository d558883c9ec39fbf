//! A page while its lines are run: what is set up for it, what goes on, and what is ended behind it.

use std::{io::Read as _, net::SocketAddr, time::Instant};

use ftp_helper::lab::{
    Host, Lab,
    dialogue::Dialogue,
    process::{Finished, Process},
    servers::{Credentials, default_cache},
};
use ftp_helper_tests::{
    connect::connect,
    desk::{CONFIGURATION, Desk, copy, interrupt},
    firewall::Firewalld,
    gateway::{PATIENCE, program, until},
    page::Block,
    terminal::Terminal,
};

use super::{
    SERVER, root,
    tables::{
        Content,
        Does::{self, Draws, Ends, GoesOn, IsNotRun, Runs, Serves, Stays},
        NOTHING, Place, SETUPS, SPECIAL, Setup,
    },
};

/// A page while its lines are run.
pub(super) struct Stage<'a> {
    lab: &'a Lab,
    desk: &'a mut Desk,
    setup: &'static Setup,
    page: String,
    special: Vec<&'static (&'static str, &'static str, Does)>,
    lines: usize,
    begun: bool,
    firewalld: Option<Firewalld>,
    server: Option<Process>,
    daemon: Option<Process>,
    staying: Vec<Process>,
    terminal: Option<Terminal>,
    /// A session that is there to be looked at, and its id.
    session: Option<(Dialogue, String)>,
}

impl<'a> Stage<'a> {
    /// Clears the desk for a page.
    pub(super) fn open(lab: &'a Lab, desk: &'a mut Desk, page: &str) -> Self {
        desk.clear().unwrap();
        Self {
            lab,
            desk,
            setup: SETUPS.iter().find(|s| s.page == page).unwrap_or(&NOTHING),
            page: page.to_owned(),
            special: SPECIAL.iter().filter(|(of, ..)| *of == page).collect(),
            lines: 0,
            begun: false,
            firewalld: None,
            server: None,
            daemon: None,
            staying: Vec::new(),
            terminal: None,
            session: None,
        }
    }

    /// Puts a configuration where the program looks for it.
    pub(super) fn configure(&self, text: &str) {
        std::fs::write(self.desk.seen(CONFIGURATION), text).unwrap();
    }

    /// Has nft read rules, which it takes or refuses as a whole: a table, or what stands in a table or in a chain.
    pub(super) fn rules(&self, block: &Block) {
        let text = block.text();
        let whole = match text.split(' ').next() {
            Some("table") => text,
            Some("set") => format!("table inet documented {{\n{text}}}\n"),
            _ => {
                let translates = text.contains("masquerade");
                let kind = if translates { "nat hook postrouting" } else { "filter hook forward" };
                format!("table inet documented {{\nchain c {{\ntype {kind} priority 0;\n{text}}}\n}}\n")
            }
        };
        std::fs::write(self.desk.work().join("rules.nft"), &whole).unwrap();
        let done = self.desk.run(self.lab.gateway(), "nft --check --file rules.nft").unwrap();
        let number = block.lines.first().map_or(0, |(number, _)| *number);
        assert!(done.success(), "{}:{number}: {}\n{whole}", self.page, done.output);
    }

    /// Sets up what the page takes for granted, before its first line.
    pub(super) fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Setup { ruleset, firewalld, server, configuration, daemon, files, .. } = self.setup;
        if !configuration.is_empty() {
            self.configure(configuration);
        }
        // Where the lab's servers are, unless the reader fetches them.
        let servers = std::path::absolute(default_cache()).unwrap();
        self.desk.environ("FTP_HELPER_LAB_SERVERS", &servers.display().to_string());
        for (name, from) in *files {
            let to = self.desk.work().join(name);
            match from {
                Content::Text(text) => std::fs::write(to, text).unwrap(),
                Content::Sources(file) => copy(&root(), file, &to).unwrap(),
            }
        }
        if !ruleset.is_empty() {
            let file = self.desk.work().join("ruleset.nft");
            std::fs::write(&file, ruleset).unwrap();
            self.lab.load_ruleset(Some(&file)).unwrap();
        }
        if *firewalld {
            let firewalld = Firewalld::start(self.lab);
            firewalld.serve_widely();
            for (name, value) in Firewalld::environment(&firewalld.directory) {
                self.desk.environ(name, &value);
            }
            self.firewalld = Some(firewalld);
        }
        if let Some(arguments) = *server {
            self.serve(arguments);
        }
        if *daemon {
            self.run("ftp-helper run");
        }
    }

    fn serve(&mut self, arguments: &[&str]) {
        let served = self.lab.directory().join("served");
        std::fs::create_dir_all(&served).unwrap();
        std::fs::write(served.join("file"), "something to fetch\n").unwrap();
        let mut command = self.lab.server().command(program().unwrap());
        command.args(["ftpd", "--listen", &format!("{}:21", SERVER.0), "--listen", &format!("[{}]:21", SERVER.1)]);
        let server = Process::spawn({
            command.arg("--root").arg(&served).args(arguments);
            command
        });
        let server = self.server.insert(server.unwrap());
        until("the server listens", || server.output().unwrap().contains("listening on").then_some(())).unwrap();
    }

    /// Runs a line, or does what the tables say; its output.
    pub(super) fn line(&mut self, number: usize, line: &str) -> String {
        self.lines += 1;
        let does = match self.special.iter().position(|(_, special, _)| *special == line) {
            Some(at) => self.special.remove(at).2,
            None => Ends(0, ""),
        };
        let line = self.named(line);
        let place = format!("{}:{number}: {line}", self.page);
        let begun = Instant::now();
        let output = match does {
            Ends(code, says) => {
                let done = self.desk.run(self.host(), &line).unwrap();
                assert_eq!(done.status.and_then(|s| s.code()), Some(code), "{place}\n{}", done.output);
                assert!(done.output.contains(says), "{place}: it does not say {says}:\n{}", done.output);
                done.output
            }
            Runs => self.run(&line),
            Serves => self.run("ftp-helper run"),
            Stays(says) | GoesOn(says) => {
                let mut running = self.desk.start(self.host(), &line).unwrap();
                self.hear(&place, &mut running, says);
                if let Stays(_) = does {
                    let output = running.output().unwrap();
                    self.staying.push(running);
                    output
                } else {
                    interrupt(running).unwrap().output
                }
            }
            Draws(text) => self.draw(&line, text),
            IsNotRun(why) => format!("not run: {why}"),
        };
        println!("{:6.2} s  {place}", begun.elapsed().as_secs_f64());
        output
    }

    /// The line with the session's id where the page has one.
    fn named(&self, line: &str) -> String {
        let Some((_, id)) = &self.session else { return line.to_owned() };
        let words = line.split(' ').map(|word| if word == self.setup.session { id.as_str() } else { word });
        words.collect::<Vec<_>>().join(" ")
    }

    fn host(&self) -> &Host {
        match self.setup.on {
            Place::Gateway => self.lab.gateway(),
            Place::Server => self.lab.server(),
        }
    }

    /// Starts the daemon by this line, in the place of another, and begins a session through it.
    fn run(&mut self, line: &str) -> String {
        self.end_daemon();
        let mut daemon = self.desk.start(self.lab.gateway(), line).unwrap();
        self.hear(line, &mut daemon, "attached to wan0");
        let asked = || self.desk.run(self.lab.gateway(), "ftp-helper status").unwrap().success().then_some(());
        until("the daemon answers", asked).unwrap();
        let output = daemon.output().unwrap();
        self.daemon = Some(daemon);
        if self.server.is_some() {
            self.begin_session();
        }
        output
    }

    fn begin_session(&mut self) {
        let mut dialogue = self.log_in();
        for _ in 0..self.setup.transfers {
            self.fetch(&mut dialogue);
        }
        dialogue.epsv().unwrap();
        let ids = || {
            let done = self.desk.run(self.lab.gateway(), "ftp-helper sessions -o json").unwrap();
            let rows: serde_json::Value = serde_json::from_str(&done.output).ok()?;
            let row = rows.as_array()?.iter().find(|r| r["client"] == dialogue.local().to_string())?;
            (row["pinhole"]["state"] == "confirmed").then(|| row["session"].as_str().map(str::to_owned))?
        };
        let id = until("the session and its confirmed pinhole", ids).unwrap();
        self.session = Some((dialogue, id));
    }

    fn log_in(&self) -> Dialogue {
        let mut dialogue = Dialogue::open(self.lab.client(), SocketAddr::new(SERVER.0.into(), 21), PATIENCE).unwrap();
        let arguments = self.setup.server.unwrap_or_default();
        let option = |name: &str| arguments.iter().skip_while(|a| **a != name).nth(1);
        let user = option("--user").unwrap_or(&"anonymous");
        let login =
            Credentials { user: (*user).to_owned(), password: (*option("--password").unwrap_or(&"x")).to_owned() };
        dialogue.login(&login).unwrap();
        dialogue
    }

    /// One transfer.
    fn fetch(&self, dialogue: &mut Dialogue) {
        let port = dialogue.epsv().unwrap();
        let to = SocketAddr::new(dialogue.peer().ip(), port);
        let mut data = connect(self.lab.client(), dialogue.local().ip(), to, PATIENCE).unwrap();
        dialogue.send("RETR file").unwrap();
        let mut got = String::new();
        data.read_to_string(&mut got).unwrap();
        assert_eq!(got, "something to fetch\n");
        drop(data);
        let codes = [dialogue.reply().unwrap().code, dialogue.reply().unwrap().code];
        assert!([[125, 226], [150, 226]].contains(&codes), "{codes:?}");
    }

    /// Waits until a line has said this; where a server is there, files are fetched meanwhile.
    fn hear(&self, place: &str, running: &mut Process, says: &str) {
        let heard = until(says, || {
            let over = running.ended().unwrap().is_some();
            let output = running.output().unwrap();
            if !over && !output.contains(says) && self.session.is_some() {
                self.fetch(&mut self.log_in());
            }
            (over || output.contains(says)).then_some(output)
        });
        let output = heard.unwrap_or_else(|e| panic!("{place}: {e}\n{}", running.output().unwrap()));
        assert!(output.contains(says), "{place}: has ended without {says}:\n{output}");
    }

    fn draw(&mut self, line: &str, text: &str) -> String {
        let (work, shell) = (self.desk.work(), self.desk.shell(self.host()));
        let terminal = self.terminal.get_or_insert_with(|| Terminal::with_shell(&work, 80, 24, &shell));
        terminal.write(line);
        terminal.press(&["Enter"]);
        let screen = terminal.wait(text);
        terminal.press(&["q"]);
        terminal.is_restored(0);
        screen
    }

    /// Each line that the page shows is said, in this order; numbers may be others.
    pub(super) fn shows(&self, number: usize, said: &[&str], output: &str) {
        let mut left = output.lines();
        for line in said {
            let mut line = (*line).to_owned();
            if let Some((_, id)) = &self.session {
                line = line.replace(&format!("{:0>16}", self.setup.session), id);
            }
            let is = |other: &str| masked(other) == masked(&line);
            assert!(left.any(is), "{}:{number}: not said, or not there: {line}\nin\n{output}", self.page);
        }
    }

    fn end_daemon(&mut self) {
        self.session = None;
        if let Some(daemon) = self.daemon.take() {
            let Finished { status, output, .. } = interrupt(daemon).unwrap();
            assert!(status.is_some_and(|s| s.success()), "{}: the daemon ended by {status:?}:\n{output}", self.page);
        }
    }

    /// Ends what goes on; how many lines there were.
    pub(super) fn close(mut self) -> usize {
        let left: Vec<&str> = self.special.iter().map(|(_, line, _)| *line).collect();
        assert!(left.is_empty(), "{}: these lines are in the table and not in the page: {left:#?}", self.page);
        self.end_daemon();
        for staying in self.staying.drain(..) {
            let _ = interrupt(staying).unwrap();
        }
        if !self.setup.after.is_empty() {
            let done = self.desk.run(self.host(), self.setup.after).unwrap();
            assert!(done.success(), "{}: {}", self.setup.after, done.output);
        }
        drop(self.firewalld.take());
        if self.begun {
            self.lab.load_ruleset(None).unwrap();
        }
        self.lines
    }
}

/// Numbers, however long, are all the same, and so are durations.
fn masked(line: &str) -> String {
    let mut masked = String::new();
    for c in line.trim_end().chars() {
        if !c.is_ascii_digit() {
            masked.push(c);
        } else if !masked.ends_with('#') {
            masked.push('#');
        }
    }
    masked.replace("#s #ms", "#s")
}

#[test]
fn numbers_are_all_the_same() {
    assert_eq!(masked("10s of 00a1, [::1]:50069 "), "#s of #a#, [::#]:#");
    assert_eq!(masked("confirmed, 9s 987ms left"), "confirmed, #s left");
}
