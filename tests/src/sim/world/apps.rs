//! The two ends of each session, driven by how many bytes they have received; and data connections.

use ftp_helper::engine::policy::SourcePort;
use ftp_helper_common::state::flag;

use super::{
    Broken, Ev, MILLI, SECOND, SESSION_MAX, World,
    session::{DATA_WAIT, Data},
};
use crate::sim::{
    kernel::{End, Packet},
    script::{Ending, Offer, Plan},
    tcp::Tcp,
};

/// How long a session may take to end.
const ENDING_MAX: u64 = 20 * SECOND;
/// Idle for so long, a session that the kernel has lost sight of is sighted again.
const SETTLED: u64 = 5 * SECOND / 2;

impl World {
    pub(super) fn start(&mut self, i: usize) {
        let (client, server) = (self.sessions[i].client, self.sessions[i].server);
        // The port may be in use still.
        let busy = [(client, server), (server, client)]
            .iter()
            .any(|k| self.table.get(k).is_some_and(|s| !self.sessions[self.owner[*s]].over));
        if busy {
            return self.at(self.now + SECOND, Ev::Start(i));
        }
        let ended_badly = self
            .sessions
            .iter()
            .any(|s| s.over && s.client == client && s.server == server && s.script.ending == Ending::Silence);
        if ended_badly || self.kernel_thinks_it_lives(i) {
            // What a gateway can't know is over: a client takes another port.
            self.sessions[i].client.port += 3;
            return self.start(i);
        }
        self.sessions[i].started = Some(self.now);
        self.listeners.insert(server, (i, false));
        let (style, mut out) = (self.style(), Vec::new());
        let sock = Tcp::connect(self.now, client, server, style, &mut self.rng, &mut out);
        let sock = self.add_socket(i, sock);
        self.sessions[i].c = Some(sock);
        self.tell(Some(i), || "begins".to_owned());
        self.after_socket(sock, out);
        self.at(self.now + SESSION_MAX, Ev::Reap(i));
    }

    /// Whether an earlier session of these ends was not seen to end.
    fn kernel_thinks_it_lives(&self, i: usize) -> bool {
        let key = self.sessions[i].key();
        let before =
            self.sessions.iter().any(|s| s.over && s.key() == key && (s.disturbed || s.script.ending == Ending::Reset));
        before && self.kernel.sessions.get(&key).is_some_and(|s| s.flags & flag::CLOSING == 0)
    }

    /// Whether a listener's session expects this connection.
    pub(super) fn expects(&self, i: usize, syn: &Packet) -> bool {
        let s = &self.sessions[i];
        if syn.to == s.server {
            // Sessions of several clients share the control port.
            return self.waiting_for(syn).is_some();
        }
        !s.over && s.data.is_some_and(|d| d.offer.port == syn.to.port && d.responder.is_none() && d.outcome.is_none())
    }

    fn waiting_for(&self, syn: &Packet) -> Option<usize> {
        let fits = |i: &usize| {
            let s = &self.sessions[*i];
            s.client == syn.from && s.server == syn.to && s.started.is_some() && !s.over && self.may_be_accepted(s)
        };
        (0..self.sessions.len()).find(fits)
    }

    /// Whether the session's server has not accepted it, or only an old SYN of its client's, which the client has reset.
    fn may_be_accepted(&self, s: &super::Session) -> bool {
        s.v.is_none_or(|v| self.socks[v].dead && !self.socks[v].open && self.socks[v].got.is_empty())
    }

    pub(super) fn accepted(&mut self, i: usize, sock: usize, at: End) {
        if at == self.sessions[i].server {
            let remote = self.socks[sock].remote;
            let fits =
                |s: &super::Session| s.client == remote && s.started.is_some() && !s.over && self.may_be_accepted(s);
            if let Some(i) =
                (0..self.sessions.len()).find(|n| self.sessions[*n].server == at && fits(&self.sessions[*n]))
            {
                // What was said to a client that never was is said again.
                let s = &mut self.sessions[i];
                (s.v, s.replied, s.waiting) = (Some(sock), 0, false);
                self.owner[sock] = i;
            }
        } else if let Some(d) = &mut self.sessions[i].data {
            d.responder = Some(sock);
        }
    }

