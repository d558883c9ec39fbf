//! Which side of the gateway a captured packet came from: so which hook it would have passed.

use std::collections::{HashMap, HashSet};

use ftp_helper_common::{
    addr::Addr,
    key::{CLIENT, HOOK_IN, HOOK_OUT},
};

/// What control connections tell about who is outside.
pub(super) struct Sides {
    /// The hook that the clients' packets pass.
    client_hook: u8,
    /// Clients and their servers.
    pairs: HashSet<(Addr, Addr)>,
    /// The hook that a host's packets pass, by the first control connection that it had.
    hosts: HashMap<Addr, u8>,
}

/// What is known of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It passes this hook.
    Hook(u8),
    /// Each of the two is a client of the other.
    Either,
    /// Neither of the two has had a control connection.
    Unknown,
}

impl Sides {
    /// Nothing is known yet but the hook that the clients' packets pass.
    pub(super) fn new(client_hook: u8) -> Self {
        Self { client_hook, pairs: HashSet::new(), hosts: HashMap::new() }
    }

    /// The hook that packets of a control connection's side pass.
    pub(super) fn of_side(&self, side: u8) -> u8 {
        self.client_hook ^ (side ^ CLIENT)
    }

    /// The two have a control connection.
    pub(super) fn learn(&mut self, client: Addr, server: Addr) {
        if self.pairs.insert((client, server)) {
            self.hosts.entry(client).or_insert(self.client_hook);
            self.hosts.entry(server).or_insert(other(self.client_hook));
        }
    }

    /// The hook that a packet between these two passes.
    pub(super) fn way(&self, from: Addr, to: Addr) -> Way {
        match (self.pairs.contains(&(from, to)), self.pairs.contains(&(to, from))) {
            (true, true) => Way::Either,
            (true, false) => Way::Hook(self.client_hook),
            (false, true) => Way::Hook(other(self.client_hook)),
            // A third host: by where the other one is.
            (false, false) => match (self.hosts.get(&to), self.hosts.get(&from)) {
                (Some(hook), _) => Way::Hook(other(*hook)),
                (None, Some(hook)) => Way::Hook(*hook),
                (None, None) => Way::Unknown,
            },
        }
    }
}

/// The other hook.
pub(super) fn other(hook: u8) -> u8 {
    HOOK_IN ^ HOOK_OUT ^ hook
}

#[cfg(test)]
mod tests {
    use ftp_helper_common::key::SERVER;

    use super::*;

    #[test]
    fn by_pair_then_by_host() {
        let [client, server, third, fourth] = [1, 2, 3, 4].map(|n| Addr::v4([192, 0, 2, n]));
        for hook in [HOOK_IN, HOOK_OUT] {
            let mut sides = Sides::new(hook);
            assert_eq!((sides.of_side(CLIENT), sides.of_side(SERVER)), (hook, other(hook)));
            assert_eq!(sides.way(client, server), Way::Unknown);
            sides.learn(client, server);
            assert_eq!(sides.way(client, server), Way::Hook(hook));
            assert_eq!(sides.way(server, client), Way::Hook(other(hook)));
            // Somebody else comes to the server from where its client is.
            assert_eq!(sides.way(third, server), Way::Hook(hook));
            assert_eq!(sides.way(server, third), Way::Hook(other(hook)));
            assert_eq!(sides.way(third, client), Way::Hook(other(hook)));
            assert_eq!(sides.way(third, fourth), Way::Unknown);
            sides.learn(server, client);
            assert_eq!(sides.way(client, server), Way::Either);
        }
    }
}
