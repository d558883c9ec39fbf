//! The shared libraries of this host.

use std::process::Command;

use crate::host::{Host, output_of};

/// Whether the dynamic linker finds a library.
pub(crate) fn has_library(host: &Host, soname: &str) -> bool {
    let Some(ldconfig) = host.program("ldconfig") else { return false };
    output_of(Command::new(ldconfig).arg("-p")).is_some_and(|cache| lists(&cache, soname))
}

/// Whether a listing of `ldconfig -p` has a library.
fn lists(cache: &str, soname: &str) -> bool {
    cache.lines().any(|line| line.split_whitespace().next() == Some(soname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_by_their_whole_name() {
        let cache =
            "2 libs found in cache\n\tlibwrap.so.01 (libc6,x86-64) => /lib/a\n\tlibssl.so.3 (libc6) => /lib/b\n";
        assert!(lists(cache, "libssl.so.3"));
        assert!(!lists(cache, "libwrap.so.0") && !lists(cache, "libssl.so") && !lists("", "libssl.so.3"));
    }
}
