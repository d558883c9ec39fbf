//! What is done again and again, and may fail for a while: no memory, no free descriptor, an interface that can't be attached to.
//! The guard stays as it is meanwhile, and the daemon goes on.

use std::{collections::BTreeMap, fmt};

/// What is done again and again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Task {
    /// Looking at the host's interfaces.
    Host,
    /// Attaching to an interface that has appeared.
    Attaching(String),
    /// Going by the addresses of interfaces that guards or servers name.
    Addresses,
    /// Learning of inside ends, where addresses are translated.
    Translations,
    /// Looking for what has no owner any more.
    Sweep,
    /// Comparing the kernel's tables with the engine's.
    Audit,
}

/// What of it fails at present.
#[derive(Default)]
pub(super) struct Troubles(BTreeMap<Task, String>);

impl Troubles {
    /// Takes note of how it went: says what is wrong once, as long as it is the same.
    pub(super) fn note(&mut self, task: Task, result: anyhow::Result<()>) {
        match result.map_err(|e| format!("{e:#}")) {
            Ok(()) => drop(self.0.remove(&task)),
            Err(text) if self.0.get(&task) == Some(&text) => {}
            Err(text) => {
                tracing::error!("{task}: {text}");
                self.0.insert(task, text);
            }
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "interfaces can't be followed, and stay as they are",
            Self::Attaching(name) => return write!(f, "{name} is not followed, and will be tried again"),
            Self::Addresses => {
                "addresses of interfaces that guards or servers name have changed, and can't be followed; the old ones stay"
            }
            Self::Translations => "inside ends can't be gone through, and will be again in some seconds",
            Self::Sweep => "tables can't be gone through for what has no owner, and will be again",
            Self::Audit => "the audit can't look at the tables, and will try again",
        })
    }
}
