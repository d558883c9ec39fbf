//! Messages of the netfilter subsystems: one question and its answer, a dump, or a transaction.

use std::{io, os::fd::AsRawFd as _};

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// A message below the netlink header: that of netfilter (`struct nfgenmsg`), then attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    /// Subsystem and message, as in `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM`.
    pub(crate) kind: u16,
    /// `NLM_F_*` beside those that the way of sending asks for.
    pub(crate) flags: u16,
    body: Vec<u8>,
}

/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NLA_F_NESTED` (linux/netlink.h).
const NESTED: u16 = 0x8000;
/// Room for one read: the kernel's dumps fill 32 KiB at most.
const ROOM: usize = 64 * 1024;

impl Message {
    /// A message about a protocol family (`NFPROTO_*`).
    pub(crate) fn new(subsystem: u8, message: u8, family: u8, attributes: &[DefaultNla]) -> Self {
        let mut body = vec![0; HEADER + attributes.buffer_len()];
        body[0] = family;
        attributes.emit(&mut body[HEADER..]);
        Self { kind: u16::from(subsystem) << 8 | u16::from(message), flags: 0, body }
    }

    /// The same with further flags.
    pub(crate) fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    /// The value of an attribute.
    pub(crate) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        attribute(self.body.get(HEADER..)?, kind)
    }

    /// Begin or end of a transaction of a subsystem, which stands in `res_id`.
    fn batch(kind: u16, subsystem: u8) -> Self {
        Self { kind, flags: 0, body: vec![0, 0, 0, subsystem] }
    }
}

/// An attribute with a value as it goes over the wire.
pub(crate) fn plain(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

/// An attribute that is a text.
pub(crate) fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    plain(kind, bytes)
}

/// An attribute that is made of attributes.
pub(crate) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    plain(kind | NESTED, bytes)
}

/// The value of the first attribute of a kind among those in `bytes`. What is malformed ends the search.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    // The iterator lends its own view: the place of the value in `bytes` is found by its address.
    for nla in NlasIterator::new(bytes) {
        let nla: NlaBuffer<&[u8]> = nla.ok()?;
        if nla.kind() == kind {
            let value: &[u8] = nla.into_inner();
            let length = usize::from(u16::from_ne_bytes([*value.first()?, *value.get(1)?]));
            return value.get(4..length);
        }
    }
    None
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, flags: header.flags, body: payload.to_vec() })
    }
}

/// A socket of the netfilter subsystems, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netfilter {
    socket: Socket,
    sequence: u32,
}

impl Netfilter {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or may not be asked.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors without the message that they are about; an old kernel sends it along.
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks one thing; the answer.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn ask(&mut self, message: Message) -> io::Result<Message> {
        let sequence = self.send(&[(message, NLM_F_REQUEST)])?;
        loop {
            for answer in self.read(0)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(m) => return Ok(m),
                    NetlinkPayload::Error(e) => return Err(e.to_io()),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn dump(&mut self, message: Message) -> io::Result<Vec<Message>> {
        let sequence = self.send(&[(message, NLM_F_REQUEST | NLM_F_DUMP)])?;
        let mut all = Vec::new();
        loop {
            for answer in self.read(0)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(m) => all.push(m),
                    NetlinkPayload::Error(e) => return Err(e.to_io()),
                    NetlinkPayload::Done(_) => return Ok(all),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
    }

    /// Has a subsystem carry out all messages or none. The kernel does so before this call's `send` returns, so there is
    /// nothing to wait for.
    ///
    /// # Errors
    /// The error of the first message that failed; nothing was done then.
    pub(crate) fn transaction(&mut self, subsystem: u8, messages: &[Message]) -> io::Result<()> {
        let mut batch = vec![(Message::batch(BATCH_BEGIN, subsystem), NLM_F_REQUEST)];
        batch.extend(messages.iter().map(|m| (m.clone(), NLM_F_REQUEST | NLM_F_ACK)));
        batch.push((Message::batch(BATCH_END, subsystem), NLM_F_REQUEST));
        let last = self.send(&batch)?;
        let first = last.wrapping_sub(batch.len() as u32 - 1);
        let mut done = 0;
        loop {
            let answers = match self.read(libc::MSG_DONTWAIT) {
                Ok(answers) => answers,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            for answer in answers {
                // What an earlier transaction was answered too late does not count.
                if answer.header.sequence_number.wrapping_sub(first) >= batch.len() as u32 {
                    continue;
                }
                if let NetlinkPayload::Error(e) = answer.payload {
                    if e.code.is_some() {
                        self.drain();
                        return Err(e.to_io());
                    }
                    done += 1;
                }
            }
        }
        if done == messages.len() { Ok(()) } else { Err(io::Error::other("the kernel has not answered")) }
    }

    /// Sends messages in one datagram; the sequence number of the last.
    fn send(&mut self, messages: &[(Message, u16)]) -> io::Result<u32> {
        let mut datagram = Vec::new();
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = flags | message.flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message.clone()));
            message.finalize();
            let at = datagram.len();
            datagram.resize(at + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[at..]);
        }
        self.socket.send(&datagram, 0)?;
        Ok(self.sequence)
    }

    fn read(&mut self, flags: libc::c_int) -> io::Result<Vec<NetlinkMessage<Message>>> {
        let mut datagram = vec![0; ROOM];
        let mut view = &mut datagram[..];
        let length = self.socket.recv(&mut view, flags)?;
        let mut rest = datagram.get(..length).unwrap_or(&datagram);
        let mut all = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
            let length = message.header.length as usize;
            all.push(message);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(all)
    }

    fn drain(&mut self) {
        while self.read(libc::MSG_DONTWAIT).is_ok() {}
    }

    /// How long [`Self::ask`] and [`Self::dump`] wait for the kernel.
    ///
    /// # Errors
    /// When the socket does not take it.
    pub(crate) fn set_patience(&self, patience: std::time::Duration) -> io::Result<()> {
        use nix::sys::{
            socket::{setsockopt, sockopt::ReceiveTimeout},
            time::{TimeVal, TimeValLike as _},
        };
        // SAFETY: the descriptor is the socket's own, open for as long as it lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        Ok(setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(millis))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again() {
        let message =
            Message::new(10, 12, 1, &[text(1, "t"), nested(3, &[plain(1, vec![7, 8, 9])]), plain(2, vec![5])]);
        assert_eq!(message.kind, 0x0a0c);
        assert_eq!(message.attribute(1), Some(&b"t\0"[..]));
        assert_eq!(attribute(message.attribute(3).unwrap(), 1), Some(&[7, 8, 9][..]));
        assert_eq!(message.attribute(2), Some(&[5][..]));
        assert_eq!(message.attribute(4), None);
        assert_eq!(attribute(&[1, 2, 3], 1), None);
        assert_eq!(attribute(&[200, 0, 1, 0, 0], 1), None);
    }
}
