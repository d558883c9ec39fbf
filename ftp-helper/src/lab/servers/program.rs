//! Where the servers' programs are.

use std::path::{Path, PathBuf};

use crate::lab::error::{LabError, Result};

/// A program, and where the libraries are that were fetched with it.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) libraries: Vec<PathBuf>,
}

/// The directory of fetched servers: `$FTP_HELPER_LAB_SERVERS`, or `lab-servers` in the `target` directory of the
/// workspace that this runs in, or in one here.
#[must_use]
pub fn default_cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("FTP_HELPER_LAB_SERVERS") {
        return dir.into();
    }
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Path::new(&target).join("lab-servers");
    }
    let here = std::env::current_dir().unwrap_or_default();
    // Tests run in their package's directory, below the workspace's.
    let workspace = here.ancestors().find(|d| d.join("Cargo.lock").is_file());
    workspace.unwrap_or(&here).join("target/lab-servers")
}

/// A program that was unpacked into `<cache>/<server>`, or else is installed.
pub(super) fn find(cache: &Path, server: &str, name: &str) -> Result<Program> {
    let root = cache.join(server);
    let fetched = ["usr/sbin", "usr/bin"].map(|d| root.join(d).join(name)).into_iter().find(|p| p.is_file());
    if let Some(path) = fetched {
        return Ok(Program { path, libraries: libraries(&root)? });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Not on everybody's PATH, but where servers are.
    let more = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let installed = std::env::split_paths(&path).chain(more).map(|d| d.join(name)).find(|p| p.is_file());
    match installed {
        Some(path) => Ok(Program { path, libraries: Vec::new() }),
        None => Err(LabError::NoProgram { program: name.to_owned(), looked: root }),
    }
}

/// The directories of shared libraries in an unpacked package: `lib/<architecture>` and `usr/lib/<architecture>`.
fn libraries(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for lib in ["lib", "usr/lib"] {
        let lib = root.join(lib);
        let entries = match std::fs::read_dir(&lib) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(LabError::io(format!("can't read {}", lib.display()))(e)),
        };
        for entry in entries {
            let path = entry.map_err(LabError::io(format!("can't read {}", lib.display())))?.path();
            if path.is_dir() && path.to_string_lossy().contains("-linux-gnu") {
                // A relative one would be looked for from wherever the server goes.
                found.push(std::path::absolute(&path).map_err(LabError::io(path.display().to_string()))?);
            }
        }
    }
    Ok(found)
}
