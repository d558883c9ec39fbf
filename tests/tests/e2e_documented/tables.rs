//! What pages take for granted, and what lines do that do not simply succeed.

use ftp_helper_tests::firewall::{BY_HAND, DEBIAN};

/// What a page takes for granted.
pub(super) struct Setup {
    pub(super) page: &'static str,
    /// Where its commands are typed.
    pub(super) on: Place,
    /// The gateway's ruleset.
    pub(super) ruleset: &'static str,
    /// What firewalld keeps there.
    pub(super) firewalld: bool,
    /// Further arguments of the bundled server that stands for the page's; `None` where it needs none.
    pub(super) server: Option<&'static [&'static str]>,
    /// The configuration before the page shows one.
    pub(super) configuration: &'static str,
    /// Whether the daemon runs from the beginning.
    pub(super) daemon: bool,
    /// How many files a session has fetched before it is looked at.
    pub(super) transfers: usize,
    /// What the page calls that session.
    pub(super) session: &'static str,
    /// Files to work with: name, and text or file of the sources.
    pub(super) files: &'static [(&'static str, Content)],
    /// What takes back what its lines have done to the gateway.
    pub(super) after: &'static str,
}

/// Where commands are typed.
pub(super) enum Place {
    /// On the gateway.
    Gateway,
    /// On the server behind it.
    Server,
}

