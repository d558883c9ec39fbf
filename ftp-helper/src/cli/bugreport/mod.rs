//! `ftp-helper bugreport`: what there is to know about a host and its daemon, in one archive that can be sent.
//!
//! What was said in sessions is not in it, so that no password can be. Addresses are pseudonyms unless asked for
//! ([`hide`]). What can't be had, with or without a daemon, is said in the archive and on standard error.

mod collect;
mod hide;

use std::{
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use self::{collect::Collected, hide::Hide};
use super::{
    output::{Out, OutputArgs, complain},
    target::TargetArgs,
};
use crate::error::{Code, Fault};

/// Arguments of `bugreport`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BugreportArgs {
    /// The archive; without it, ftp-helper-bugreport-TIME.tar.gz in this directory
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,

    /// With addresses as they are, instead of pseudonyms
    #[arg(long)]
    with_addresses: bool,

    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  ftp-helper bugreport
  ftp-helper bugreport -c /etc/ftp-helper/ftp-helper.toml --into /tmp/report.tar.gz
  ftp-helper bugreport --with-addresses";

/// A file of the archive.
struct Part {
    name: &'static str,
    text: String,
}

/// What was written.
#[derive(Serialize)]
struct Written {
    file: PathBuf,
    /// What is not in it, and why.
    missing: Vec<String>,
}

/// Writes the archive and prints its name.
pub(super) fn run(args: BugreportArgs) -> anyhow::Result<ExitCode> {
    let BugreportArgs { into, with_addresses, target, output } = args;
    let now = SystemTime::now();
    let file = into.unwrap_or_else(|| name(now));
    if file.exists() {
        return Err(in_the_way(&file).into());
    }
    let Collected { mut parts, missing } = collect::all(&target);
    let hide = if with_addresses { None } else { Some(Hide::new()) };
    let hidden = |text: String| hide.as_ref().map_or_else(|| text.clone(), |h| h.addresses(&text));
    for part in &mut parts {
        part.text = hidden(std::mem::take(&mut part.text));
    }
    let missing: Vec<String> = missing.into_iter().map(hidden).collect();
    parts.insert(0, Part { name: "README", text: readme(&parts, &missing, with_addresses) });
    write(&file, &archive(&parts, now)?)?;
    for what in &missing {
        complain(&format!("not in the report: {what}"));
    }
    let mut out = Out::new(output);
    out.value(&Written { file, missing }, |w| w.file.display().to_string())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn name(now: SystemTime) -> PathBuf {
    let time: String =
        humantime::format_rfc3339_seconds(now).to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("ftp-helper-bugreport-{time}.tar.gz").into()
}

fn readme(parts: &[Part], missing: &[String], with_addresses: bool) -> String {
    let mut s = String::from("A report of ftp-helper bugreport.\n\n");
    s.push_str(if with_addresses {
        "Addresses are as they are.\n"
    } else {
        "Addresses are pseudonyms: the same for the same address everywhere in this report, and in one network if they are.\n"
    });
    s.push_str("What was said in sessions is not in here, and lines that were refused are left out of the events.\n");
    s.push_str("\nFiles:\n");
    parts.iter().for_each(|part| s.push_str(&format!("  {}\n", part.name)));
    if !missing.is_empty() {
        s.push_str("\nMissing:\n");
        missing.iter().for_each(|what| s.push_str(&format!("  {what}\n")));
    }
    s
}

fn archive(parts: &[Part], now: SystemTime) -> anyhow::Result<Vec<u8>> {
    let time = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for Part { name, text } in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        tar.append_data(&mut header, Path::new("ftp-helper-bugreport").join(name), text.as_bytes())
            .with_context(|| format!("can't put {name} into the archive"))?;
    }
    tar.into_inner().and_then(GzEncoder::finish).context("can't compress the archive")
}

/// Puts the whole file there at once, readable for its owner alone: nothing half-written has its name, and what fails leaves
/// nothing behind.
fn write(file: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let directory = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e: &io::Error| {
        let code = if e.kind() == io::ErrorKind::PermissionDenied { Code::NoPermission } else { Code::Failure };
        Fault::new(code, format!("can't write {}: {e}; name another file with --into FILE", file.display()))
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".ftp-helper-bugreport-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(|e| failed(&e))?;
    temporary.write_all(bytes).and_then(|()| temporary.as_file().sync_all()).map_err(|e| failed(&e))?;
    match temporary.persist_noclobber(file) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Err(in_the_way(file)),
        Err(e) => Err(failed(&e.error)),
    }
}

fn in_the_way(file: &Path) -> Fault {
    Fault::new(Code::Failure, format!("{} is there already: name another file with --into FILE", file.display()))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, time::Duration};

    use super::*;

    #[test]
    fn the_file_is_whole_its_owners_alone_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report.tar.gz");
        let parts = [Part { name: "README", text: "hello".into() }, Part { name: "status.json", text: "{}".into() }];
        write(&file, &archive(&parts, SystemTime::now()).unwrap()).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()));
        let read = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        let expected = [("README", "hello"), ("status.json", "{}")];
        assert_eq!(
            read.collect::<Vec<_>>(),
            expected.map(|(n, t)| (format!("ftp-helper-bugreport/{n}"), t.to_owned()))
        );
        let fault = write(&file, b"other").unwrap_err();
        assert!(fault.message.contains("is there already"), "{fault}");
        let fault = write(&dir.path().join("no/such/dir.tar.gz"), b"x").unwrap_err();
        assert!(fault.message.starts_with("can't write "), "{fault}");
        // Nothing else was left.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_name_holds_the_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(name(now), Path::new("ftp-helper-bugreport-20231114T221320Z.tar.gz"));
    }
}
