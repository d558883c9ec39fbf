//! Data on standard output, in the format that was asked for.

use std::{
    fmt,
    io::{self, BufWriter, StdoutLock, Write},
};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

/// How data is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document; events one object a line, as they never end.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// The option that everything takes which prints data.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct OutputArgs {
    /// Format of the data on standard output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) output: Format,
}

/// Nobody reads standard output any more: the program ends quietly.
#[derive(Debug)]
pub(super) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for Gone {}

/// Standard output.
pub(super) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    /// What the data is printed as.
    pub(super) format: Format,
}

impl Out {
    /// Standard output in a format.
    pub(super) fn new(args: OutputArgs) -> Self {
        Self { to: BufWriter::new(io::stdout().lock()), format: args.output }
    }

    /// Prints a line of text.
    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.to.write_all(line.as_bytes()).and_then(|()| self.to.write_all(b"\n")).map_err(gone)
    }

    /// Prints a value: its text, or as JSON.
    pub(super) fn value<T: Serialize>(&mut self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self.format {
            Format::Table => self.line(text(value).trim_end()),
            Format::Json => {
                let json = serde_json::to_string_pretty(value)?;
                self.line(&json)
            }
            Format::Jsonl => self.json_line(value),
        }
    }

    /// Prints rows: as a table, as one array, or one a line.
    pub(super) fn rows<T: Serialize, const N: usize>(
        &mut self,
        rows: &[T],
        header: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Table => {
                let mut table = table(header);
                for row in rows {
                    table.add_row(cells(row));
                }
                for line in table.lines() {
                    self.line(line.trim_end())?;
                }
                Ok(())
            }
            Format::Json => {
                let json = serde_json::to_string_pretty(rows)?;
                self.line(&json)
            }
            Format::Jsonl => rows.iter().try_for_each(|row| self.json_line(row)),
        }
    }

    /// Prints a value as one line of JSON.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let json = serde_json::to_string(value)?;
        self.line(&json)
    }

    /// Hands on what is buffered.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.to.flush().map_err(gone)
    }
}

/// A table without lines, its columns two spaces apart.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    // Never wrapped: a row is a line, also for grep.
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn gone(e: io::Error) -> anyhow::Error {
    if e.kind() == io::ErrorKind::BrokenPipe {
        anyhow::Error::new(Gone)
    } else {
        anyhow::Error::new(e).context("can't write to standard output")
    }
}

/// Prints a diagnostic. If standard error is closed as well, there is nobody left to tell.
pub(super) fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "ftp-helper: {message}");
}
