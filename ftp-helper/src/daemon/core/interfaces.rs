//! What the host has now: interfaces that come and go, and addresses that guards and servers are named by.

use std::collections::BTreeMap;

use super::{Daemon, troubles::Task};
use crate::{
    daemon::{clock, guards},
    dataplane::{self, Attached, Guard, Interface},
    engine::{Nanos, policy::Policy},
};

impl Daemon {
    /// Attaches to interfaces that have appeared, lets go of those that are gone, and goes by the addresses that there are.
    pub(super) fn follow_host(&mut self, now: Nanos) -> anyhow::Result<()> {
        let interfaces = dataplane::interfaces()?;
        self.follow_interfaces(&interfaces)?;
        let guards = guards::resolve(&self.config, &interfaces);
        let policy = guards::policy(&self.config, &interfaces);
        let result = match guards == self.guards && policy == self.policy {
            true => Ok(()),
            false => self.follow_addresses(now, policy, guards),
        };
        self.troubles.note(Task::Addresses, result);
        Ok(())
    }

    /// Attaches to what has appeared, lets go of what is gone.
    pub(super) fn follow_interfaces(&mut self, interfaces: &BTreeMap<String, Interface>) -> anyhow::Result<()> {
        let (wanted, waiting) = guards::wanted(&self.config.watch.interfaces, interfaces);
        let gone: Vec<String> = self
            .plane
            .attached()
            .iter()
            .filter(|a| !wanted.iter().any(|w| w.name == a.name && w.index == a.index))
            .map(|a| a.name.clone())
            .collect();
        for name in gone {
            self.plane.detach(&name)?;
            tracing::info!("detached from {name}");
        }
        for i in wanted {
            if self.plane.attached().iter().any(|a| a.name == i.name) {
                continue;
            }
            let attached = self.plane.attach(&i.name, i.index);
            if attached.is_ok() {
                self.tell_attached();
                self.plane.beat(clock::now())?;
            }
            self.troubles.note(Task::Attaching(i.name.clone()), attached);
        }
        self.waiting_for = waiting;
        Ok(())
    }

    /// Says that an interface was attached to.
    pub(super) fn tell_attached(&self) {
        if let Some(Attached { name, shield, .. }) = self.plane.attached().last() {
            match shield {
                Some(kind) => tracing::info!("attached to {name}, with a shield in {} XDP", kind.as_str()),
                None => tracing::info!("attached to {name}"),
            }
        }
    }

    /// Goes by the addresses that interfaces have now. Where the kernel does not take that, what was in force stays.
    fn follow_addresses(&mut self, now: Nanos, policy: Policy, guards: Vec<Guard>) -> anyhow::Result<()> {
        self.plane.apply(&policy, &guards, self.options.fast)?;
        tracing::info!("addresses of interfaces that guards or servers name have changed");
        if policy != self.policy {
            self.engine.set_policy(now, policy.clone());
        }
        (self.guards, self.policy) = (guards, policy);
        Ok(())
    }
}
