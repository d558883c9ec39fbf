//! Working memory: too large for the stack, and beyond what the verifier tracks.

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut},
};

use aya_ebpf::helpers::bpf_loop;
use ftp_helper_common::{
    addr::Addr,
    canon::{self, Rewriting, SEGMENT_MAX, SHEET, Text},
    key::{FlowKey, PinholeKey, SessionKey, TupleKey},
    nat::{Alias, Translation},
    record::{CHUNK, FlowRecord, SegmentRecord, SynRecord},
    state::{FlowState, PinholeState, SessionState, pending},
};

use crate::{maps::SCRATCH, packet::View};

/// Bytes behind the record's header: a chunk, the NUL behind it, and room so that every masked position is inside.
pub const BUFFER: usize = 4096;
const _: () = assert!(CHUNK == SEGMENT_MAX as usize && BUFFER >= 2 * CHUNK);

/// One CPU's working memory.
#[repr(C)]
pub struct Scratch {
    /// What is written to the ring buffer: header, then payload.
    pub record: SegmentRecord,
    pub buffer: [u8; BUFFER],
    /// The key of the session in hand.
    pub key: SessionKey,
    pub pad: u32,
    /// Its snapshot, with room for the lock behind it: as it lies in the table.
    pub state: SessionState,
    pub state_lock: [u32; 2],
    /// What it was, for a benchmark that undoes what it did.
    pub before: SessionState,
    /// The packet's two ends, its sender first.
    pub ends: FlowKey,
    /// Keys for look-ups.
    pub pin: PinholeKey,
    /// The pinhole that the segment in hand has opened.
    pub opened: PinholeKey,
    /// The one that was open before.
    pub old: PinholeKey,
    /// A pinhole in the making, as it lies in the table.
    pub hole: PinholeState,
    pub hole_lock: [u32; 2],
    pub tuple: TupleKey,
    pub net: [u32; 7],
    /// A data connection, as it lies in the table.
    pub flow: FlowState,
    pub flow_lock: [u32; 2],
    /// What is told of it.
    pub told: FlowRecord,
    pub syn: SynRecord,
    pub segment: canon::Segment,
    pub hash: u64,
    pub slots: [u32; 32],
    pub launder: u32,
    pub pad2: u32,
    /// When denied SYNs were told last, and how many since.
    pub told_window: u64,
    pub told_count: u64,
    /// The inside end of the session in hand, and how many bytes its announcement had before it was rewritten, and has now; 0
    /// where it was not.
    pub alias: Alias,
    pub old_len: u32,
    pub new_len: u32,
    /// 1 if `alias` is the session's.
    pub known: u32,
    pub pad3: u32,
    /// The segment in hand as it is outside.
    pub seen: View,
    /// The endpoint that an announcement is to name.
    pub endpoint: Rewriting,
    pub pad4: u32,
    pub translation: Translation,
    /// A translated data connection as its inside end knows it.
    pub inside: TupleKey,
    pub pad5: u32,
}

/// The hooks' working memory.
pub const OF_HOOKS: u32 = 0;
/// The command program's.
pub const OF_COMMANDS: u32 = 1;

/// This CPU's working memory.
#[inline(always)]
pub fn scratch(which: u32) -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(which)
}

/// `v`, of which neither LLVM nor the verifier knows anything any more.
#[inline(always)]
pub fn launder(s: *mut Scratch, v: u32) -> u32 {
    // SAFETY: `s` is this CPU's working memory.
    unsafe {
        let p = addr_of_mut!((*s).launder);
        p.write_volatile(v);
        p.read_volatile()
    }
}

/// `v & MASK`, as an instruction of its own. LLVM leaves a mask out where comparisons have told it the range, and kernels
/// before 6.8 learn less from comparisons than LLVM does: they need the mask right where the position is used.
#[inline(always)]
pub fn masked<const MASK: u32>(v: u32) -> usize {
    let mut v = v as u64;
    // SAFETY: one instruction on one register.
    unsafe { core::arch::asm!("{0} &= {1}", inout(reg) v, const MASK, options(nomem, nostack, preserves_flags, pure)) };
    v as usize
}

/// The sheet that lines are rewritten on: behind any payload, before what `checksum` reads.
#[inline(always)]
pub fn sheet(s: *mut Scratch) -> *mut u8 {
    // SAFETY: the sheet lies in the buffer of this CPU's working memory.
    unsafe { addr_of_mut!((*s).buffer).cast::<u8>().add(SHEET_AT) }
}

/// Where the sheet begins in the buffer.
const SHEET_AT: usize = 2304;
const _: () = assert!(SHEET_AT > CHUNK && SHEET_AT % 8 == 0 && SHEET_AT + SHEET as usize <= 3072);

/// The segment in the working memory.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct InScratch(pub *mut Scratch);

impl Text for InScratch {
    #[inline(always)]
    fn at(self, i: u32) -> u8 {
        // SAFETY: the mask keeps the position inside the buffer.
        unsafe { addr_of!((*self.0).buffer).cast::<u8>().add(masked::<{ BUFFER as u32 - 1 }>(i)).read() }
    }

    #[inline(always)]
    fn word(self, i: u32) -> u64 {
        // SAFETY: as above; the buffer begins at a multiple of eight.
        unsafe { addr_of!((*self.0).buffer).cast::<u64>().add(masked::<{ BUFFER as u32 / 8 - 1 }>(i)).read() }
    }

    #[inline(always)]
    fn launder(self, v: u32) -> u32 {
        launder(self.0, v)
    }

