//! Builds the BPF object and puts it at `$OUT_DIR/ftp-helper-ebpf`.
//!
//! In this order: a ready object (`FTP_HELPER_BPF_OBJECT`, for packagers); a chosen compiler (`FTP_HELPER_BPF_RUSTC`
//! with a prebuilt `core`, or `FTP_HELPER_BPF_TOOLCHAIN`, a rustup toolchain with rust-src); a rustc that ships `core`
//! for the target (Debian: `libstd-rust-web-dev-bpf`); a rustup nightly with rust-src.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = "ftp-helper-ebpf";

fn main() {
    for v in ["FTP_HELPER_BPF_RUSTC", "FTP_HELPER_BPF_TOOLCHAIN", "FTP_HELPER_BPF_OBJECT", "BPF_LINKER", "PATH"] {
        println!("cargo::rerun-if-env-changed={v}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("..");
    for p in ["ftp-helper-ebpf", "ftp-helper-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(p).display());
    }
    let object = out.join(PACKAGE);
    if let Some(ready) = env::var_os("FTP_HELPER_BPF_OBJECT") {
        copy(Path::new(&ready), &object);
        return;
    }
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let toolchain = Toolchain::pick(target).unwrap_or_else(|| {
        panic!(
            "no Rust toolchain here can compile for {target}. Run `cargo xtask setup`, or install one of\n  \
             apt-get install rustc-web libstd-rust-web-dev-bpf      (Debian: a rustc with a prebuilt core)\n  \
             rustup toolchain install nightly --component rust-src\n\
             and bpf-linker: cargo install bpf-linker --version 0.10.3 --locked"
        )
    });
    // OUT_DIR is <target>/<profile>/build/<package>-<hash>/out: one directory for the BPF build of all profiles. It
    // must not be the outer one, which the running cargo has locked.
    let target_dir = out.ancestors().nth(4).expect("OUT_DIR has this depth").join("bpf");
    let mut cargo = toolchain.cargo();
    cargo.current_dir(&root).args(["build", "--profile", "bpf", "--package", PACKAGE, "--bin", PACKAGE]);
    cargo.args(["--target", target]).arg("--target-dir").arg(&target_dir);
    // What the outer cargo sets for the host must not reach the kernel's side.
    for v in [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(v);
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let mut flags: Vec<OsString> = vec![
        format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
        "-Cdebuginfo=2".into(),
        "-Ctarget-cpu=v3".into(),
        "-Clink-arg=--btf".into(),
    ];
    if let Some(linker) = env::var_os("BPF_LINKER") {
        let mut flag = OsString::from("-Clinker=");
        flag.push(linker);
        flags.push(flag);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f")));
    let status = cargo.status().unwrap_or_else(|e| panic!("can't start {cargo:?}: {e}"));
    assert!(
        status.success(),
        "the BPF object could not be built ({status}): see the messages above; if bpf-linker is missing: cargo install bpf-linker --version 0.10.3 --locked"
    );
    copy(&target_dir.join(target).join("bpf").join(PACKAGE), &object);
}

/// How to compile for `bpf*-unknown-none`.
enum Toolchain {
    /// A rustc that ships a prebuilt `core` for the target.
    Prebuilt(PathBuf),
    /// A rustup toolchain with rust-src: `core` is built from source.
    BuildStd(String),
}

impl Toolchain {
    fn pick(target: &str) -> Option<Self> {
        if let Some(rustc) = env::var_os("FTP_HELPER_BPF_RUSTC") {
            return Some(Self::Prebuilt(rustc.into()));
        }
        if let Ok(name) = env::var("FTP_HELPER_BPF_TOOLCHAIN") {
            return Some(Self::BuildStd(name));
        }
        let candidates = [env::var_os("RUSTC").map(PathBuf::from), Some(PathBuf::from("/usr/bin/rustc"))];
        for rustc in candidates.into_iter().flatten() {
            let root = sysroot(&mut Command::new(&rustc));
            if root.is_some_and(|s| s.join("lib/rustlib").join(target).join("lib").is_dir()) {
                return Some(Self::Prebuilt(rustc));
            }
        }
        let nightly = sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]).env_remove("RUSTC"));
        nightly
            .is_some_and(|s| s.join("lib/rustlib/src/rust/library/core").is_dir())
            .then(|| Self::BuildStd("nightly".into()))
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Prebuilt(rustc) => {
                // $CARGO is the running cargo itself, not rustup's proxy. aya-ebpf needs one unstable feature.
                let mut c = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
                c.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                c
            }
            Self::BuildStd(name) => {
                let mut c = Command::new("rustup");
                c.args(["run", name, "cargo", "-Zbuild-std=core"]).env("RUSTC_BOOTSTRAP", "1");
                for v in ["RUSTC", "RUSTUP_TOOLCHAIN", "CARGO", "RUSTDOC"] {
                    c.env_remove(v);
                }
                c
            }
        }
    }
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let o = rustc.args(["--print", "sysroot"]).output().ok()?;
    o.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()))
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|e| panic!("can't copy {} to {}: {e}", from.display(), to.display()));
}
