//! Diagnostics on standard error.

use std::{
    fmt, io,
    io::IsTerminal as _,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// What a line of the log looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging to standard error. `RUST_LOG` decides what is said, otherwise the number of `-v`.
pub(super) fn start(verbose: u8, daemon: bool, format: LogFormat) {
    let level = match (verbose, daemon) {
        (0, false) => "warn",
        (0, true) | (1, false) => "info",
        (1, true) => "debug",
        (2, _) => "debug",
        _ => "trace",
    };
    let (filter, wrong) = match std::env::var("RUST_LOG") {
        Ok(value) if !value.is_empty() => match EnvFilter::builder().parse(&value) {
            Ok(filter) => (filter, None),
            Err(e) => (EnvFilter::new(level), Some(format!("RUST_LOG={value}: {e}; using {level}"))),
        },
        _ => (EnvFilter::new(level), None),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let plain = Format::default().with_ansi(false);
    let started = match (format, is_journal()) {
        (LogFormat::Text, true) => builder.event_format(ForJournal(plain.without_time().compact())).try_init(),
        (LogFormat::Text, false) => builder.with_ansi(io::stderr().is_terminal()).compact().try_init(),
        (LogFormat::Json, journal) => {
            let builder = builder.fmt_fields(JsonFields::new());
            let json = plain.json().flatten_event(true);
            if journal {
                builder.event_format(ForJournal(json.without_time())).try_init()
            } else {
                builder.event_format(json).try_init()
            }
        }
    };
    // An error here means that a test has started logging before: that one goes on.
    if started.is_ok()
        && let Some(wrong) = wrong
    {
        tracing::warn!("{wrong}");
    }
}

/// Whether standard error is systemd's journal: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
fn is_journal() -> bool {
    let Some(value) = std::env::var_os("JOURNAL_STREAM") else { return false };
    match nix::sys::stat::fstat(io::stderr().as_fd()) {
        Ok(stat) => value.as_bytes() == format!("{}:{}", stat.st_dev, stat.st_ino).as_bytes(),
        Err(_) => false,
    }
}

/// A line with its priority in front (sd-daemon(3)) and without the time, which the journal has itself.
struct ForJournal<F>(F);

impl<S, N, F> FormatEvent<S, N> for ForJournal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(cx, writer, event)
    }
}
