//! What `ftp-helper top` costs: processor time of the process beside many sessions at many pictures a second.
//!
//! It talks to a daemon that is none: this program, which answers on a control socket of its own. So the daemon's work is not
//! in the figure, and no rights are needed. The screen is a pseudo-terminal; pictures are counted by the sequence with
//! which each begins.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use ftp_helper::{
    api::{ConnectionRow, Gauge, Heartbeat, PinholeRow, Request, Response, Session, Standing, Status, Versioned},
    event::{Event, Kind, NegotiatedBy, Pinhole, PinholeState, SessionId},
};
use ftp_helper_tests::gateway::{PATIENCE, program, within};
use nix::{
    pty::{Winsize, openpty},
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    },
};

#[derive(Parser)]
#[command(about = "What `ftp-helper top` costs beside many sessions")]
struct Args {
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Sessions that the daemon tells of; a fifth of them have a pinhole, another fifth a data connection.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sessions: u32,
    /// The interval that `top` is given.
    #[arg(long, default_value = "16ms")]
    interval: String,
    /// Events a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    events: u32,
    /// Seconds that it runs.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=120))]
    seconds: u32,
    /// Columns of the screen.
    #[arg(long, default_value_t = 120)]
    columns: u16,
    /// Lines of the screen.
    #[arg(long, default_value_t = 40)]
    lines: u16,
    /// Fail when it takes this many percent of a processor, or more.
    #[arg(long)]
    limit: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(good) if good => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(4),
        Err(e) => {
            eprintln!("bench-top: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let directory = tempfile::tempdir().context("can't make a directory")?;
    let socket = directory.path().join("top.sock");
    let listener = UnixListener::bind(&socket).with_context(|| format!("can't listen at {}", socket.display()))?;
    let (sessions, events) = (args.sessions, args.events);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up ends its connection, and nothing else.
            thread::spawn(move || serve(stream, sessions, events));
        }
    });
    let size = Winsize { ws_row: args.lines, ws_col: args.columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).context("can't open a pseudo-terminal")?;
    let (mut screen, inside) = (File::from(pty.master), pty.slave);
    let mut command = Command::new(program()?);
    command.arg("top").args(["--interval", &args.interval]).arg("--socket").arg(&socket);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("RUST_LOG");
    command
        .stdin(Stdio::from(inside.try_clone()?))
        .stdout(Stdio::from(inside.try_clone()?))
        .stderr(Stdio::from(inside));
    let begun = Instant::now();
    let mut child = command.spawn().context("can't start ftp-helper")?;
    // The slave's end stays open here only in the command.
    drop(command);
    let reader = screen.try_clone()?;
    let reading = thread::spawn(move || pictures(reader));
    thread::sleep(Duration::from_secs(args.seconds.into()));
    screen.write_all(b"q")?;
    let mut status = None;
    within(PATIENCE, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    let took = begun.elapsed();
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        bail!("top does not end on q");
    };
    let (pictures, last) = reading.join().map_err(|_| anyhow::anyhow!("the reader of the screen has failed"))?;
    ensure!(status.success(), "top has ended, {status}:\n{last}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let spent = |t: nix::sys::time::TimeVal| t.num_microseconds() as f64 / 1e6;
    let (user, system) = (spent(usage.user_time()), spent(usage.system_time()));
    let seconds = took.as_secs_f64();
    let percent = (user + system) * 100.0 / seconds;
    let rate = pictures as f64 / seconds;
    let (columns, lines, interval) = (args.columns, args.lines, &args.interval);
    match args.output {
        Output::Table => println!(
            "{sessions} sessions, {events} events/s, {columns}x{lines}, every {interval}, {seconds:.1} s: {rate:.1} pictures/s, {percent:.1} % of a processor (user {user:.2} s, system {system:.2} s)"
        ),
        Output::Json => println!(
            "{}",
            serde_json::json!({
                "sessions": sessions, "events_per_second": events, "columns": columns, "lines": lines, "interval": interval,
                "seconds": seconds, "pictures_per_second": rate, "percent": percent, "user": user, "system": system,
            })
        ),
    }
    Ok(args.limit.is_none_or(|limit| percent < limit))
}

/// Reads what is drawn until nobody draws any more: how many pictures there were, and the end of what was written.
fn pictures(mut screen: File) -> (usize, String) {
    /// A picture begins with hiding the cursor.
    const BEGIN: &[u8] = b"\x1b[?25l";
    let mut all = Vec::new();
    let mut count = 0;
    let mut buffer = [0; 1 << 16];
    // The last end of a pseudo-terminal that is closed is told as an error.
    while let Ok(n @ 1..) = screen.read(&mut buffer) {
        // What was left of the last read may hold the first bytes of a beginning.
        let before = all.len().saturating_sub(BEGIN.len() - 1);
        all.drain(..before);
        all.extend_from_slice(&buffer[..n]);
        count += all.windows(BEGIN.len()).filter(|w| *w == BEGIN).count();
    }
    (count, String::from_utf8_lossy(&all).into_owned())
}

