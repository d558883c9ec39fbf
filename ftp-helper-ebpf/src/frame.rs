//! How the bytes of a packet are read, at the hooks of TC and in XDP alike.

use core::ptr::addr_of;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_md},
    cty::c_void,
    helpers::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};

/// The protocol of an IP packet that nothing stands before.
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

/// A packet at a hook: some of its bytes lie in one piece and can be read in place (the linear part), all of them can be
/// copied.
pub trait Frame {
    /// Begin and end of the linear part. Volatile, or LLVM merges the loads of two paths and zero-extends the pointer, which
    /// the verifier then takes for a number.
    fn linear(&self) -> (usize, usize);

    /// Bytes of the whole packet, all its fragments included.
    fn total(&self) -> u32;

    /// What the packet is where it has no link-layer header: an Ethertype, host byte order; 0 if that can't be told.
    fn protocol(&self) -> u16;

    /// Copies bytes of the packet; whether it holds so many.
    ///
    /// # Safety
    /// `to` must have room for `len` bytes, and the verifier must know that `len` is not 0.
    unsafe fn copy(&self, at: u32, to: *mut c_void, len: u32) -> bool;
}

impl Frame for TcContext {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        let skb = self.as_ptr().cast::<__sk_buff>();
        // SAFETY: the context is readable.
        unsafe { (addr_of!((*skb).data).read_volatile() as usize, addr_of!((*skb).data_end).read_volatile() as usize) }
    }

    #[inline(always)]
    fn total(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn protocol(&self) -> u16 {
        // SAFETY: the context is readable; the field is in network byte order.
        u16::from_be(unsafe { (*self.skb.skb).protocol } as u16)
    }

    #[inline(always)]
    unsafe fn copy(&self, at: u32, to: *mut c_void, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_load_bytes(self.as_ptr(), at, to, len) == 0 }
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        // SAFETY: the context is readable.
        unsafe {
            (
                addr_of!((*self.ctx).data).read_volatile() as usize,
                addr_of!((*self.ctx).data_end).read_volatile() as usize,
            )
        }
    }

    #[inline(always)]
    fn total(&self) -> u32 {
        // SAFETY: the helper only reads the context.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    /// There is no field for it: the version in the IP header.
    #[inline(always)]
    fn protocol(&self) -> u16 {
        let (data, end) = self.linear();
        // A whole header: comparing with `data + 1` becomes a comparison of halves, of which the verifier learns nothing.
        if data + 20 > end {
            return 0;
        }
        // SAFETY: within the linear part, compared above.
        match unsafe { *(data as *const u8) } >> 4 {
            4 => IPV4,
            6 => IPV6,
            _ => 0,
        }
    }

    #[inline(always)]
    unsafe fn copy(&self, at: u32, to: *mut c_void, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_xdp_load_bytes(self.ctx.cast::<xdp_md>(), at, to, len) == 0 }
    }
}

/// Copies `size_of::<T>()` bytes of the packet from `at`.
#[inline(always)]
pub fn load<T: Copy>(frame: &impl Frame, at: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: exactly the given number of bytes are written into the given memory, or it fails.
    if !unsafe { frame.copy(at, value.as_mut_ptr().cast(), size_of::<T>() as u32) } {
        return None;
    }
    // SAFETY: it is filled; callers use it for integers and arrays of integers only.
    Some(unsafe { value.assume_init() })
}