    /// Whoever can do something in a session does it.
    pub(super) fn drive(&mut self, i: usize) -> Result<(), Broken> {
        if self.sessions[i].over {
            return Ok(());
        }
        self.serve(i);
        self.ask(i)?;
        self.transfer(i)?;
        self.finish(i);
        Ok(())
    }

    fn received(&self, sock: Option<usize>) -> usize {
        sock.map_or(0, |s| self.socks[s].got.len())
    }

    /// The server.
    fn serve(&mut self, i: usize) {
        let Some(v) = self.sessions[i].v else { return };
        loop {
            let s = &self.sessions[i];
            let e = s.replied;
            if e >= s.script.exchanges.len() || self.received(s.v) < s.command_ends[e] || self.socks[v].dead {
                return;
            }
            if !s.waiting {
                let exchange = s.script.exchanges[e].clone();
                if let Some(offer) = exchange.offer {
                    if offer.passive {
                        self.offer(i, offer);
                    } else if offer.plan == Plan::Eager {
                        self.connect(i);
                    }
                }
                self.write(v, &exchange.reply[0]);
                if exchange.transfer.is_none() {
                    self.sessions[i].replied += 1;
                    continue;
                }
                self.sessions[i].waiting = true;
                if let Some(d) = &mut self.sessions[i].data {
                    d.transfer = Some(e);
                    // The time runs from when the server waits.
                    let (active, none) = (!d.offer.passive, d.initiator.is_none());
                    if active && none && d.offer.plan != Plan::Late {
                        self.connect(i);
                    }
                }
                self.dirty.push(i);
            }
            let outcome = self.sessions[i].data.map_or(Some(false), |d| d.outcome);
            let Some(well) = outcome else { return };
            let text: &[u8] = if well { b"226 Transfer done\r\n" } else { b"426 Transfer lost\r\n" };
            self.write(v, text);
            let s = &mut self.sessions[i];
            (s.waiting, s.replied) = (false, s.replied + 1);
        }
    }

    /// The client.
    fn ask(&mut self, i: usize) -> Result<(), Broken> {
        let Some(c) = self.sessions[i].c else { return Ok(()) };
        let received = self.received(Some(c));
        while self.sessions[i].seen < self.sessions[i].reply_ends.len()
            && self.sessions[i].reply_ends[self.sessions[i].seen] <= received
        {
            let s = &mut self.sessions[i];
            s.seen += 1;
            let offer = s.script.exchanges[s.seen - 1].offer.filter(|o| o.passive);
            if let Some(offer) = offer {
                match offer.plan {
                    Plan::Use | Plan::Refused => self.connect(i),
                    Plan::Late => self.late(i, offer),
                    Plan::Nobody | Plan::Eager => {}
                }
            }
        }
        loop {
            let s = &self.sessions[i];
            let e = s.sent;
            if e >= s.script.exchanges.len() || self.socks[c].dead {
                return Ok(());
            }
            let exchange = &s.script.exchanges[e];
            if s.seen < e && !(exchange.pipelined && s.seen > 0) {
                return Ok(());
            }
            if exchange.pause > 0 && s.thought < e {
                let until = self.now + exchange.pause;
                let s = &mut self.sessions[i];
                (s.thought, s.pause) = (e, until);
                self.at(until, Ev::Drive(i));
                return Ok(());
            }
            if s.pause > self.now {
                return Ok(());
            }
            if exchange.pause >= SETTLED && s.seen == e {
                self.check_sighted(i)?;
            }
            let exchange = self.sessions[i].script.exchanges[e].clone();
            if let Some(offer) = exchange.offer.filter(|o| !o.passive) {
                self.offer(i, offer);
                if offer.plan == Plan::Late {
                    self.late(i, offer);
                }
            }
            self.write(c, &exchange.command);
            self.sessions[i].sent += 1;
        }
    }

    /// Looks at a session again at some time, once.
    fn wake(&mut self, i: usize, time: u64) {
        if self.sessions[i].wake != time {
            self.sessions[i].wake = time;
            self.at(time, Ev::Drive(i));
        }
    }

