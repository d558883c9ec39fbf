//! Rights: those that the daemon gives up, and those that it can do with.

use anyhow::{Context as _, Result};
use ftp_helper::{
    api::client::Client,
    lab::{Lab, LabOptions, process::Process, require_root},
};
use ftp_helper_tests::{
    gateway::{Gateway, PATIENCE, Settings, engine, traces, within},
    responder::{CONTENT, Responder},
    spinner::{Cut, Mode},
};
use nix::sys::signal::Signal;

use super::login;

/// The capabilities of a process, from /proc, by set.
fn capabilities(pid: u32, set: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("{set}:"))).with_context(|| format!("no {set}"))?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}

/// CAP_NET_ADMIN (12), CAP_NET_RAW (13), CAP_PERFMON (38), CAP_BPF (39): linux/capability.h.
const FOUR: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;

#[test]
fn rights_are_given_up() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let mut gateway = Gateway::start(&lab, &Settings::guarded(&lab, "drop"), &[]).unwrap();
    let pid = gateway.id().unwrap();
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(capabilities(pid, set).unwrap(), FOUR, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(capabilities(pid, set).unwrap(), 0, "{set}");
    }
    assert_eq!(capabilities(pid, "NoNewPrivs").unwrap(), 1);
    // So is it in every thread.
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(text.contains(&format!("CapEff:\t{FOUR:016x}")), "{text}");
    }
    assert!(gateway.stop().unwrap().success());
}

#[test]
fn a_time_namespace_with_another_clock_is_refused() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let config = lab.directory().join("timens.toml");
    std::fs::write(&config, Settings::guarded(&lab, "drop").text(&lab.directory().join("timens.sock"))).unwrap();
    let mut command = lab.gateway().command("unshare");
    command.args(["--time", "--monotonic", "1000", "--fork"]).arg(ftp_helper_tests::gateway::program().unwrap());
    command.arg("run").arg("-c").arg(&config);
    let said = ftp_helper_tests::program::said(command).unwrap();
    assert!(said.code == 1 && said.err.contains("a time namespace with a monotonic clock of its own"), "{said:?}");
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
}

#[test]
fn a_user_with_four_capabilities_runs_it() {
    /// `nobody`, in the group `nogroup`.
    const NOBODY: u32 = 65534;
    /// A BPF file system of its own, in which the user may make what the daemon needs.
    const SCRIPT: &str = "mount -t bpf bpf /sys/fs/bpf && chmod 755 /sys/fs/bpf && mkdir /sys/fs/bpf/ftp-helper && \
         chown 65534:65534 /sys/fs/bpf/ftp-helper && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+bpf,+net_admin,+perfmon,+net_raw \
         --ambient-caps -all,+bpf,+net_admin,+perfmon,+net_raw --bounding-set -all,+bpf,+net_admin,+perfmon,+net_raw \"$0\" \"$@\"";
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let clean = traces(lab.gateway()).unwrap();
    let responder = Responder::start(lab.server(), lab.server().v4().into()).unwrap();
    let own = tempfile::tempdir().unwrap();
    let program = own.path().join("ftp-helper");
    std::fs::copy(ftp_helper_tests::gateway::program().unwrap(), &program).unwrap();
    let (config, socket) = (own.path().join("user.toml"), own.path().join("user.sock"));
    let api = "read_group = \"nogroup\"\nwrite_group = \"nogroup\"\n".to_owned();
    std::fs::write(&config, Settings { api, ..Settings::guarded(&lab, "drop") }.text(&socket)).unwrap();
    for path in [own.path(), &config, &program] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = lab.gateway().command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]).arg(&program);
    command.arg("run").arg("-c").arg(&config);
    let process = Process::spawn(command).unwrap();
    let client = || Client::connect(&socket);
    let attached =
        within(PATIENCE, || Ok(client().and_then(|mut c| c.status()).is_ok_and(|s| !s.interfaces.is_empty()))).unwrap();
    assert!(attached, "{}", process.output().unwrap());
    let pid = process.id();
    assert_eq!((capabilities(pid, "CapEff").unwrap(), capabilities(pid, "CapBnd").unwrap()), (FOUR, FOUR));
    assert_eq!(capabilities(pid, "CapAmb").unwrap(), 0);
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(text.contains("Uid:\t65534\t65534\t65534\t65534"), "{text}");
    let to = responder.address();
    let work = || -> Result<()> {
        let mut spinner = login(to)?;
        for cut in [Cut::Whole, Cut::Bytes, Cut::Pipelined] {
            spinner.cut = cut;
            for mode in [Mode::Pasv, Mode::Epsv, Mode::Port, Mode::Eprt] {
                spinner.fetch(mode, "x", CONTENT.len())?;
            }
        }
        Ok(())
    };
    lab.client().run_in(work).unwrap().unwrap();
    // A configuration that is read again, and an interface that comes: neither takes more rights.
    let report = client().and_then(|mut c| c.reload()).unwrap();
    assert!(report.needs_restart.is_empty() && report.changed.is_empty(), "{report:?}");
    lab.client().run_in(work).unwrap().unwrap();
    let status = client().and_then(|mut c| c.status()).unwrap();
    assert_eq!((engine(&status, "divergences"), engine(&status, "audit_differences")), (0, 0));
    process.signal(Signal::SIGTERM).unwrap();
    let done = process.finish(PATIENCE).unwrap();
    assert!(done.success(), "{}", done.output);
    assert_eq!(traces(lab.gateway()).unwrap(), clean);
    responder.stop(lab.server());
}
