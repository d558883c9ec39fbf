//! Commands that the tasks start.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::host::{Host, Rights, cargo_bin};

/// The running cargo itself, not rustup's proxy, in the root of the source tree.
///
/// What `cargo run` sets for this program must not reach it: some build scripts (ring's) are run again when one of these
/// variables differs, and everything that depends on them is built again.
pub(crate) fn cargo(host: &Host) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&host.root);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let set_by_run = ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix));
        if set_by_run || ["CARGO_CRATE_NAME", "CARGO_BIN_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&&*text) {
            cargo.env_remove(&name);
        }
    }
    if let Some(path) = path_with_cargo_bin(&env::var_os("PATH").unwrap_or_default()) {
        cargo.env("PATH", path);
    }
    cargo.stdin(Stdio::null());
    cargo
}

/// A command that is run as root: as it is, or by sudo.
pub(crate) fn as_root(host: &Host, argv: &[String]) -> Command {
    let sudo = ["sudo".to_owned(), "-n".to_owned()];
    let prefix = if host.rights == Rights::Root { &[][..] } else { &sudo[..] };
    let mut words = prefix.iter().chain(argv);
    let mut command = Command::new(words.next().map_or("true", String::as_str));
    command.args(words).stdin(Stdio::null());
    command
}

/// The same command, which runs while a processor has nothing else to do (`SCHED_IDLE`, sched(7)); as it is where there is no chrt(1).
pub(crate) fn idly(host: &Host, command: &Command) -> Command {
    let mut idle = Command::new(command.get_program());
    if let Some(chrt) = host.program("chrt") {
        idle = Command::new(chrt);
        idle.args(["-i", "0"]).arg(command.get_program());
    }
    idle.args(command.get_args()).stdin(Stdio::null());
    if let Some(dir) = command.get_current_dir() {
        idle.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => idle.env(name, value),
            None => idle.env_remove(name),
        };
    }
    idle
}

/// Runs a command to its end; an error names the command and how it ended.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("can't start: {line}"))?;
    if !status.success() {
        bail!("failed ({status}): {line}");
    }
    Ok(())
}

/// The same for a command whose output matters only when it fails: then it is part of the error.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let line = line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("can't start: {line}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim_end().to_owned());
        bail!("failed ({}): {line}\n{}", output.status, said.join("\n").trim());
    }
    Ok(())
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.fold(String::new(), |mut line, word| {
        if !line.is_empty() {
            line.push(' ');
        }
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            line.push_str(&word);
        } else {
            let _ = write!(line, "'{}'", word.replace('\'', r"'\''"));
        }
        line
    })
}

/// `PATH` with the directory where cargo installs at its end, or `None` if it is there already: `PATH` is what the build
/// script of ftp-helper looks at, so it must not change without need.
fn path_with_cargo_bin(path: &OsStr) -> Option<OsString> {
    let bin = cargo_bin()?;
    let mut dirs: Vec<_> = env::split_paths(path).collect();
    if dirs.contains(&bin) {
        return None;
    }
    dirs.push(bin);
    env::join_paths(dirs).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_typed() {
        let mut command = Command::new("sudo");
        command.args(["-n", "apt-get", "install", "a b", "it's", "", "-oX::Y=z"]);
        assert_eq!(line(&command), r"sudo -n apt-get install 'a b' 'it'\''s' '' -oX::Y=z");
    }

    #[test]
    fn an_idle_command_is_the_same() {
        let host = Host::read().expect("/proc is there");
        let mut command = Command::new("sh");
        // Field 41 of proc_pid_stat(5) is the policy.
        command.args(["-c", "cut -d ' ' -f 41 /proc/self/stat; pwd; echo $A$HOME"]).current_dir("/");
        command.env("A", "1").env_remove("HOME");
        let said = crate::host::output_of(&mut idly(&host, &command)).expect("sh is there");
        // SCHED_IDLE or SCHED_OTHER.
        let policy = if host.program("chrt").is_some() { 5 } else { 0 };
        assert_eq!(said, format!("{policy}\n/\n1"));
    }

    #[test]
    fn an_error_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("it exits 3").to_string();
        assert!(error.contains("sh -c 'exit 3'") && error.contains('3'), "{error}");
        let error = run_quietly(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 1"])).expect_err("it exits 1");
        assert!(error.to_string().ends_with("\na\nb"), "{error}");
        let error = run(&mut Command::new("no-such-program-anywhere")).expect_err("it is not there").to_string();
        assert!(error.contains("can't start: no-such-program-anywhere"), "{error}");
    }

    #[test]
    fn cargo_bin_is_added_once() {
        let once = path_with_cargo_bin(OsStr::new("/usr/bin")).expect("HOME or CARGO_HOME is set");
        assert!(once.to_string_lossy().starts_with("/usr/bin:"));
        assert_eq!(path_with_cargo_bin(&once), None);
    }
}
