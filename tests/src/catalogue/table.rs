//! The table of `docs/threat-model.md`: every id of the catalogue, what is tried, the verdict, and the tests.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Begin, Stimulus, Verdict, all};

/// A test beside the stimuli: the ids it belongs to, what it shows, its file, its name, and the back ends.
pub struct Other {
    /// The catalogue's ids.
    pub ids: &'static [&'static str],
    /// What it shows.
    pub about: &'static str,
    /// Its file, from the top of the tree.
    pub file: &'static str,
    /// The function.
    pub test: &'static str,
    /// `e`, `k`, `w`.
    pub ends: &'static str,
}

const fn other(
    ids: &'static [&'static str],
    about: &'static str,
    file: &'static str,
    test: &'static str,
    ends: &'static str,
) -> Other {
    Other { ids, about, file, test, ends }
}

/// Tests of what is no matter of one dialogue.
pub const OTHERS: &[Other] = &[
    other(
        &["P16"],
        "two clients, one port number",
        "tests/tests/catalogue_kernel.rs",
        "p16_two_clients_may_use_the_same_port_number",
        "k",
    ),
    other(
        &["P20"],
        "real clients and servers over veth with its offloads on",
        "tests/tests/e2e_matrix.rs",
        "a_server_inside_serves_every_client_in_every_mode",
        "w",
    ),
    other(
        &["P20", "A60"],
        "replies of 40 KB in packets that are not linear, with the sender's offload and the gateway's",
        "tests/tests/catalogue_wire.rs",
        "p20_a60_replies_beyond_a_packet_are_read_whole",
        "w",
    ),
    other(&["P9", "P10"], "cuts by a real TCP", "tests/tests/e2e_cuts.rs", "pasv_cut_everywhere", "w"),
    other(&["P11", "P12"], "loss, by a real TCP", "tests/tests/e2e_loss.rs", "five_percent_loss_stops_no_session", "w"),
    other(&["P21", "P13"], "captures, whole and cut", "ftp-helper/src/replay/tests.rs", "cut_at_every_byte", "e"),
    other(
        &["P21"],
        "captures of real servers and clients, whole, and cut at every byte",
        "tests/tests/captures.rs",
        "p21_captures_of_real_servers_and_clients_cut_at_every_byte",
        "e",
    ),
    other(
        &["P21"],
        "the same through the programs",
        "tests/tests/captures.rs",
        "p21_captures_of_real_servers_and_clients_through_the_kernel",
        "k",
    ),
    other(&["A50"], "any dialogue, cut in any way", "ftp-helper/src/engine/tests/cuts.rs", "*", "e"),
    other(
        &["A56"],
        "of a control port nothing unreadable passes",
        "tests/tests/catalogue_kernel.rs",
        "a56_what_cannot_be_read_of_a_control_port_does_not_pass",
        "k",
    ),
    other(
        &["A56", "A57"],
        "fragments and broken headers",
        "tests/tests/kernel_guard.rs",
        "fragments_and_broken_headers_do_not_reach_guarded_hosts",
        "k",
    ),
    other(
        &["A62"],
        "another interface of the same side: told, never dropped",
        "ftp-helper/src/engine/tests/catalogue.rs",
        "a62_another_interface_of_the_same_side_is_told_once_and_changes_nothing",
        "e",
    ),
    other(
        &["A70", "A73"],
        "scans: only the announced port, and only while it is open",
        "tests/tests/e2e_scan.rs",
        "only_the_announced_port_is_reachable_and_only_while_it_is",
        "w",
    ),
    other(
        &["A77"],
        "not offered, see above: bytes of a data connection pass both ways, and are counted",
        "tests/tests/catalogue_kernel.rs",
        "a77_bytes_of_a_data_connection_pass_both_ways_and_are_counted",
        "k",
    ),
    other(
        &["A79"],
        "an ICMP error that quotes a pinhole's SYN, or one of its data connection, is neither dropped nor taken for either",
        "tests/tests/catalogue_kernel.rs",
        "a79_icmp_passes_and_changes_nothing",
        "k",
    ),
    other(
        &["A72", "A76"],
        "a reset gives nothing back to a session that has given it up",
        "tests/tests/kernel_guard.rs",
        "a_reset_gives_nothing_back_to_a_session_that_has_given_it_up",
        "k",
    ),
    other(
        &["A78"],
        "a live pinhole of another session",
        "tests/tests/kernel_guard.rs",
        "a78_a_live_pinhole_of_another_session_is_left_alone",
        "k",
    ),
    other(
        &["A81"],
        "memory under a flood of commands",
        "ftp-helper/src/engine/tests/catalogue.rs",
        "a81_commands_without_end_cost_no_memory",
        "e",
    ),
    other(
        &["A80", "A87"],
        "announcements by the thousand, beside transfers that go through",
        "tests/tests/e2e_flood.rs",
        "a80_a_flood_of_announcements_leaves_one_pinhole_open",
        "w",
    ),
    other(
        &["A81", "A86"],
        "commands, lines without end and single bytes, beside transfers that go through",
        "tests/tests/e2e_flood.rs",
        "a81_a86_floods_of_lines_are_bounded",
        "w",
    ),
    other(
        &["A82"],
        "SYNs to the control port and into the guarded range, beside transfers that go through",
        "tests/tests/e2e_flood.rs",
        "a82_a_flood_of_syns_makes_no_session_and_costs_nothing",
        "w",
    ),
    other(
        &["A83"],
        "connections beyond what there is room for, beside transfers that go through",
        "tests/tests/e2e_flood.rs",
        "a83_a_flood_of_connections_takes_no_place_of_those_that_live",
        "w",
    ),
    other(
        &["A88"],
        "what two CPUs do to one session at once is whole or undone",
        "tests/tests/kernel_race.rs",
        "a_command_between_judgement_and_commit_loses_and_opens_nothing",
        "k",
    ),
    other(
        &["A82"],
        "a flood of handshakes",
        "tests/tests/catalogue_kernel.rs",
        "a82_a_flood_of_handshakes_evicts_no_session",
        "k",
    ),
    other(&["A82"], "the same", "tests/tests/catalogue_wire.rs", "a82_a_flood_of_handshakes_evicts_no_session", "w"),
    other(
        &["A83", "A84", "A88"],
        "full tables, a full ring buffer",
        "tests/tests/kernel_session.rs",
        "full_tables_and_a_full_ring",
        "k",
    ),
    other(
        &["A84"],
        "the daemon does not read",
        "tests/tests/e2e_daemon.rs",
        "a_stopped_daemon_loses_no_announcement",
        "w",
    ),
    other(
        &["A84"],
        "refusals are told at a bounded rate",
        "ftp-helper/src/engine/tests/catalogue.rs",
        "a84_refusals_are_told_at_a_bounded_rate_and_all_counted",
        "e",
    ),
    other(
        &["A85"],
        "what is told is escaped",
        "ftp-helper/src/engine/tests/catalogue.rs",
        "a85_nothing_from_the_wire_reaches_people_unescaped",
        "e",
    ),
    other(
        &["A86"],
        "a client that never logs in",
        "ftp-helper/src/engine/tests/life.rs",
        "a_client_that_does_not_log_in_is_let_go_of",
        "e",
    ),
    other(&["A86"], "a line without end", "ftp-helper/src/engine/line.rs", "a_long_line_is_one_line", "e"),
];

