//! What this host offers, looked at before anything is changed.

use std::path::{Path, PathBuf};

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
}

impl Platform {
    /// This host.
    pub fn here() -> Self {
        let release = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_else(|_| "unknown".into());
        Self { release, btf: "/sys/kernel/btf/vmlinux".into() }
    }

    /// Whether the kernel side can run here.
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
        let of = |release: &str| Platform { release: release.into(), btf: "/".into() };
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
        let none = Platform { release: "6.1.0".into(), btf: "/nonexistent/vmlinux".into() };
        assert!(none.check().unwrap_err().message.contains("CONFIG_DEBUG_INFO_BTF"));
    }
}
