//! How a world begins: its policy, its hosts and what they will say, and the first that happens.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Duration,
};

use ftp_helper::engine::policy::{ActiveOpen, Limits, Mode, OnDaemonLoss, Opaque, Policy, Server, SourcePort};
use ftp_helper_common::{
    addr::Addr,
    key::{HOOK_IN, HOOK_OUT},
};

use super::{BEGIN, Ev, SECOND, Summary, World, session::Session};
use crate::sim::{
    Options,
    daemon::{Daemon, SWEEP},
    kernel::{End, Kernel, Sizes},
    rng::Rng,
    script::{Parties, Ports, write},
};

impl World {
    /// The world of some options, about to begin.
    #[must_use]
    pub fn new(options: Options, telling: bool) -> Self {
        let mut dialogue = Rng::new(options.dialogue);
        let policy = policy(&mut dialogue, &options);
        let mut ports = Ports::default();
        let server_inside = dialogue.chance(600);
        let hook = if server_inside { HOOK_IN } else { HOOK_OUT };
        let (clients, servers) = (dialogue.from_to(1, 4) as usize, dialogue.from_to(1, 3) as usize);
        let mut sessions = Vec::new();
        for n in 0..options.sessions {
            // Of its own seed: with fewer sessions, those that remain say the same.
            let mut own = Rng::new(options.dialogue.wrapping_add(n as u64 + 1));
            let v4 = own.chance(700);
            let (client, server) = (host(v4, 1, own.below(clients)), host(v4, 2, own.below(servers)));
            let parties = Parties { client, server, hook, policy: &policy, may_be_barred: !options.trouble.outages };
            let length = own.from_to(2, 12) as usize;
            let script = write(&mut own, parties, &mut ports, length, options.trouble.nasty);
            // Few ports, so that they are used again.
            let client = End { addr: client, port: 30000 + own.below(3) as u16 };
            sessions.push(Session::new(script, client, End { addr: server, port: 21 }, hook));
        }
        let inside: Vec<Addr> = [true, false]
            .iter()
            .flat_map(|v4| (0..4).map(|n| host(*v4, if server_inside { 2 } else { 1 }, n)))
            .collect();
        let t = options.trouble;
        let sizes = if t.tight {
            Sizes { sessions: 6, pinholes: 4, flows: 4, clients: 3, ring: 3000 }
        } else {
            Sizes { sessions: 1000, pinholes: 1000, flows: 1000, clients: 1000, ring: 1 << 22 }
        };
        let mut world = Self {
            step: 0,
            events: 0,
            options,
            now: BEGIN,
            rng: Rng::new(options.network),
            noise: Rng::new(options.network ^ 0x006e_6f69_7365),
            queue: BinaryHeap::new(),
            pushed: 0,
            kernel: Kernel::new(&policy, sizes),
            daemon: Daemon::new(policy.clone()),
            policy,
            sessions,
            socks: Vec::new(),
            table: HashMap::new(),
            owner: Vec::new(),
            armed: Vec::new(),
            dirty: Vec::new(),
            listeners: HashMap::new(),
            by_id: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_flight: 0,
            unordered: 0,
            on_the_way: 0,
            recent: Vec::new(),
            daemon_at: u64::MAX,
            reading: false,
            next_sweep: BEGIN + SWEEP,
            next_port: 10000,
            over: 0,
            inside,
            summary: Summary::default(),
            telling,
            told: Vec::new(),
        };
        world.kernel.heartbeat = BEGIN;
        world.at(BEGIN + SECOND, Ev::Beat);
        for n in 0..options.sessions {
            let start = BEGIN + Rng::new(options.network ^ (n as u64 + 1)).from_to(0, 20 * SECOND);
            world.at(start, Ev::Start(n));
        }
        if t.attackers {
            world.at(BEGIN + SECOND, Ev::Attack);
        }
        if t.outages {
            let when = world.now + world.rng.from_to(SECOND, 20 * SECOND);
            world.at(when, Ev::Outage);
        }
        world
    }
}

fn policy(rng: &mut Rng, options: &Options) -> Policy {
    let t = options.trouble;
    Policy {
        mode: if t.observe { Mode::Observe } else { Mode::Drop },
        on_daemon_loss: rng.pick(&[OnDaemonLoss::Continue, OnDaemonLoss::Continue, OnDaemonLoss::Close]),
        active_inbound: rng.chance(700),
        active_open: rng.pick(&[
            ActiveOpen::Auto,
            ActiveOpen::Auto,
            ActiveOpen::Command,
            ActiveOpen::Reply,
            ActiveOpen::Transfer,
        ]),
        active_source_port: if rng.chance(150) { SourcePort::Twenty } else { SourcePort::Any },
        deny_ports: [3306, 5432].into(),
        servers: if rng.chance(350) {
            vec![Server {
                networks: vec!["198.51.100.0/24".parse().expect("a network"), "2001:db8:2::/48".parse().expect("one")],
                passive_ports: Some(40000..=40050),
                opaque: if rng.chance(600) { Opaque::Range } else { Opaque::Deny },
            }]
        } else {
            Vec::new()
        },
        per_client: if t.tight { 2 } else { 64 },
        limits: Limits {
            sessions: if t.tight { 6 } else { 1000 },
            login: Duration::from_secs(300),
            idle: Duration::from_secs(600),
        },
        ..Policy::default()
    }
}

/// A host: network 1 is that of the clients, 2 that of the servers, 3 that of the attackers.
pub(super) fn host(v4: bool, network: u8, n: usize) -> Addr {
    let n = n as u8 + 1;
    if v4 {
        let net = match network {
            1 => [192, 0, 2],
            2 => [198, 51, 100],
            _ => [203, 0, 113],
        };
        return Addr::v4([net[0], net[1], net[2], n]);
    }
    // The quota counts by /64: a network each.
    Addr([0x20, 0x01, 0x0d, 0xb8, 0, network, 0, n, 0, 0, 0, 0, 0, 0, 0, n])
}
