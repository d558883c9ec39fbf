//! From what is missing to what is done about it: a decision that reads nothing and changes nothing.

use std::{fmt::Write as _, path::Path};

use crate::{
    host::{Os, Rights},
    setup::{
        need::{Need, Remedy},
        servers::Packages,
    },
};

/// What to do.
#[derive(Debug)]
pub(crate) enum Plan {
    /// These, in this order.
    Run(Vec<Action>),
    /// Nothing: the text says what the reader has to do.
    Explain(String),
}

/// One thing to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// A command that needs root.
    Root(Vec<String>),
    /// Arguments of cargo, and how long it takes.
    Cargo(Vec<String>, &'static str),
    /// A command that runs as whoever we are.
    User(Vec<String>),
    /// A server to download and unpack.
    Unpack(&'static Packages<'static>),
}

/// Decides what to do about `missing`, where `servers` is the directory of the lab's servers.
pub(crate) fn plan(missing: &[&Need], os: &Os, rights: Rights, servers: &Path) -> Plan {
    let faults: Vec<_> = missing.iter().copied().filter(|need| matches!(need.remedy, Remedy::Host(_))).collect();
    if !os.is_debian_12() && missing.iter().any(|need| is_installed(need.remedy)) {
        let mut text = format!(
            "set-up installs by itself on Debian 12 only, and this is {}. Install what is missing, then run the command \
             again:\n",
            os.name
        );
        let rest = missing.iter().filter(|need| !matches!(need.remedy, Remedy::Host(_)));
        let rows: Vec<_> = rest.map(|n| [n.what.into(), n.why.into(), elsewhere(n.remedy, servers)]).collect();
        text.push_str(&table(&rows));
        text.push_str(&faults_text(&faults));
        return Plan::Explain(text);
    }
    let actions = actions(missing, rights);
    let needs_root = actions.iter().any(|action| matches!(action, Action::Root(_)));
    if needs_root && rights == Rights::None {
        let mut text = format!("missing are\n{}", list(missing));
        text.push_str("and this is not root, and sudo asks for a password. Run\n");
        let (as_root, as_user): (Vec<_>, Vec<_>) = actions.iter().partition(|a| matches!(a, Action::Root(_)));
        for action in as_root {
            let _ = writeln!(text, "  sudo {}", action.line());
        }
        text.push_str("and then the command again");
        text.push_str(if as_user.is_empty() { ".\n" } else { ", which does the rest without root:\n" });
        for action in as_user {
            let _ = writeln!(text, "  {}", action.line());
        }
        text.push_str(&faults_text(&faults));
        return Plan::Explain(text);
    }
    if actions.is_empty() && !faults.is_empty() {
        return Plan::Explain(format!("this host can't do it as it is.\n{}", faults_text(&faults)));
    }
    Plan::Run(actions)
}

/// The missing things and why they are needed, one a line.
pub(crate) fn list(missing: &[&Need]) -> String {
    table(&missing.iter().map(|need| [need.what.into(), need.why.into(), String::new()]).collect::<Vec<_>>())
}

impl Action {
    /// As one would type it.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Root(words) | Self::User(words) => words.join(" "),
            Self::Cargo(words, takes) => format!("cargo {}   ({takes})", words.join(" ")),
            Self::Unpack(server) => {
                format!("apt-get download {} && dpkg -x …   ({}, not installed)", server.server.join(" "), server.name)
            }
        }
    }
}

fn is_installed(remedy: Remedy) -> bool {
    !matches!(remedy, Remedy::Host(_) | Remedy::MountBpffs)
}

