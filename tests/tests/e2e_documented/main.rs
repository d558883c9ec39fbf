//! Every command of the documentation does what its page says, as it stands there: in a lab whose gateway is the reader's,
//! with the configuration that the page has shown last, and with the files that its earlier commands have made. Rules in blocks
//! of `nft` are read by nft.
//!
//! What a line needs, and what it says or ends with unless that is exit code 0, is in two tables: [`tables::SETUPS`], by page, and
//! [`tables::SPECIAL`], by line. A new line of a page is run without either, and must succeed. Lines of `cargo` build, test and
//! measure for minutes; CI runs what they name, and here it is only seen that they name what there is.

mod cargo;
mod stage;
mod tables;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use ftp_helper::lab::{Host, Lab, LabOptions, process::Process, require_root};
use ftp_helper_tests::{
    desk::Desk,
    gateway::PATIENCE,
    page::{Block, Page, pages},
};

use self::{cargo::is_cargo, stage::Stage, tables::SETUPS};

/// The server of the pages.
const SERVER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));

#[test]
fn every_command_does_what_its_page_says() {
    if !require_root() {
        return;
    }
    let lab = Lab::new(&LabOptions::default()).unwrap();
    give_addresses(&lab);
    let mut desk = Desk::new(&lab).unwrap();
    let (mut played, mut shown) = (BTreeSet::new(), 0);
    for page in pages(&root()).unwrap() {
        let mut stage = Stage::open(&lab, &mut desk, &page.name);
        for block in &page.blocks {
            match (block.shown(), block.language.as_str()) {
                (Some((number, line, said)), _) => {
                    stage.begin();
                    let output = stage.line(number, line);
                    stage.shows(number, &said, &output);
                    shown += 1;
                }
                (None, "nft") => stage.rules(block),
                (None, "toml") if block.text().contains("[watch]") => stage.configure(&block.text()),
                (None, "sh") => {
                    for (number, line) in block.commands().filter(|(_, line)| !is_cargo(line)) {
                        stage.begin();
                        let _ = stage.line(number, line);
                    }
                }
                _ => no_commands(&page, block),
            }
        }
        if stage.close() > 0 {
            played.insert(page.name);
        }
    }
    assert!(played.len() >= SETUPS.len() && shown >= 5, "{played:?}, {shown} with output: the pages' form has changed");
    for setup in SETUPS {
        assert!(played.contains(setup.page), "{}: nothing of it was run", setup.page);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The server of the lab has the addresses of the pages' server as well.
fn give_addresses(lab: &Lab) {
    let ip = |on: &Host, arguments: &str| {
        let mut command = on.command("ip");
        command.args(arguments.split(' '));
        let done = Process::spawn(command).unwrap().finish(PATIENCE).unwrap();
        assert!(done.success(), "ip {arguments}: {}", done.output);
    };
    ip(lab.server(), &format!("address add {}/24 dev eth0", SERVER.0));
    ip(lab.server(), &format!("address add {}/128 dev eth0 nodad", SERVER.1));
    ip(lab.gateway(), &format!("route add {}/128 via {}", SERVER.1, lab.server().v6()));
}

/// Commands are in blocks of `sh`: in others nobody would run them.
fn no_commands(page: &Page, block: &Block) {
    if !block.language.is_empty() {
        return;
    }
    for (number, line) in &block.lines {
        let first = line.split(' ').next().unwrap_or_default();
        let is = ["ftp-helper", "sudo", "cargo", "nft", "ip", "curl", "systemctl", "$"].contains(&first);
        assert!(!is, "{}:{number}: a block of commands is one of `sh`: {line}", page.name);
    }
}