/// Answers one client until it hangs up.
fn serve(stream: UnixStream, sessions: u32, events: u32) -> Result<()> {
    let mut to = stream.try_clone()?;
    let begun = Instant::now();
    for line in BufReader::new(stream).lines() {
        let request: Versioned<Request> = serde_json::from_str(&line?)?;
        let age = u64::try_from(begun.elapsed().as_millis())?;
        let mut answer = Vec::new();
        let mut say = |response: Response| -> Result<()> {
            serde_json::to_writer(&mut answer, &Versioned::new(response))?;
            answer.push(b'\n');
            Ok(())
        };
        match request.body {
            Request::Status => say(Response::Status(Box::new(status(sessions, age))))?,
            Request::Sessions => {
                (0..sessions).try_for_each(|n| say(Response::Session(Box::new(session(n, age)))))?;
                say(Response::End)?;
            }
            Request::Pinholes => {
                (0..sessions / 5).try_for_each(|n| say(Response::Pinhole(Box::new(pinhole(n, age)))))?;
                say(Response::End)?;
            }
            Request::Connections => {
                (0..sessions / 5).try_for_each(|n| say(Response::Connection(Box::new(connection(n, age)))))?;
                say(Response::End)?;
            }
            Request::Observe { .. } => {
                say(Response::Observing)?;
                to.write_all(&answer)?;
                return tell(to, sessions, events);
            }
            other => bail!("nobody has an answer to {other:?}"),
        }
        to.write_all(&answer)?;
    }
    Ok(())
}

/// Tells events at a rate until the client hangs up.
fn tell(mut to: UnixStream, sessions: u32, events: u32) -> Result<()> {
    let pause = Duration::from_secs(1) / events;
    for n in 0_u32.. {
        let n = n % sessions;
        let wall = u64::from(n) * 1_000_000_000;
        let event = Event::new(Kind::Used, wall).of_session(u64::from(n), client(n), server());
        let event = Event { pinhole: Some(hole(n, 0)), ..event };
        let mut line = serde_json::to_vec(&Versioned::new(Response::Event(Box::new(event))))?;
        line.push(b'\n');
        to.write_all(&line)?;
        thread::sleep(pause);
    }
    Ok(())
}

fn status(sessions: u32, age: u64) -> Status {
    let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    let gauge = |live: u32| Gauge { live: live.into(), limit: 65536 };
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        mode: "drop".into(),
        uptime_ms: age,
        sessions: gauge(sessions),
        pinholes: gauge(sessions / 5),
        data_connections: gauge(sessions / 5),
        heartbeat: Heartbeat { age_ms: age % 1000, stale_after_ms: 5000 },
        counters: counts(&[("records", age), ("control_segments", age)]),
        reasons: counts(&[("no_pinhole", age), ("pipelined", age / 3), ("midstream", age / 7)]),
        engine: counts(&[("announcements", age), ("taken_by_fast_path", age), ("refused.low_port", age / 9)]),
        ..Status::default()
    }
}

fn session(n: u32, age: u64) -> Session {
    Session {
        session: SessionId(n.into()).to_string(),
        client: client(n),
        server: server(),
        inside: None,
        state: Standing::LoggedIn,
        sighted: true,
        reason: None,
        age_ms: age + u64::from(n) * 100,
        idle_ms: u64::from(n) % 1000,
        pinhole: n.is_multiple_of(5).then(|| hole(n, 9000)),
        data_connections: u32::from(n % 5 == 1),
        transfers: n.into(),
        bytes: u64::from(n) << 20,
    }
}

fn pinhole(n: u32, age: u64) -> PinholeRow {
    PinholeRow {
        session: Some(SessionId(n.into()).to_string()),
        added: None,
        client: Some(client(n)),
        server: Some(server()),
        inside: None,
        uid: None,
        note: None,
        pinhole: hole(n, 10_000 - (age + u64::from(n)) % 10_000),
    }
}

fn hole(n: u32, left: u64) -> Pinhole {
    Pinhole {
        mode: NegotiatedBy::Pasv,
        initiator: client(n).ip(),
        responder: server().ip(),
        port: 40_000 + (n % 20_000) as u16,
        state: PinholeState::Confirmed,
        expires_in_ms: left,
    }
}

fn connection(n: u32, age: u64) -> ConnectionRow {
    ConnectionRow {
        session: Some(SessionId(n.into()).to_string()),
        added: None,
        client: Some(client(n)),
        server: Some(server()),
        mode: NegotiatedBy::Pasv,
        initiator: client(n),
        responder: SocketAddr::new(server().ip(), 40_000),
        bytes_out: 0,
        bytes_back: (age + u64::from(n)) << 12,
        rate: 4_096_000,
        age_ms: age,
        seen_ms: 10,
    }
}

fn client(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0xc633_6400 + n % 65_536).into(), 40_000)
}

fn server() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 100).into(), 21)
}