fn actions(missing: &[&Need], rights: Rights) -> Vec<Action> {
    let mut packages: Vec<String> = Vec::new();
    let (mut update, mut root, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let mut wants_lists = false;
    for need in missing {
        match need.remedy {
            Remedy::Apt { packages: more, .. } => packages.extend(more.iter().map(ToString::to_string)),
            Remedy::Crate { name, version, options, takes } => {
                let version = version.to_string();
                let words = ["install", name, "--version", &version, "--locked"];
                rest.push(Action::Cargo(words.iter().chain(options).map(ToString::to_string).collect(), takes));
            }
            Remedy::Component(name) => {
                rest.push(Action::User(["rustup", "component", "add", name].map(str::to_owned).into()));
            }
            Remedy::Server(server) => {
                // Who can't renew the lists downloads by those that are there.
                wants_lists |= rights != Rights::None;
                rest.push(Action::Unpack(server));
            }
            Remedy::MountBpffs => {
                let words = ["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"];
                root.push(Action::Root(words.map(str::to_owned).into()));
            }
            Remedy::Host(_) => {}
        }
    }
    if wants_lists || !packages.is_empty() {
        update.push(Action::Root(["apt-get", "-qq", "update"].map(str::to_owned).into()));
    }
    if !packages.is_empty() {
        let words = [
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-qq",
            "-o",
            "DPkg::Lock::Timeout=300",
            "install",
            "--no-install-recommends",
        ];
        update.push(Action::Root(words.map(str::to_owned).into_iter().chain(packages).collect()));
    }
    update.into_iter().chain(root).chain(rest).collect()
}

/// What to install where Debian's packages are not to be had.
fn elsewhere(remedy: Remedy, servers: &Path) -> String {
    match remedy {
        Remedy::Apt { packages, elsewhere } if packages == [elsewhere] => elsewhere.to_owned(),
        Remedy::Apt { packages, elsewhere } => format!("{elsewhere} (Debian: {})", packages.join(" ")),
        Remedy::Crate { name, version, options, .. } => {
            let options: String = options.iter().map(|word| format!(" {word}")).collect();
            format!("cargo install {name} --version {version} --locked{options}")
        }
        Remedy::Component(name) => format!("rustup component add {name}"),
        Remedy::Server(server) => {
            let dir = servers.join(server.dir);
            format!("Debian's {}, unpacked into {}", server.server.join(" and "), dir.display())
        }
        Remedy::MountBpffs => "mount -t bpf bpf /sys/fs/bpf".to_owned(),
        Remedy::Host(text) => text.to_owned(),
    }
}

fn faults_text(faults: &[&Need]) -> String {
    if faults.is_empty() {
        return String::new();
    }
    let row = |need: &&Need| match need.remedy {
        Remedy::Host(text) => [need.what.to_owned(), need.why.to_owned(), text.to_owned()],
        _ => [need.what.to_owned(), need.why.to_owned(), String::new()],
    };
    format!("What nobody can install:\n{}", table(&faults.iter().map(row).collect::<Vec<_>>()))
}

/// Three columns.
fn table(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut text, [what, why, how]| {
        let line = format!("  {what:first$}  {why:second$}  {how}");
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::need::NEEDS;

    fn needs(names: &[&str]) -> Vec<&'static Need> {
        names.iter().map(|name| NEEDS.iter().find(|need| need.what == *name).expect("such a need")).collect()
    }

    fn on(os: &str, rights: Rights, names: &[&str]) -> Plan {
        plan(&needs(names), &Os::parse(os), rights, Path::new("/srv/servers"))
    }

    fn lines(plan: &Plan) -> Vec<String> {
        let Plan::Run(actions) = plan else { panic!("it is no plan to run: {plan:?}") };
        actions.iter().map(Action::line).collect()
    }

    fn text(plan: Plan) -> String {
        let Plan::Explain(text) = plan else { panic!("it explains nothing: {plan:?}") };
        text
    }

    const DEBIAN: &str = "ID=debian\nVERSION_ID=12\nPRETTY_NAME=Debian";
    const FEDORA: &str = "ID=fedora\nVERSION_ID=40\nPRETTY_NAME=\"Fedora Linux 40\"";

    #[test]
    fn packages_are_installed_in_one_go() {
        let plan = on(DEBIAN, Rights::Root, &["bpf-linker", "nft", "vsftpd", "curl", "clippy", "BPF file system"]);
        let lines = lines(&plan);
        assert_eq!(lines[0], "apt-get -qq update");
        assert!(lines[1].ends_with("--no-install-recommends nftables curl"), "{}", lines[1]);
        assert_eq!(lines[2], "mount -t bpf bpf /sys/fs/bpf");
        assert!(lines[3].starts_with("cargo install bpf-linker --version 0.10.3 --locked"));
        assert!(lines[4].starts_with("apt-get download vsftpd"));
        assert_eq!(lines[5], "rustup component add clippy");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn lists_are_renewed_only_for_packages() {
        assert_eq!(lines(&on(DEBIAN, Rights::Sudo, &["BPF file system"])), ["mount -t bpf bpf /sys/fs/bpf"]);
        assert_eq!(lines(&on(DEBIAN, Rights::Root, &["cargo-deny"])).len(), 1);
        assert_eq!(lines(&on(DEBIAN, Rights::Root, &["vsftpd"]))[0], "apt-get -qq update");
        // Whoever is not root can still download.
        assert!(lines(&on(DEBIAN, Rights::None, &["vsftpd"]))[0].starts_with("apt-get download"));
        assert!(lines(&on(DEBIAN, Rights::Root, &[])).is_empty());
    }

    #[test]
    fn without_root_it_says_what_root_must_run() {
        let text = text(on(DEBIAN, Rights::None, &["nft", "bpf-linker", "kernel"]));
        assert!(text.contains("\n  sudo apt-get -qq update\n"), "{text}");
        assert!(text.contains("--no-install-recommends nftables\n"), "{text}");
        assert!(text.contains("\n  cargo install bpf-linker"), "{text}");
        assert!(text.contains("boot a kernel of version 6.1"), "{text}");
    }

    #[test]
    fn elsewhere_one_message_names_everything() {
        let missing = [
            "BPF file system",
            "a rustc for BPF",
            "bpf-linker",
            "nft",
            "ProFTPD",
            "libhiredis.so.0.14",
            "IPv6",
            "clippy",
        ];
        let text = text(on(FEDORA, Rights::Root, &missing));
        for part in [
            "this is Fedora Linux 40",
            "rustup toolchain install nightly --component rust-src (Debian: rustc-web libstd-rust-web-dev-bpf)",
            "cargo install bpf-linker --version 0.10.3 --locked",
            "  nftables\n",
            "proftpd-core and proftpd-mod-crypto, unpacked into /srv/servers/proftpd",
            "libhiredis.so.0.14 (Debian: libhiredis0.14)",
            "rustup component add clippy",
            "ipv6.disable=1",
            "mount -t bpf bpf /sys/fs/bpf",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        // Another Debian is elsewhere, too.
        assert!(matches!(on("ID=debian\nVERSION_ID=13", Rights::Root, &["nft"]), Plan::Explain(_)));
        // What any Linux can do is done anywhere.
        assert_eq!(lines(&on(FEDORA, Rights::Root, &["BPF file system"])).len(), 1);
        assert!(lines(&on(FEDORA, Rights::Root, &[])).is_empty());
    }

    #[test]
    fn what_nobody_can_install_is_told() {
        let text = text(on(DEBIAN, Rights::Root, &["kernel types", "namespaces"]));
        assert!(text.contains("CONFIG_DEBUG_INFO_BTF") && text.contains("CAP_SYS_ADMIN"), "{text}");
        // What can be installed is installed first.
        assert_eq!(lines(&on(DEBIAN, Rights::Root, &["kernel types", "cargo-deny"])).len(), 1);
    }
}
