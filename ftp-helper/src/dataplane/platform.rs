//! What this host offers, looked at before anything is changed.

use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};

use crate::error::{Code, Fault};

/// The oldest kernel that everything was built for: Debian 12's.
const OLDEST: (u32, u32) = (6, 1);

/// What the kernel side needs of a host.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Where the kernel's type information lies.
    pub btf: PathBuf,
    /// The capabilities that this process needs and has not.
    pub missing: Vec<Capability>,
}

/// What the kernel side takes: loading programs and tables, attaching, what the verifier lets only the trusted do, and
/// the packet sockets that send parked SYNs on.
pub const NEEDED: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON, Capability::CAP_NET_RAW];

impl Platform {
    /// This host.
    pub fn here() -> Self {
        let release = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_else(|_| "unknown".into());
        // What can't be read is not known to be missing: the kernel will say so.
        let held = caps::read(None, CapSet::Effective).unwrap_or_else(|_| NEEDED.into());
        // capabilities(7): CAP_SYS_ADMIN stands for what was split off it.
        let implied = |c| matches!(c, Capability::CAP_BPF | Capability::CAP_PERFMON);
        let all = held.contains(&Capability::CAP_SYS_ADMIN);
        let missing = NEEDED.into_iter().filter(|c| !(held.contains(c) || all && implied(*c))).collect();
        Self { release, btf: "/sys/kernel/btf/vmlinux".into(), missing }
    }

    /// Whether the kernel side can run here, and this process may have it run.
    ///
    /// # Errors
    /// One message that names what is missing and the remedy.
    pub fn check(&self) -> Result<(), Fault> {
        let version = version(&self.release).ok_or_else(|| {
            Fault::new(Code::Failure, format!("can't read the kernel's release {:?} as a version", self.release))
        })?;
        if version < OLDEST {
            let (major, minor) = OLDEST;
            return Err(Fault::new(
                Code::Failure,
                format!(
                    "Linux {} is too old: ftp-helper needs {major}.{minor} or later (Debian 12 has 6.1); boot a newer kernel",
                    self.release
                ),
            ));
        }
        if !Path::new(&self.btf).exists() {
            return Err(Fault::new(
                Code::Failure,
                format!(
                    "the kernel has no type information at {}: it was built without CONFIG_DEBUG_INFO_BTF, or /sys is \
                     not mounted; distribution kernels of Debian 12, Ubuntu 22.04, Fedora and later have it",
                    self.btf.display()
                ),
            ));
        }
        if !self.missing.is_empty() {
            let names: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
            return Err(Fault::new(
                Code::NoPermission,
                format!(
                    "no permission for BPF programs on interfaces, for want of {}: run as root, or with {}",
                    names.join(", "),
                    NEEDED.map(|c| c.to_string()).join(", ")
                ),
            ));
        }
        Ok(())
    }

    /// Whether programs are attached through TCX (Linux 6.6).
    pub fn has_tcx(&self) -> bool {
        version(&self.release).is_some_and(|v| v >= (6, 6))
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_versions() {
        let of = |release: &str| Platform { release: release.into(), btf: "/".into(), missing: vec![] };
        assert!(of("6.1.0-18-amd64").check().is_ok());
        assert!(of("6.18.44-fc").has_tcx());
        assert!(!of("6.1.0-18-amd64").has_tcx());
        for old in ["5.10.0-28-amd64", "6.0.19", "4.19"] {
            let message = of(old).check().unwrap_err().message;
            assert!(message.contains(old) && message.contains("6.1 or later"), "{message}");
        }
        assert!(of("unknown").check().unwrap_err().message.contains("unknown"));
    }

    #[test]
    fn a_kernel_without_type_information_is_named() {
        let none = Platform { release: "6.1.0".into(), btf: "/nonexistent/vmlinux".into(), missing: vec![] };
        assert!(none.check().unwrap_err().message.contains("CONFIG_DEBUG_INFO_BTF"));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let missing = vec![Capability::CAP_PERFMON, Capability::CAP_NET_RAW];
        let fault = Platform { release: "6.1.0".into(), btf: "/".into(), missing }.check().unwrap_err();
        assert_eq!(fault.code, Code::NoPermission);
        assert!(fault.message.contains("for want of CAP_PERFMON, CAP_NET_RAW: run as root"), "{fault}");
    }
}
