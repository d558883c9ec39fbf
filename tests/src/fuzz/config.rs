//! Configurations: whatever the text, there is a configuration that explains itself, or a list of problems with places.

use std::path::Path;

use ftp_helper::config::{Config, ConfigError};

/// Reads the bytes as a configuration.
///
/// # Panics
/// What is accepted can't be explained, is not the same twice, or holds what it may not; what is refused names no place.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let name = Path::new("fuzz.toml");
    match Config::parse(text, name) {
        Ok(config) => {
            let told = serde_json::to_string(&config.explain()).expect("an explanation is JSON");
            assert!(told.len() > 2);
            assert_eq!(Config::parse(text, name).ok().as_ref(), Some(&config), "not the same twice");
            assert!(!config.watch.interfaces.is_empty() && !config.watch.control_ports.is_empty());
            assert!(config.ring_bytes.is_power_of_two() && config.ring_bytes >= 4096);
            assert!(config.policy.control_ports.iter().eq(&config.watch.control_ports));
            for guard in &config.guards {
                assert!(!guard.networks.is_empty() && !guard.initiators.is_empty() && !guard.ports.is_empty());
            }
        }
        Err(e @ ConfigError::Invalid { .. }) => {
            let shown = e.report(false);
            let ConfigError::Invalid { problems, .. } = e else { return };
            assert!(!problems.is_empty(), "refused without a word");
            let lines = text.split('\n').count();
            for problem in problems {
                let told = problem.to_string();
                assert!(shown.contains(&told), "{told} is not in\n{shown}");
                assert!(text.get(problem.span.clone()).is_some(), "{told}: {:?}", problem.span);
                assert!(problem.line >= 1 && problem.line <= lines && problem.column >= 1, "{told}");
                assert!(!problem.what.is_empty() && !problem.remedy.is_empty(), "{told}");
            }
        }
        Err(other) => panic!("a text can't fail so: {other}"),
    }
}
