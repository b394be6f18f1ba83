//! Owned frame buffers whose payload is aligned for direct disk I/O.
//!
//! A buffer has room for the 36 bytes of Ethernet, AoE and ATA header right before a payload that starts
//! on a 512-byte memory boundary. A disk read therefore lands in place behind the header of the reply, even
//! with O_DIRECT, and the whole reply is one contiguous run of bytes for the socket.
//!
//! Buffers are owned: an operation carries its buffer to the driver and gets it back with the completion,
//! so nothing is freed or touched while the kernel holds it.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Bytes in an AoE sector; fixed by the protocol.
pub const SECTOR: usize = 512;

/// Bytes before an ATA payload: Ethernet header 14, AoE header 10, ATA registers 12.
pub const HEADROOM: usize = 36;

/// The shortest Ethernet frame without its checksum, in bytes. Shorter frames are padded with zeros.
pub const MIN_FRAME: usize = 60;

/// Payload capacity, in sectors, that fits any MTU (8-bit sector count).
pub const MAX_SECTORS: usize = 255;

#[derive(Clone, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(512))]
struct Sector([u8; SECTOR]);

/// One frame: `HEADROOM` bytes of headers, then the payload, which is 512-byte aligned in memory.
pub struct FrameBuffer {
    sectors: Box<[Sector]>,
    /// Frame bytes in use, headers included.
    len: usize,
}

impl FrameBuffer {
    /// A zeroed buffer for up to `payload_sectors` sectors of payload.
    pub fn new(payload_sectors: usize) -> Self {
        let mut sectors = Vec::with_capacity(payload_sectors + 1);
        sectors.resize_with(payload_sectors + 1, Sector::new_zeroed);
        Self { sectors: sectors.into_boxed_slice(), len: 0 }
    }

    /// Payload bytes that fit.
    pub fn payload_capacity(&self) -> usize {
        (self.sectors.len() - 1) * SECTOR
    }

    /// The frame's bytes, `len` of them.
    pub fn frame(&self) -> &[u8] {
        &self.sectors.as_bytes()[SECTOR - HEADROOM..][..self.len]
    }

    /// The frame's bytes, writable.
    pub fn frame_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.sectors.as_mut_bytes()[SECTOR - HEADROOM..][..len]
    }

    /// Sets the frame's length. Bytes gained keep what they held before: the caller fills or zeroes them.
    ///
    /// # Panics
    /// When the buffer has no room for it.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= HEADROOM + self.payload_capacity(), "frame of {len} bytes does not fit its buffer");
        self.len = len;
    }

    /// Makes the frame `len` bytes of zero.
    pub fn reset(&mut self, len: usize) {
        self.set_len(len);
        self.frame_mut().fill(0);
    }

    /// The first `len` bytes of the payload area, whatever the frame's length is.
    pub fn payload(&self, len: usize) -> &[u8] {
        &self.sectors.as_bytes()[SECTOR..][..len]
    }

    /// The first `len` bytes of the payload area, writable, whatever the frame's length is.
    pub fn payload_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.sectors.as_mut_bytes()[SECTOR..][..len]
    }
}

impl core::fmt::Debug for FrameBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FrameBuffer({} of {} bytes)", self.len, HEADROOM + self.payload_capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_aligned_and_follows_the_header() {
        let mut buffer = FrameBuffer::new(17);
        assert_eq!(buffer.payload(1).as_ptr().addr() % SECTOR, 0);
        buffer.reset(HEADROOM + SECTOR);
        buffer.payload_mut(SECTOR).fill(0xa5);
        assert_eq!(buffer.frame()[..HEADROOM], [0; HEADROOM]);
        assert_eq!(buffer.frame()[HEADROOM..], [0xa5; SECTOR]);
        assert_eq!(buffer.payload_capacity(), 17 * SECTOR);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_frame_longer_than_its_buffer_is_refused() {
        FrameBuffer::new(1).set_len(HEADROOM + SECTOR + 1);
    }
}
