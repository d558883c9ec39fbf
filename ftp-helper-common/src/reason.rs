//! The fixed list of reasons: why something was refused, denied, revoked, or left to the daemon.
//!
//! One list for kernel, daemon, events, counters and documentation (`docs/reasons.md` is checked against it).

use core::fmt;

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal $text:literal, )*) => {
        /// Why. The number is stable: it stands in records and counters.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Reason {
            $( $(#[doc = $doc])+ $name = $code, )*
        }

        impl Reason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// The name in events, tables and counters.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// What it means, in a sentence.
            pub const fn describe(self) -> &'static str {
                match self { $( Self::$name => concat!($($doc),+), )* }
            }

            /// The reason with this number.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )* _ => None }
            }

            /// The reason with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $( $text => Some(Self::$name), )* _ => None }
            }
        }
    };
}

reasons! {
    // 1-19: a SYN into a guarded range was denied.
    /// Nothing was negotiated for this connection.
    NoPinhole = 1 "no_pinhole",
    /// The port was negotiated, but by a session of another address than the one that connects.
    OtherInitiator = 2 "other_initiator",
    /// The pinhole's time was over.
    Expired = 3 "expired",
    /// The pinhole is bound to another source port.
    OtherSourcePort = 4 "other_source_port",
    /// Active mode is held to source port 20, and the connection came from another.
    SourcePortNot20 = 5 "source_port_not_20",
    /// SYN together with FIN or RST.
    SynFlags = 6 "syn_flags",
    /// A fragment towards a guarded network or a control port.
    Fragment = 7 "fragment",
    /// The table of data connections is full.
    FlowsFull = 8 "flows_full",
    /// Headers that can't be followed up to the TCP header.
    UnreadableHeaders = 9 "unreadable_headers",
    /// IPv4 options that name the hosts to pass (RFC 791 section 3.1: loose or strict source routing).
    SourceRoute = 10 "source_route",
    /// The first fragment of a packet of a translated data connection: the others can't be told to belong to it.
    FragmentTranslated = 11 "fragment_translated",

    // 20-39: a control connection that is not followed, or a packet of one that is dropped.
    /// The control connection was there before ftp-helper was.
    Midstream = 20 "midstream",
    /// The session table is full.
    SessionsFull = 21 "sessions_full",
    /// There was no room for the record, and the mode says pass: the session is lost for good.
    Unrecorded = 22 "unrecorded",
    /// The packet came by another hook than its side's handshake.
    WrongHook = 23 "wrong_hook",
    /// The session was killed.
    Killed = 24 "killed",
    /// The SYN of the control connection carried data.
    DataInSyn = 25 "data_in_syn",
    /// No room in the ring buffer; the segment was dropped and will be sent again.
    RingFull = 26 "ring_full",
    /// Both ports are control ports: nobody can tell which side is which.
    BothControlPorts = 27 "both_control_ports",
    /// A control segment whose TCP or IP checksum is wrong: its receiver does not take it either.
    BadChecksum = 28 "bad_checksum",
    /// A side's packets come by another interface than before, of the same zone: told, never dropped.
    InterfaceChanged = 29 "interface_changed",
    /// An announcement of a translated host whose inside address the daemon has not told yet; it will be sent again.
    InsideUnknown = 30 "inside_unknown",

    // 40-69: the kernel lost sight of a dialogue (it goes on in the daemon).
    /// A command was sent while another was unanswered.
    Pipelined = 40 "pipelined",
    /// Bytes are missing before this segment.
    Gap = 41 "gap",
    /// The segment ends within a line.
    Split = 42 "split",
    /// A byte that is no printable text.
    NotText = 43 "not_text",
    /// The line or the segment is longer than the kernel reads.
    TooLong = 44 "too_long",
    /// A command that the kernel does not judge.
    UnknownVerb = 45 "unknown_verb",
    /// An argument that the kernel does not judge.
    BadArgument = 46 "bad_argument",
    /// A reply that no command asked for.
    Unsolicited = 47 "unsolicited",
    /// A reply that can be read in more than one way.
    Ambiguous = 48 "ambiguous",
    /// A reply that does not begin with a code of three digits.
    BadCode = 49 "bad_code",
    /// Urgent data.
    Urgent = 50 "urgent",
    /// A reply that was sent before the command arrived.
    EarlyReply = 51 "early_reply",
    /// Old bytes and new ones in one segment.
    OldAndNew = 52 "old_and_new",
    /// Old bytes that are not the last segment again.
    OldDiffers = 53 "old_differs",
    /// Two segments of the session were judged at the same time.
    Race = 54 "race",
    /// A policy decision that the kernel leaves to the daemon.
    LeftToDaemon = 55 "left_to_daemon",
    /// Segments passed that the daemon has not seen.
    DaemonLoss = 56 "daemon_loss",

    // 70-109: an announcement opened nothing.
    /// The policy does not allow this mode.
    ModeDisabled = 70 "mode_disabled",
    /// The address is not that of the control connection (FTP bounce, RFC 2577 section 3).
    ThirdHost = 71 "third_host",
    /// The port is below 1024 (RFC 2577 section 3).
    LowPort = 72 "low_port",
    /// The port is a control port.
    ControlPort = 73 "control_port",
    /// The port is on the deny-list.
    DeniedPort = 74 "denied_port",
    /// The port is outside the server's passive range.
    OutsideRange = 75 "outside_range",
    /// Outside servers may not connect in to inside clients.
    ActiveInboundOff = 76 "active_inbound_off",
    /// The client has not logged in.
    NotLoggedIn = 77 "not_logged_in",
    /// A 227 or 229 that is not the reply to a PASV or EPSV.
    UnsolicitedReply = 78 "unsolicited_reply",
    /// The argument is not what RFC 959 or RFC 2428 says.
    BadSyntax = 79 "bad_syntax",
    /// The reply holds more than one endpoint, or one that clients read differently.
    AmbiguousReply = 80 "ambiguous_reply",
    /// The announcement is a multi-line reply, or stands inside one.
    MultilineReply = 81 "multiline_reply",
    /// The server refused the command.
    RefusedByServer = 82 "refused_by_server",
    /// The address family is not that of the control connection.
    AddressFamily = 83 "address_family",
    /// After EPSV ALL, only EPSV is allowed (RFC 2428 section 4).
    EpsvAll = 84 "epsv_all",
    /// The client holds as many pinholes as it may.
    ClientQuota = 85 "client_quota",
    /// The table of pinholes or of clients is full.
    PinholesFull = 86 "pinholes_full",
    /// Another live session holds exactly this pinhole.
    PinholeTaken = 87 "pinhole_taken",
    /// A command that negotiates in a way that is not followed (LPRT, LPSV, SPSV, CPSV).
    UnsupportedVerb = 88 "unsupported_verb",
    /// The session was tainted before.
    SessionTainted = 89 "session_tainted",
    /// The session is encrypted.
    SessionOpaque = 90 "session_opaque",
    /// The announcement comes after the end of the control connection.
    SessionClosing = 91 "session_closing",
    /// Bytes of the control connection are missing.
    StreamGap = 92 "stream_gap",
    /// The mode needs a transfer command right after PORT, and another came.
    NoTransferCommand = 93 "no_transfer_command",
    /// The announcement names the inside address of a translated host, and went on as it was: its line was split over
    /// segments, or could not be rewritten.
    NotRewritten = 94 "not_rewritten",

    // 110-139: taint and kill.
    /// The server does not begin with a greeting, or the client not with a command, of FTP.
    NotFtp = 110 "not_ftp",
    /// The client spoke before the server's greeting.
    ClientFirst = 111 "client_first",
    /// A line that ends in a bare LF.
    BareLf = 112 "bare_lf",
    /// A CR that is not followed by LF.
    BareCr = 113 "bare_cr",
    /// A Telnet sequence inside a command or a reply that negotiates, or one that some read as the end of a line.
    TelnetInCommand = 114 "telnet_in_command",
    /// A reply from the client, or a command from the server.
    WrongDirection = 115 "wrong_direction",
    /// Urgent data that is no Telnet sequence.
    UrgentData = 116 "urgent_data",
    /// Too many unanswered commands.
    PipelineOverflow = 117 "pipeline_overflow",
    /// A command pipelined behind AUTH.
    PipelinedAuth = 118 "pipelined_auth",
    /// The same bytes were sent twice with different contents.
    Overlap = 119 "overlap",
    /// More bytes out of order than are kept.
    ReassemblyOverflow = 120 "reassembly_overflow",

    // 140-169: an unconsumed pinhole was taken back, or a session ended.
    /// A new announcement replaced it.
    Replaced = 140 "replaced",
    /// The control connection ended.
    ControlClosed = 141 "control_closed",
    /// QUIT.
    Quit = 142 "quit",
    /// REIN.
    Rein = 143 "rein",
    /// A new USER.
    Relogin = 144 "relogin",
    /// ABOR.
    Abor = 145 "abor",
    /// AUTH.
    Auth = 146 "auth",
    /// The server refused the command that had opened it.
    NegativeReply = 147 "negative_reply",
    /// The daemon did not agree with the kernel.
    NotConfirmed = 148 "not_confirmed",
    /// Nothing was heard of the session for too long.
    Idle = 149 "idle",
    /// The client did not log in in time.
    LoginTimeout = 150 "login_timeout",
    /// The kernel has forgotten the session.
    Forgotten = 151 "forgotten",
    /// FIN from both sides.
    Closed = 152 "closed",
    /// A reset.
    Reset = 153 "reset",
    /// The daemon stopped.
    Shutdown = 154 "shutdown",
    /// The policy was changed.
    PolicyChanged = 155 "policy_changed",
    /// An operator asked for it by a command.
    Operator = 156 "operator",

    // 170-: opaque.
    /// The server accepted AUTH (RFC 4217, RFC 2228).
    AuthAccepted = 170 "auth_accepted",
    /// TLS from the first byte.
    ImplicitTls = 171 "implicit_tls",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_ordered() {
        for pair in Reason::ALL.windows(2) {
            assert!((pair[0] as u16) < pair[1] as u16, "{} before {}", pair[0], pair[1]);
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(*reason as u16), Some(*reason));
            assert_eq!(Reason::from_name(reason.as_str()), Some(*reason));
            assert!(reason.describe().ends_with('.'), "{reason}");
            assert!((*reason as u16) < crate::counter::REASONS as u16);
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
