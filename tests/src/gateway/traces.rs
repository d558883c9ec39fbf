//! What a daemon leaves on its gateway: nothing, once it was stopped or could not start.

use std::{collections::BTreeSet, os::linux::fs::MetadataExt as _};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use ftp_helper::{
    dataplane::Platform,
    lab::{Host, process::Process},
};

use super::wait::PATIENCE;

/// Folders that daemons on this host have in the BPF file system.
///
/// # Errors
/// When the host's namespace or the folder can't be looked at.
pub fn pins(on: &Host) -> Result<BTreeSet<String>> {
    const ALL: &str = "/sys/fs/bpf/ftp-helper";
    let inode = std::fs::metadata(on.namespace_path())?.st_ino();
    let entries = match std::fs::read_dir(ALL) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.context(ALL)?,
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    Ok(names.filter(|n| n.starts_with(&format!("{inode}-"))).collect())
}

/// Everything of ftp-helper that this host shows, in words: pins, programs and filters on its interfaces, and sockets.
///
/// # Errors
/// When the host can't be looked at.
pub fn traces(on: &Host) -> Result<Vec<String>> {
    let mut found: Vec<String> = pins(on)?.into_iter().map(|p| format!("pinned: {p}")).collect();
    let inside = on.run_in(|| -> Result<(Vec<String>, String)> {
        let mut attached = Vec::new();
        for interface in nix::net::if_::if_nameindex()?.iter() {
            let name = interface.name().to_string_lossy().into_owned();
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                if !Platform::here().has_tcx() {
                    continue;
                }
                let (_, programs) = SchedClassifier::query_tcx(&name, hook)?;
                let names = programs.iter().map(|p| p.name_as_str().unwrap_or("?").to_owned());
                attached.extend(names.map(|p| format!("attached to {name}: {p}")));
            }
        }
        Ok((attached, std::fs::read_to_string("/proc/thread-self/net/unix")?))
    })?;
    let (attached, sockets) = inside?;
    found.extend(attached);
    found.extend(sockets.lines().filter(|l| l.contains("ftp-helper/")).map(|l| format!("socket: {l}")));
    for (program, arguments, trace) in [("tc", ["qdisc", "show"], "clsact"), ("ip", ["link", "show"], "prog/xdp")] {
        let mut command = on.command(program);
        command.args(arguments);
        let done = Process::spawn(command)?.finish(PATIENCE)?;
        ensure!(done.success(), "{program}: {}", done.output);
        found.extend(done.output.lines().filter(|l| l.contains(trace)).map(ToOwned::to_owned));
    }
    Ok(found)
}