    /// Writes, now or in a moment, with what comes until then.
    fn write(&mut self, sock: usize, data: &[u8]) {
        let wait =
            if self.options.trouble.network && self.rng.chance(200) { self.rng.from_to(0, 30 * MILLI) } else { 0 };
        self.socks[sock].write(self.now + wait, data);
        self.arm(sock);
    }

    /// Somebody listens for a data connection.
    fn offer(&mut self, i: usize, offer: Offer) {
        self.drop_data(i);
        let s = &mut self.sessions[i];
        s.data = Some(Data {
            offer,
            since: self.now,
            initiator: None,
            responder: None,
            attempts: 0,
            transfer: None,
            wrote: false,
            outcome: None,
        });
        let addr = if offer.passive { s.server.addr } else { s.client.addr };
        if offer.plan != Plan::Nobody {
            self.listeners.insert(End { addr, port: offer.port }, (i, offer.plan == Plan::Refused));
        }
    }

    fn drop_data(&mut self, i: usize) {
        let s = &mut self.sessions[i];
        if let Some(d) = s.data.take() {
            let addr = if d.offer.passive { s.server.addr } else { s.client.addr };
            self.listeners.remove(&End { addr, port: d.offer.port });
            if d.outcome != Some(true) {
                for sock in [d.initiator, d.responder].into_iter().flatten() {
                    let mut out = Vec::new();
                    self.socks[sock].abort(&mut out);
                    out.into_iter().for_each(|p| self.send(p));
                }
            }
        }
    }

    /// The ends of the data connection that is wanted, the initiator's with a fresh port.
    fn data_ends(&mut self, i: usize, offer: Offer) -> (End, End) {
        self.next_port = if self.next_port >= 20000 { 10000 } else { self.next_port + 1 };
        let twenty = !offer.passive && self.policy.active_source_port == SourcePort::Twenty;
        let port = if twenty { 20 } else { self.next_port };
        let s = &self.sessions[i];
        let (from, to) = if offer.passive { (s.client, s.server) } else { (s.server, s.client) };
        (End { port, ..from }, End { port: offer.port, ..to })
    }

    fn connect(&mut self, i: usize) {
        let Some(offer) = self.sessions[i].data.map(|d| d.offer) else { return };
        let (from, to) = self.data_ends(i, offer);
        let (style, mut out) = (self.style(), Vec::new());
        let sock = Tcp::connect(self.now, from, to, style, &mut self.rng, &mut out);
        let sock = self.add_socket(i, sock);
        if let Some(d) = &mut self.sessions[i].data {
            d.initiator = Some(sock);
            d.attempts += 1;
        }
        self.after_socket(sock, out);
    }

    pub(super) fn retry(&mut self, i: usize) {
        if !self.sessions[i].over && self.sessions[i].data.is_some_and(|d| d.initiator.is_none() && d.outcome.is_none())
        {
            self.connect(i);
        }
    }

    /// A SYN that comes when the pinhole's time is over.
    fn late(&mut self, i: usize, offer: Offer) {
        let (from, to) = self.data_ends(i, offer);
        let syn = Packet {
            from,
            to,
            flags: ftp_helper_common::tcp::SYN,
            seq: self.rng.word(),
            ack: 0,
            data: Vec::new(),
            damaged: false,
        };
        let when = self.now + self.policy.pinhole_timeout.as_nanos() as u64 + 3 * SECOND;
        self.at(when, Ev::Late(i, syn));
    }

