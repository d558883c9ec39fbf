//! The configuration of the daemon under test.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use ftp_helper::lab::{Lab, OUTSIDE_INTERFACE, Topology};

/// The nice value that the package's unit gives the daemon.
pub const UNIT_NICE: i32 = -10;

/// A configuration for a lab's gateway, to be changed before it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `observe` or `drop`.
    pub mode: &'static str,
    /// Lines of the top level, such as `on_daemon_loss = "close"`.
    pub top: String,
    /// The outside interfaces, as TOML.
    pub interfaces: String,
    /// Further lines of `[watch]`.
    pub watch: String,
    /// All `[[guard]]` sections.
    pub guards: String,
    /// Lines of `[policy]`.
    pub policy: String,
    /// Lines of `[api]` beside the socket.
    pub api: String,
    /// Further sections, such as `[pinhole]`.
    pub sections: String,
    /// The daemon's nice value (nice(1)); the unit of the package has [`UNIT_NICE`].
    pub nice: i32,
}

impl Settings {
    /// Guards in both directions: towards whatever is inside, from everybody; and towards whatever is outside, from
    /// the FTP servers, or where those are outside, from the client.
    #[must_use]
    pub fn guarded(lab: &Lab, mode: &'static str) -> Self {
        let addresses = |host: &ftp_helper::lab::Host| [IpAddr::from(host.v4()), IpAddr::from(host.v6())];
        let servers: Vec<IpAddr> = lab.servers().iter().flat_map(addresses).collect();
        let clients: Vec<IpAddr> = addresses(lab.client()).to_vec();
        let (inside, outside) = match lab.topology() {
            Topology::ServerInside => (servers, clients),
            Topology::ClientInside => (clients, servers),
        };
        let (inside, outside) = (list(&inside), list(&outside));
        Self {
            mode,
            top: String::new(),
            interfaces: format!("[\"{OUTSIDE_INTERFACE}\"]"),
            watch: String::new(),
            guards: format!(
                "[[guard]]\nnetworks = {inside}\n[[guard]]\ndirection = \"out\"\nnetworks = {outside}\ninitiators = {inside}\n"
            ),
            policy: "active_inbound = true\n".to_owned(),
            api: "read_group = \"root\"\n".to_owned(),
            sections: String::new(),
            nice: 0,
        }
    }

    /// The same with a line more in `[policy]`.
    #[must_use]
    pub fn policy(mut self, line: &str) -> Self {
        self.policy.push_str(line);
        self.policy.push('\n');
        self
    }

    /// The same with further sections.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self, socket: &Path) -> String {
        let Self { mode, top, interfaces, watch, guards, policy, api, sections, nice: _ } = self;
        let mut text = format!("mode = \"{mode}\"\n{top}\n[watch]\ninterfaces = {interfaces}\n{watch}\n{guards}\n");
        // Writing to a string does not fail.
        let _ = write!(text, "[policy]\n{policy}\n{sections}\n");
        let _ = write!(text, "[api]\nsocket = \"{}\"\n{api}\n", socket.display());
        text
    }
}

/// Addresses as a list in TOML.
#[must_use]
pub fn list(addresses: &[IpAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    format!("[{}]", quoted.join(", "))
}
