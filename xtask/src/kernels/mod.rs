//! `cargo xtask test --kernel VERSION`: boots one of Debian's kernels in a virtual machine, whose only file system is an
//! initramfs with test programs and ftp-helper, and reads from its serial line how the tests went.

mod image;
mod package;

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use self::{image::Image, package::Unpacked};
use crate::{
    command,
    host::Host,
    test::{Count, Steps},
};

/// A kernel that the tests run on beside the host's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kernel {
    /// Its series, such as `6.1`.
    pub(crate) series: &'static str,
    /// The step's name.
    step: &'static str,
    /// The name of the step that fetches it and builds its file system.
    preparing: &'static str,
}

/// The oldest series that ftp-helper supports, and the one behind it that has TCX.
pub(crate) static KERNELS: [Kernel; 2] = [
    Kernel { series: "6.1", step: "kernel 6.1", preparing: "image 6.1" },
    Kernel { series: "6.12", step: "kernel 6.12", preparing: "image 6.12" },
];

/// The test programs that run there: attaching, the fast path, the guard, one transfer a mode, and a daemon that dies. What
/// needs real servers and clients runs on the host's kernel only.
const PROGRAMS: [&str; 6] =
    ["kernel_guard", "kernel_session", "kernel_range", "kernel_nat", "e2e_kernels", "e2e_daemon"];

/// The virtual machine's memory, MiB: the file system lies in it.
const MEMORY: &str = "3072";

/// Seconds for a machine from its start to its end. It is emulated; two of them take some three minutes on two idle cores, and nine
/// beside other tests.
const LIMIT: &str = "1500";

/// Whether they can be had and run here, or why not.
///
/// # Errors
/// The text says what is missing.
pub(crate) fn are_possible(host: &Host) -> Result<(), &'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the kernels are Debian's for x86-64, and this is another machine");
    }
    if !host.os.is_debian_12() {
        return Err("the kernels are Debian 12's packages, and this is another system");
    }
    Ok(())
}

/// Runs the tests on these kernels, a step or two each; adds their results to `count`.
///
/// # Errors
/// A step can't be started.
pub(crate) fn run(host: &Host, kernels: &[Kernel], steps: &mut Steps, count: &mut Count) -> Result<()> {
    let mut machines = Vec::new();
    for kernel in kernels {
        steps.check(kernel.preparing, || {
            match prepare(host, kernel.series) {
                Ok(machine) => machines.push((kernel.step, machine)),
                Err(error) => return Ok(vec![format!("{error:#}")]),
            }
            Ok(Vec::new())
        })?;
    }
    // Emulated, each keeps little more than one processor busy.
    let outputs = steps.commands(&mut machines)?;
    for ((step, _), output) in machines.iter().zip(outputs) {
        let result = Count::of(&output).on(&step.replace("kernel", "Linux"));
        if !output.lines().any(|line| line.trim_end() == image::END) {
            steps.fail(step, "the machine stopped before its tests were over");
        } else if result.failed > 0 || result.run() == 0 {
            steps.fail(step, &result.to_string());
        } else {
            steps.note(step, &result.to_string());
        }
        count.add(result);
    }
    Ok(())
}

/// Fetches the kernel, builds the test programs and the file system; the command that boots it.
fn prepare(host: &Host, series: &str) -> Result<Command> {
    let kernel = Unpacked::get(host, series)?;
    let dir = host.root.join("target/kernels");
    let root = dir.join(format!("root-{series}"));
    let archive = dir.join(format!("initramfs-{series}.cpio"));
    let mut image = Image::new(host, &root)?;
    for name in ["ip", "tc", "nft", "modprobe", "timeout"] {
        image.program(host, name)?;
    }
    image.modules(host, &kernel.modules)?;
    image.test_program(&host.target()?.join("debug/ftp-helper"), "ftp-helper")?;
    for (name, file) in programs(host)? {
        image.test_program(&file, &format!("deps/{name}"))?;
    }
    image.pack(host, &archive)?;
    // It is killed, and fails, when it does not come to its end. `timeout` is of the machine outside.
    let mut machine = Command::new("timeout");
    machine.args(["--kill-after=10", LIMIT, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    machine.args(["-smp", "2", "-m", MEMORY, "-nographic", "-no-reboot", "-nic", "none", "-append"]);
    machine.args(["console=ttyS0 quiet panic=-1", "-kernel"]).arg(&kernel.image).arg("-initrd").arg(&archive);
    Ok(machine)
}

/// Builds the test programs; their names and files.
fn programs(host: &Host) -> Result<Vec<(&'static str, PathBuf)>> {
    command::run_quietly(command::cargo(host).args(["build", "--package", "ftp-helper", "--locked"]))?;
    let mut cargo = command::cargo(host);
    cargo.args(["test", "--package", "ftp-helper-tests", "--locked", "--no-run", "--message-format", "json"]);
    let line = command::line(&cargo);
    let output = cargo.output().with_context(|| format!("can't start: {line}"))?;
    if !output.status.success() {
        bail!("failed ({}): {line}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built: Vec<_> = messages.lines().filter_map(executable).collect();
    let find = |name: &'static str| {
        let file = built.iter().find(|(target, _)| target == name).map(|(_, file)| (name, file.clone()));
        file.with_context(|| format!("cargo built no test program {name}"))
    };
    PROGRAMS.into_iter().map(find).collect()
}

/// The target and the file of a message of cargo's that tells of a program.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let file = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_where_a_program_is() {
        let told = r#"{"reason":"compiler-artifact","target":{"name":"a_test"},"executable":"/x/deps/a_test-1"}"#;
        assert_eq!(executable(told), Some(("a_test".to_owned(), "/x/deps/a_test-1".into())));
        for other in
            [r#"{"reason":"build-finished","success":true}"#, r#"{"target":{"name":"a"},"executable":null}"#, "x"]
        {
            assert_eq!(executable(other), None, "{other}");
        }
    }
}