    /// The data connection.
    fn transfer(&mut self, i: usize) -> Result<(), Broken> {
        let Some(mut d) = self.sessions[i].data else { return Ok(()) };
        if d.outcome.is_some() {
            return Ok(());
        }
        if let Some(sock) = d.initiator
            && self.socks[sock].dead
            && !self.socks[sock].open
            && d.offer.plan == Plan::Refused
            && d.attempts < 2
        {
            // Refused: once more, from another port.
            d.initiator = None;
            self.sessions[i].data = Some(d);
            self.at(self.now + 20 * MILLI, Ev::Retry(i));
            return Ok(());
        }
        let Some(e) = d.transfer else { return Ok(()) };
        let Some(transfer) = self.sessions[i].script.exchanges[e].transfer else { return Ok(()) };
        let (server, client) = if d.offer.passive { (d.responder, d.initiator) } else { (d.initiator, d.responder) };
        let (sender, receiver) = if transfer.download { (server, client) } else { (client, server) };
        if let Some(sender) = sender.filter(|s| self.socks[*s].open && !d.wrote) {
            d.wrote = true;
            self.socks[sender].write(self.now, &vec![b'x'; transfer.size]);
            self.socks[sender].close(self.now);
            self.arm(sender);
        }
        if let Some(receiver) = receiver.filter(|s| self.socks[*s].peer_done) {
            self.socks[receiver].close(self.now);
            self.arm(receiver);
        }
        let done = server.is_some_and(|s| {
            let s = &self.socks[s];
            if transfer.download { s.all_taken() } else { s.peer_done }
        });
        let dead = server.is_some_and(|s| self.socks[s].dead && self.socks[s].failed && d.attempts >= 2);
        let waited = self.now >= d.since + DATA_WAIT && !server.is_some_and(|s| self.socks[s].open);
        let stuck = self.now >= d.since + 60 * SECOND;
        if done || dead || waited || stuck {
            d.outcome = Some(done);
        }
        self.sessions[i].data = Some(d);
        if let Some(well) = d.outcome {
            self.tell(Some(i), || format!("data connection to port {}: {well}", d.offer.port));
            self.came_out(i, &d.offer, well)?;
            self.dirty.push(i);
            if !well {
                let keep = self.sessions[i].data;
                self.drop_data(i);
                self.sessions[i].data = keep.map(|d| Data { initiator: None, responder: None, ..d });
            }
        } else {
            let wake = d.since + if self.now < d.since + DATA_WAIT { DATA_WAIT } else { 60 * SECOND };
            self.wake(i, wake);
        }
        Ok(())
    }

    /// The end of a session.
    fn finish(&mut self, i: usize) {
        let s = &self.sessions[i];
        let (Some(c), Some(v)) = (s.c, s.v) else {
            if s.c.is_some_and(|c| self.socks[c].dead) {
                self.end(i);
            }
            return;
        };
        let all = s.script.exchanges.len();
        let ending = s.script.ending;
        if s.seen == all && !s.ending {
            self.sessions[i].ending = true;
            self.at(self.now + ENDING_MAX, Ev::Reap(i));
            match ending {
                Ending::Quit => {
                    self.socks[v].close(self.now);
                    self.arm(v);
                }
                Ending::Client => {
                    self.socks[c].close(self.now);
                    self.arm(c);
                }
                Ending::Reset => {
                    let mut out = Vec::new();
                    self.socks[c].abort(&mut out);
                    out.into_iter().for_each(|p| self.send(p));
                }
                Ending::Silence => {
                    self.socks[c].vanish();
                    self.socks[v].vanish();
                }
            }
        }
        for sock in [c, v] {
            if self.socks[sock].peer_done && !self.socks[sock].dead {
                self.socks[sock].close(self.now);
                self.arm(sock);
            }
        }
        if self.socks[c].dead && self.socks[v].dead {
            self.end(i);
        }
    }

    /// A session that does not come to its end.
    pub(super) fn reap(&mut self, i: usize) -> Result<(), Broken> {
        if self.sessions[i].over
            || (!self.sessions[i].ending && self.now < self.sessions[i].started.unwrap_or(0) + SESSION_MAX)
        {
            return Ok(());
        }
        let s = &self.sessions[i];
        if self.is_benign() && !s.ending {
            let what =
                format!("stuck: {} sent, {} replied, {} seen of {}", s.sent, s.replied, s.seen, s.reply_ends.len());
            return Err(Broken { session: Some(i), what });
        }
        for sock in [s.c, s.v].into_iter().flatten() {
            self.socks[sock].vanish();
        }
        self.end(i);
        Ok(())
    }

    fn end(&mut self, i: usize) {
        self.drop_data(i);
        self.sessions[i].over = true;
        self.over += 1;
        self.tell(Some(i), || "is over".to_owned());
    }
}
