//! The receive ring: memory shared with the kernel, which puts frames into its slots in order.
//!
//! Who owns a slot is told by its status word. We read a slot only after the kernel has handed it over (Acquire), and
//! hand it back only when nobody looks at it any more (Release). The layout is version 2 of the packet ring, which hands
//! over each frame at once.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{TPACKET_ALIGNMENT, TPACKET2_HDRLEN, sockaddr_ll, tpacket_req, tpacket2_hdr};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::ETHERNET_HEADER;

/// Where the kernel writes the sender's address in a slot.
const ADDRESS: usize = size_of::<tpacket2_hdr>().next_multiple_of(TPACKET_ALIGNMENT);

/// Bytes before the MTU's worth of a frame: the kernel aligns that and lets the Ethernet header end there.
const HEAD: usize = (TPACKET2_HDRLEN + 16).next_multiple_of(TPACKET_ALIGNMENT);

/// A second VLAN tag stays in the frame.
const VLAN_TAG: usize = 4;

/// Sizes of a ring. Slots do not cross the border of a block, which is one run of memory for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    slot_size: usize,
    slots_per_block: usize,
    block_size: usize,
    blocks: usize,
}

impl Geometry {
    /// Longer frames than any Ethernet device sends are not catered for.
    const MAX_MTU: usize = 65_535;
    const MAX_BYTES: usize = 256 << 20;
    const USUAL_BLOCK: usize = 64 << 10;

    /// Room for at least `frames` frames of an interface with this MTU, as long as that takes no more than 256 MiB.
    pub(super) fn new(mtu: u32, frames: u32, page_size: usize) -> Self {
        let mtu = usize::try_from(mtu).map_or(Self::MAX_MTU, |mtu| mtu.min(Self::MAX_MTU));
        let slot_size = (HEAD + mtu + VLAN_TAG).next_multiple_of(TPACKET_ALIGNMENT);
        let block_size = slot_size.max(Self::USUAL_BLOCK).next_multiple_of(page_size);
        let slots_per_block = block_size / slot_size;
        let wanted = (frames as usize).div_ceil(slots_per_block);
        Self { slot_size, slots_per_block, block_size, blocks: wanted.clamp(1, Self::MAX_BYTES / block_size) }
    }

    /// What to ask the kernel for.
    pub(super) fn request(&self) -> tpacket_req {
        let as_int = |size| u32::try_from(size).expect("sizes of a ring are bounded");
        tpacket_req {
            tp_block_size: as_int(self.block_size),
            tp_block_nr: as_int(self.blocks),
            tp_frame_size: as_int(self.slot_size),
            tp_frame_nr: as_int(self.slots()),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.slots_per_block * self.blocks
    }

    pub(super) fn bytes(&self) -> usize {
        self.block_size * self.blocks
    }

    fn offset(&self, slot: usize) -> usize {
        slot / self.slots_per_block * self.block_size + slot % self.slots_per_block * self.slot_size
    }
}

/// The mapped ring of one socket.
pub(super) struct Ring {
    base: NonNull<u8>,
    geometry: Geometry,
    /// The slot that is filled next or has waited longest.
    next: usize,
}

// SAFETY: the ring is the only owner of the mapping, and any thread may use that.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring that was requested on this socket with this geometry.
    pub(super) fn map(socket: impl AsFd, geometry: Geometry) -> Result<Self, Errno> {
        let length = NonZeroUsize::new(geometry.bytes()).expect("a ring has a block");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, socket, 0)? };
        Ok(Self { base: base.cast(), geometry, next: 0 })
    }

    pub(super) fn slots(&self) -> usize {
        self.geometry.slots()
    }

    /// Whether a frame waits. No system call.
    pub(super) fn is_waiting(&self) -> bool {
        self.status(self.next).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// The frame that has waited longest. Its slot goes back to the kernel when the value is dropped.
    pub(super) fn take(&mut self) -> Option<Slot<'_>> {
        let at = self.next;
        let status = self.status(at).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.next = (at + 1) % self.geometry.slots();
        // SAFETY: the slot lies within the mapping and is ours until its status word says otherwise, which only the
        // drop of the `Slot` does. The kernel writes nothing to it until then.
        let bytes = unsafe {
            NonNull::slice_from_raw_parts(self.base.add(self.geometry.offset(at)), self.geometry.slot_size).as_ref()
        };
        Some(Slot { status: self.status_pointer(at), flags: status, bytes, ring: PhantomData })
    }

    fn status_pointer(&self, slot: usize) -> NonNull<u32> {
        // SAFETY: the slot lies within the mapping and starts with its status word.
        unsafe { self.base.add(self.geometry.offset(slot)).cast() }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: the word lives as long as the mapping, is aligned as all slots are, and both sides access it as an
        // atomic while it may change.
        unsafe { AtomicU32::from_ptr(self.status_pointer(slot).as_ptr()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the mapping, and no `Slot` outlives the ring.
        let unmapped = unsafe { munmap(self.base.cast(), self.geometry.bytes()) };
        assert!(unmapped.is_ok(), "a whole mapping of ours can be unmapped");
    }
}

/// A frame in its slot.
pub(super) struct Slot<'a> {
    status: NonNull<u32>,
    flags: u32,
    bytes: &'a [u8],
    ring: PhantomData<&'a mut Ring>,
}