/// What a file has in it.
pub(super) enum Content {
    /// This text.
    Text(&'static str),
    /// What this file of the sources has.
    Sources(&'static str),
}

/// What a page without a row takes for granted.
pub(super) const NOTHING: Setup = Setup {
    page: "",
    on: Place::Gateway,
    ruleset: "",
    firewalld: false,
    server: None,
    configuration: "",
    daemon: false,
    transfers: 0,
    session: "",
    files: &[],
    after: "",
};

/// By page; those that need nothing have no row.
pub(super) const SETUPS: &[Setup] = &[
    Setup { page: "README.md", server: Some(&["--passive-ports", "40000-40099"]), ..NOTHING },
    Setup {
        page: "docs/commands.md",
        server: Some(&["--passive-ports", "50069-50069", "--user", "anna", "--password", "correct-horse"]),
        configuration: DROPPING,
        daemon: true,
        session: "a1",
        ..NOTHING
    },
    Setup {
        page: "docs/configuration.md",
        configuration: "mode = \"block\"\n[watch]\ninterfaces = [\"wan0\"]\n",
        ..NOTHING
    },
    Setup { page: "docs/doctor.md", configuration: FED, ruleset: WIDE, ..NOTHING },
    Setup { page: "docs/firewalld.md", firewalld: true, ..NOTHING },
    Setup { page: "docs/ftpd.md", on: Place::Server, ..NOTHING },
    Setup { page: "docs/interfaces.md", after: "ip link delete br0", ..NOTHING },
    Setup { page: "docs/lab.md", files: &[("rules.nft", Content::Text(DEBIAN))], ..NOTHING },
    Setup { page: "docs/mark.md", ruleset: BY_HAND, ..NOTHING },
    Setup { page: "docs/nat.md", ruleset: TRANSLATING, ..NOTHING },
    Setup { page: "docs/nftables.md", ruleset: BY_HAND, ..NOTHING },
    Setup { page: "docs/quick-start.md", server: Some(&["--passive-ports", "40000-40099"]), ..NOTHING },
    Setup {
        page: "docs/top.md",
        server: Some(&["--passive-ports", "40000-40099"]),
        configuration: DROPPING,
        daemon: true,
        transfers: 2,
        session: "1a2b",
        files: &[("capture.pcap", Content::Sources("tests/captures/vsftpd-curl-pasv-4.pcap"))],
        ..NOTHING
    },
];

/// A configuration as pages have it.
const DROPPING: &str = "mode = \"drop\"
[watch]
interfaces = [\"wan0\"]
[[guard]]
networks = [\"192.0.2.10\", \"2001:db8::10\"]
";

const FED: &str = "mode = \"observe\"
[watch]
interfaces = [\"wan0\"]
[[guard]]
networks = [\"192.0.2.10\", \"2001:db8::10\"]
[[server]]
address = [\"192.0.2.10\", \"2001:db8::10\"]
passive_ports = \"40000-50000\"
[nftables]
table = \"inet filter\"
";

const WIDE: &str = "table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname \"lan0\" accept
		tcp dport 21 accept
		tcp dport 40000-60000 counter accept
	}
}
";

/// That of docs/nat.md, beside a chain that forwards what it knows.
const TRANSLATING: &str = "table inet nat {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		iifname \"wan0\" meta nfproto ipv4 tcp dport 21 dnat ip to 192.168.1.10
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname \"wan0\" masquerade
	}
}
table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname \"lan0\" accept
		ct status dnat accept
	}
}
";

/// What a line does, unless it just ends with exit code 0.
#[derive(Clone, Copy)]
pub(super) enum Does {
    /// Ends with this exit code, and has said this.
    Ends(i32, &'static str),
    /// Is the daemon: attaches, and goes on to the end of the page, or to the next one.
    Runs,
    /// Has systemd start or replace the daemon, which is done in its place: there is none here.
    Serves,
    /// Says this, and goes on to the end of the page.
    Stays(&'static str),
    /// Says this, and goes on until Ctrl-C.
    GoesOn(&'static str),
    /// Has this on the screen, and goes on until `q`.
    Draws(&'static str),
    /// Is not run, for a reason.
    IsNotRun(&'static str),
}

use Does::{Draws, Ends, GoesOn, IsNotRun, Runs, Serves, Stays};

/// By page and line.
pub(super) const SPECIAL: &[(&str, &str, Does)] = &[
    (
        "README.md",
        "sudo apt install ./target/dist/release/ftp-helper_*.deb",
        IsNotRun("packaging/check-package.sh installs the package into a Debian tree of its own"),
    ),
    ("README.md", "sudo ftp-helper run", Runs),
    ("README.md", "ftp-helper observe -f", GoesOn("data_end")),
    ("docs/configuration.md", "ftp-helper check", Ends(2, "")),
    ("docs/commands.md", "ftp-helper why 203.0.113.10 192.0.2.10:50070", Ends(10, "")),
    ("docs/doctor.md", "ftp-helper doctor", Ends(4, "")),
    ("docs/firewalld.md", "ftp-helper doctor", Ends(4, "wide_range")),
    ("docs/firewalld.md", "ftp-helper integrate firewalld --print", Ends(0, "--add-rich-rule")),
    (
        "docs/ftpd.md",
        "ftp-helper ftpd --listen 192.0.2.10:21 --listen '[2001:db8::10]:21' --root /srv/ftp --passive-ports 50000-50099",
        Stays("listening on 192.0.2.10:21, [2001:db8::10]:21"),
    ),
    // A minute as a whole, which e2e_matrix and the lab's own tests take.
    ("docs/lab.md", "ftp-helper lab run --gateway-ruleset rules.nft", GoesOn("== server-inside")),
    ("docs/lab.md", "ftp-helper lab up --name demo", Ends(0, "fh-demo-gateway")),
    (
        "docs/lab.md",
        "ip netns exec fh-demo-server ftp-helper ftpd --listen 192.0.2.100:21 --root /srv/ftp",
        Stays("listening on 192.0.2.100:21"),
    ),
    ("docs/lab.md", "ftp-helper lab down --name demo", Ends(0, "removed demo")),
    ("docs/mark.md", "ftp-helper doctor", Ends(4, "mark_unread")),
    ("docs/mark.md", "ftp-helper integrate nft --print", Ends(0, "ftp-helper: negotiated")),
    ("docs/nat.md", "ftp-helper doctor", Ends(4, "mark_unaccepted")),
    ("docs/nat.md", "ftp-helper integrate nft --print", Ends(0, "masquerade to :1024-60999")),
    ("docs/nftables.md", "ftp-helper doctor", Ends(4, "wide_range")),
    ("docs/nftables.md", "ftp-helper integrate nft --print", Ends(0, "ftp_pin6")),
    ("docs/nftables.md", "ftp-helper doctor", Ends(0, "0 errors")),
    ("docs/nftables.md", "ftp-helper run", Runs),
    ("docs/quick-start.md", "scp target/dist/release/ftp-helper_*.deb gateway:", IsNotRun("there is no other host")),
    ("docs/quick-start.md", "ssh gateway apt install ./ftp-helper_*.deb", IsNotRun("there is no other host")),
    ("docs/quick-start.md", "ftp-helper run -c /etc/ftp-helper/ftp-helper.toml", Runs),
    ("docs/quick-start.md", "systemctl enable --now ftp-helper", Serves),
    ("docs/quick-start.md", "ftp-helper status", Ends(0, "mode observe")),
    ("docs/quick-start.md", "ftp-helper sessions", Ends(0, "203.0.113.10:")),
    ("docs/quick-start.md", "ftp-helper pinholes", Ends(0, "192.0.2.10")),
    ("docs/quick-start.md", "ftp-helper observe -f", GoesOn("data_end")),
    (
        "docs/quick-start.md",
        "ftp-helper check -c /etc/ftp-helper/ftp-helper.toml && ftp-helper reload",
        Ends(0, "Changed: mode"),
    ),
    ("docs/shield.md", "systemctl restart ftp-helper", Serves),
    ("docs/top.md", "ftp-helper top", Draws("1 Sessions 1")),
    ("docs/top.md", "ftp-helper top --interval 250ms", Draws("1 Sessions 1")),
    ("docs/top.md", "ssh -t gateway ftp-helper top", IsNotRun("there is no other host")),
];
