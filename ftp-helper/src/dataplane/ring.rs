//! Reading the kernel's ring buffers through a window.
//!
//! A ring buffer is memory of the kernel. What a process maps of it counts as the process's own too, and the usual way maps the data
//! twice in a row, so that a record that crosses the end is in one piece: 34 MiB resident for a buffer of 16. Here a quarter of a
//! MiB of it is mapped at a time, and moves along with what is read.
//!
//! The layout is that of kernel/bpf/ringbuf.c (`struct bpf_ringbuf`): a page with the consumer's position, a page with the
//! producer's, and the data pages twice. A record has a header of eight bytes, whose first word is the length with two
//! flags, and records begin at multiples of eight. Positions only grow.

use std::{
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use anyhow::{Context as _, bail, ensure};
use aya::maps::{Map, MapData};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

/// How much of the data is mapped at a time, bytes.
const WINDOW: usize = 256 << 10;
/// A record's header, bytes (`BPF_RINGBUF_HDR_SZ`).
const HEADER: usize = 8;
/// The record is being written (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// The record is to be skipped (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARD: u32 = 1 << 30;

/// A ring buffer that is being read; this must be its only reader.
pub struct RingReader {
    map: MapData,
    /// A page with one word: up to where it was read.
    consumer: Mapping,
    /// A page with one word: up to where it is written.
    producer: Mapping,
    /// Bytes of data, a power of two.
    size: usize,
    page: usize,
    /// Up to where it was read.
    position: usize,
    /// Where that page of the data begins which is the window's first.
    window_at: usize,
    window: Mapping,
}

impl RingReader {
    /// Reads on where the reader before this one has stopped.
    ///
    /// # Errors
    /// When it is no ring buffer, or can't be mapped.
    pub(super) fn new(map: Map) -> anyhow::Result<Self> {
        let Map::RingBuf(map) = map else { bail!("not a ring buffer") };
        let size = map.info().context("can't ask for a ring buffer's size")?.max_entries() as usize;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().context("can't ask for the size of a page")?;
        let page = usize::try_from(page).context("a page of a negative size")?;
        ensure!(size.is_power_of_two() && size >= page, "a ring buffer of {size} bytes");
        let fd = map.fd().as_fd();
        let consumer = Mapping::new(fd, 0, page, true)?;
        let producer = Mapping::new(fd, page, page, false)?;
        let position = consumer.word().load(Ordering::Acquire);
        let (window_at, window) = window(fd, size, page, position, 0)?;
        Ok(Self { map, consumer, producer, size, page, position, window_at, window })
    }

    /// Hands the oldest record to `f` and frees its room; false when there is none.
    ///
    /// # Errors
    /// When the next part of the buffer can't be mapped, or it holds what no kernel writes.
    pub fn next(&mut self, f: impl FnOnce(&[u8])) -> anyhow::Result<bool> {
        loop {
            if self.position == self.producer.word().load(Ordering::Acquire) {
                return Ok(false);
            }
            let header = self.header()?;
            if header & BUSY != 0 {
                return Ok(false);
            }
            let len = (header & !DISCARD) as usize;
            let whole = (HEADER + len).next_multiple_of(HEADER);
            ensure!(whole <= self.size, "a record of {len} bytes in a ring buffer of {}", self.size);
            if header & DISCARD == 0 {
                self.hold(whole)?;
                f(self.window.bytes(self.offset() + HEADER, len)?);
                self.advance(whole);
                return Ok(true);
            }
            self.advance(whole);
        }
    }

    /// The first word of the record that comes next.
    fn header(&mut self) -> anyhow::Result<u32> {
        self.hold(HEADER)?;
        Ok(self.window.header(self.offset())?.load(Ordering::Acquire))
    }

    /// Where the next record begins in the window.
    fn offset(&self) -> usize {
        (self.position & (self.size - 1)).wrapping_sub(self.window_at)
    }

    /// Moves the window unless it holds the next `n` bytes, which are no more than the buffer's.
    fn hold(&mut self, n: usize) -> anyhow::Result<()> {
        if self.offset().checked_add(n).is_none_or(|end| end > self.window.len.get()) {
            (self.window_at, self.window) = window(self.map.fd().as_fd(), self.size, self.page, self.position, n)?;
        }
        Ok(())
    }

    fn advance(&mut self, n: usize) {
        self.position = self.position.wrapping_add(n);
        // Behind the last look at the record: its room may be written to from here on.
        self.consumer.word().store(self.position, Ordering::Release);
        // A writer that wakes the reader only if it has caught up must see where it is, or the reader what was written.
        fence(Ordering::SeqCst);
    }
}

impl AsFd for RingReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

impl AsRawFd for RingReader {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Maps what follows `position`, `n` bytes of it at least; from which page of the data on.
///
/// The data is there twice: what begins within it and is no longer than it is in one piece.
fn window(fd: BorrowedFd<'_>, size: usize, page: usize, position: usize, n: usize) -> anyhow::Result<(usize, Mapping)> {
    let offset = position & (size - 1);
    let start = offset & !(page - 1);
    let needed = (offset - start + n).next_multiple_of(page);
    let len = WINDOW.max(needed).min(2 * size - start);
    Ok((start, Mapping::new(fd, 2 * page + start, len, false)?))
}

/// A mapped part of a ring buffer.
struct Mapping {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: it is memory that any thread may use; what others write there is only read through atomics, or once it is finished.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives words that are atomic, and finished bytes that nobody writes to.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: usize, len: usize, writable: bool) -> anyhow::Result<Self> {
        let len = NonZeroUsize::new(len).context("nothing to map of a ring buffer")?;
        let rights = if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        let offset = offset.try_into().context("a ring buffer is too large to be mapped")?;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing that is in use is replaced.
        let start = unsafe { mmap(None, len, rights, MapFlags::MAP_SHARED, fd, offset) };
        let start = start.context("can't map a ring buffer of the kernel")?;
        Ok(Self { start: start.cast(), len })
    }

    /// The word at its beginning.
    fn word(&self) -> &AtomicUsize {
        // SAFETY: a mapping is a page at least and begins at one, and lives as long as `self`. Other writers of it are the kernel
        // and, of the consumer's page, this reader, all of whole words.
        unsafe { self.start.cast().as_ref() }
    }

    /// The first word of the record at `offset`.
    fn header(&self, offset: usize) -> anyhow::Result<&AtomicU32> {
        ensure!(
            offset.is_multiple_of(HEADER) && offset + HEADER <= self.len.get(),
            "a ring buffer's record at {offset}"
        );
        // SAFETY: within the mapping and aligned, as was just looked at; the kernel writes it as a whole word.
        Ok(unsafe { self.start.add(offset).cast().as_ref() })
    }

    /// `len` finished bytes at `offset`, which the kernel does not write to before the consumer's position is behind them.
    fn bytes(&self, offset: usize, len: usize) -> anyhow::Result<&[u8]> {
        let held = offset.checked_add(len).is_some_and(|end| end <= self.len.get());
        ensure!(held, "a record of {len} bytes lies outside of what is mapped of a ring buffer");
        // SAFETY: within the mapping, as was just looked at, which lives as long as `self`. Nobody writes there: the record is
        // finished (its header has no BUSY), and its room is not given away while the slice is in use.
        Ok(unsafe { std::slice::from_raw_parts(self.start.add(offset).as_ptr(), len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` has made; no reference into it outlives `self`.
        let undone = unsafe { munmap(self.start.cast(), self.len.get()) };
        if let Err(e) = undone {
            tracing::warn!("can't unmap a part of a ring buffer: {e}");
        }
    }
}