/// Ids without a test of their own, and why.
pub const ARGUED: &[(&str, &str)] = &[];

/// Every id of the catalogue.
pub fn ids() -> Vec<String> {
    let p = (1..=21).map(|n| format!("P{n}"));
    let ranges = [(1, 7), (10, 17), (20, 29), (30, 38), (40, 44), (50, 64), (70, 79), (80, 88), (90, 96)];
    p.chain(ranges.into_iter().flat_map(|(a, b)| (a..=b).map(|n| format!("A{n:02}")))).collect()
}

/// The id without its variant.
pub fn family(id: &str) -> &str {
    id.trim_end_matches(|c: char| c.is_ascii_lowercase())
}

impl Verdict {
    /// The word in the table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NoOpen => "no pinhole",
            Self::Drop => "dropped",
            Self::Taint => "taint",
            Self::Kill => "kill",
            Self::Opaque => "opaque",
            Self::Unfollowed => "not followed",
            Self::Close => "revoked",
        }
    }
}

/// Where a stimulus runs.
pub fn ends(s: &Stimulus) -> String {
    let alone = if s.begin == Begin::Nothing { "" } else { "e " };
    let wire = if s.on_wire { " w" } else { "" };
    format!("{alone}k{wire}")
}

/// The table, in Markdown.
pub fn markdown() -> String {
    let mut text = "| id | what is tried | verdict | back ends |\n| --- | --- | --- | --- |\n".to_owned();
    let stimuli = all();
    for id in ids() {
        let mut told: Vec<(String, String)> = Vec::new();
        for s in stimuli.iter().filter(|s| family(s.id) == id) {
            let reason = s.reason.map(|r| format!(" (`{r}`)")).unwrap_or_default();
            let row = (s.about.replace('|', "\\|"), format!("{}{reason} | {}", s.verdict.word(), ends(s)));
            if !told.contains(&row) {
                told.push(row);
            }
        }
        for o in OTHERS.iter().filter(|o| o.ids.contains(&id.as_str())) {
            let ends: Vec<String> = o.ends.chars().map(String::from).collect();
            let file = o.file.rsplit('/').next().unwrap_or(o.file);
            let test = if o.test == "*" { format!("`{file}`") } else { format!("`{file}`, `{}`", o.test) };
            told.push((o.about.to_owned(), format!("{test} | {}", ends.join(" "))));
        }
        for (_, why) in ARGUED.iter().filter(|(argued, _)| *argued == id) {
            told.push(((*why).to_owned(), "none |".to_owned()));
        }
        for (i, (about, rest)) in told.iter().enumerate() {
            let id = if i == 0 { id.as_str() } else { "" };
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {id} | {about} | {rest} |");
        }
    }
    text.replace("|  |\n", "| |\n")
}

/// What the catalogue has and no test and no argument does.
pub fn missing() -> Vec<String> {
    let mut known: BTreeSet<&str> = OTHERS.iter().flat_map(|o| o.ids.iter().copied()).collect();
    known.extend(ARGUED.iter().map(|(id, _)| *id));
    let stimuli = all();
    known.extend(stimuli.iter().map(|s| family(s.id)));
    ids().into_iter().filter(|id| !known.contains(id.as_str())).collect()
}