impl Slot<'_> {
    /// The frame from its Ethernet header on; none when it did not fit the slot.
    pub(super) fn frame(&self) -> Option<&[u8]> {
        let start = usize::from(self.half_word(offset_of!(tpacket2_hdr, tp_mac)));
        let kept = self.word(offset_of!(tpacket2_hdr, tp_snaplen));
        let whole = kept == self.word(offset_of!(tpacket2_hdr, tp_len)) && self.flags & libc::TP_STATUS_COPY == 0;
        let frame = self.bytes.get(start..)?.get(..kept as usize)?;
        (whole && frame.len() >= ETHERNET_HEADER).then_some(frame)
    }

    /// The VLAN the frame was tagged with; 0 for a tag that only carries a priority.
    pub(super) fn vlan(&self) -> Option<u16> {
        let tagged = self.flags & libc::TP_STATUS_VLAN_VALID != 0;
        tagged.then(|| self.half_word(offset_of!(tpacket2_hdr, tp_vlan_tci)) & 0x0fff)
    }

    /// How the frame was addressed: a `PACKET_*` constant.
    pub(super) fn packet_type(&self) -> u8 {
        self.bytes[ADDRESS + offset_of!(sockaddr_ll, sll_pkttype)]
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes[at..][..4].try_into().expect("four bytes"))
    }

    fn half_word(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes[at..][..2].try_into().expect("two bytes"))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // SAFETY: the word is in the mapping, which outlives the slot, and is aligned. Nobody reads the slot's bytes
        // after this.
        unsafe { AtomicU32::from_ptr(self.status.as_ptr()) }.store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_of_the_whole_mtu_fits_a_slot() {
        let geometry = Geometry::new(9000, 1024, 4096);
        assert_eq!(geometry.slot_size, 9088);
        assert_eq!(geometry.slots_per_block, 7);
        assert_eq!(geometry.slots(), 1029);
        assert_eq!(Geometry::new(1500, 1, 4096).slots(), 41);
    }

    proptest! {
        #[test]
        fn the_kernel_accepts_any_geometry(
            mtu: u32,
            frames: u32,
            page_size in prop_oneof![Just(4096usize), Just(16_384), Just(65_536)],
        ) {
            let geometry = Geometry::new(mtu, frames, page_size);
            let request = geometry.request();
            prop_assert_eq!(geometry.slot_size % TPACKET_ALIGNMENT, 0);
            prop_assert_eq!(geometry.block_size % page_size, 0);
            prop_assert!(geometry.slot_size <= geometry.block_size);
            prop_assert_eq!(request.tp_frame_nr, request.tp_block_size / request.tp_frame_size * request.tp_block_nr);
            prop_assert!(geometry.bytes() <= Geometry::MAX_BYTES);
            prop_assert!(geometry.slots() >= frames as usize || geometry.bytes() + geometry.block_size > Geometry::MAX_BYTES);
            prop_assert!(geometry.offset(geometry.slots() - 1) + geometry.slot_size <= geometry.bytes());
        }
    }
}
