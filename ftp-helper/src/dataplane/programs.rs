//! What the verifier made of the programs.

use anyhow::Context as _;
use aya::{EbpfLoader, programs::Program};

/// Instructions that the verifier has looked at, for each program of the object.
///
/// # Errors
/// When the object can't be loaded.
pub fn verified_instructions(nat: bool) -> anyhow::Result<Vec<(String, u32)>> {
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &0u8, true)
        .override_global("NAT", &u32::from(nat), true)
        .load(super::object())
        .context("can't load the object")?;
    let mut counts = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(p) => p.load(),
            Program::Xdp(p) => p.load(),
            _ => anyhow::bail!("{name} is a program of another kind"),
        }
        .with_context(|| format!("can't load {name}"))?;
        counts.push((name.to_string(), program.info()?.verified_instruction_count().unwrap_or(0)));
    }
    counts.sort();
    Ok(counts)
}