    #[inline(always)]
    fn put(self, slot: u32, v: u32) {
        // SAFETY: the mask keeps the position inside the array.
        unsafe { addr_of_mut!((*self.0).slots).cast::<u32>().add(masked::<31>(slot)).write_volatile(v) }
    }

    #[inline(always)]
    fn get(self, slot: u32) -> u32 {
        // SAFETY: as above.
        unsafe { addr_of!((*self.0).slots).cast::<u32>().add(masked::<31>(slot)).read_volatile() }
    }

    #[inline(always)]
    fn sheet(self, i: u32) -> u8 {
        // SAFETY: the mask keeps the position inside the sheet, which lies in the buffer.
        unsafe { sheet(self.0).add(masked::<{ SHEET - 1 }>(i)).read() }
    }

    #[inline(always)]
    fn write(self, i: u32, byte: u8) {
        // SAFETY: as above.
        unsafe { sheet(self.0).add(masked::<{ SHEET - 1 }>(i)).write(byte) }
    }

    #[inline(always)]
    fn each_byte(self, n: u32) {
        ftp_each_byte(n);
    }

    #[inline(always)]
    fn each_line(self, max: u32) {
        ftp_each_line(max);
    }

    #[inline(always)]
    fn scan_line(self, n: u32) -> u64 {
        ftp_scan_line(n)
    }

    #[inline(always)]
    fn read_227(self, at: u32, _own: &Addr) -> u32 {
        ftp_read_227(at)
    }

    #[inline(always)]
    fn read_229(self, at: u32) -> u32 {
        ftp_read_229(at)
    }

    #[inline(always)]
    fn read_port(self, _own: &Addr) -> u32 {
        ftp_read_port()
    }

    #[inline(always)]
    fn read_eprt(self, _own: &Addr) -> u32 {
        ftp_read_eprt()
    }
}

/// Global functions: the verifier looks at each once, knowing nothing of where it is called. They find the segment by
/// themselves and take numbers only.
/// The port that the line in hand announces for `own`, or 0: one of `kind` that names the host as it is inside, or, where
/// `public`, as it is outside.
#[inline(always)]
pub fn announced(kind: u8, public: bool) -> u32 {
    match (kind, public) {
        (pending::PASV, false) => ftp_inside_227(),
        (pending::PASV, true) => ftp_read_227(0),
        (pending::EPSV, _) => ftp_read_229(0),
        (pending::PORT, false) => ftp_inside_port(),
        (pending::PORT, true) => ftp_read_port(),
        (_, false) => ftp_inside_eprt(),
        (_, true) => ftp_read_eprt(),
    }
}

/// Writes the line in hand anew, on the sheet; its length, or 0.
#[inline(always)]
pub fn rewrite(n: u32, kind: u8) -> u32 {
    ftp_rewrite(n, kind as u32)
}

macro_rules! global {
    ($(fn $name:ident($($arg:ident),*) -> $ret:ty => |$s:ident| $body:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($($arg: u32),*) -> $ret {
                let Some($s) = scratch(OF_HOOKS) else { return 0 };
                // SAFETY: this CPU's working memory.
                #[allow(unused_unsafe, reason = "not every body looks at the key")]
                unsafe { $body }
            }
        )*
    };
}

global! {
    fn ftp_scan_line(n) -> u64 => |s| canon::scan_line(InScratch(s), n);
    fn ftp_read_227(at) -> u32 => |s| canon::read_227(InScratch(s), at, &*addr_of!((*s).key.server));
    fn ftp_read_229(at) -> u32 => |s| canon::read_229(InScratch(s), at);
    fn ftp_read_port() -> u32 => |s| canon::read_port(InScratch(s), &*addr_of!((*s).key.client));
    fn ftp_read_eprt() -> u32 => |s| canon::read_eprt(InScratch(s), &*addr_of!((*s).key.client));
    // The same for the endpoint of a translated host as it is inside.
    fn ftp_inside_227() -> u32 => |s| canon::read_227(InScratch(s), 0, &*addr_of!((*s).alias.addr));
    fn ftp_inside_port() -> u32 => |s| canon::read_port(InScratch(s), &*addr_of!((*s).alias.addr));
    fn ftp_inside_eprt() -> u32 => |s| canon::read_eprt(InScratch(s), &*addr_of!((*s).alias.addr));
    fn ftp_rewrite(n, kind) -> u32 => |s| canon::rewriting(InScratch(s), n, kind as u8, &*addr_of!((*s).endpoint));
}

/// Runs [`read_one_line`] for each line of the segment.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_each_line(max: u32) -> u32 {
    // SAFETY: the callback has the signature that the helper calls, and takes no context.
    unsafe { bpf_loop(max, read_one_line as *mut c_void, core::ptr::null_mut(), 0) as u32 }
}

/// Runs [`write_one_byte`] for each byte of a line that is rewritten.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftp_each_byte(n: u32) -> u32 {
    // SAFETY: as above.
    unsafe { bpf_loop(n, write_one_byte as *mut c_void, core::ptr::null_mut(), 0) as u32 }
}

/// Verified once, run once a byte.
extern "C" fn write_one_byte(index: u64, _context: *mut c_void) -> i64 {
    let Some(s) = scratch(OF_HOOKS) else { return 1 };
    canon::rewrite_byte(InScratch(s), index as u32);
    0
}

/// Verified once, run once a line.
extern "C" fn read_one_line(_index: u64, _context: *mut c_void) -> i64 {
    let Some(s) = scratch(OF_HOOKS) else { return 1 };
    if canon::read_line(InScratch(s)) { 0 } else { 1 }
}
