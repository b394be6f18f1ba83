//! Memory of one session: the inbox that bytes arrive in, and a pool of data buffers.

use std::collections::VecDeque;

/// Size of the inbox in bytes.
pub const INBOX_BYTES: usize = 64 << 10;
/// Buffers the pool keeps.
const MAX_POOLED: usize = 64;
/// Bytes the pool keeps.
const MAX_POOLED_BYTES: usize = 8 << 20;

/// A fixed buffer: filled at the end by the driver, consumed at the front by the session.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub fn new() -> Self {
        Self { buffer: vec![0; INBOX_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What has arrived and is not consumed yet.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next `N` bytes, if they have arrived.
    pub fn peek<const N: usize>(&self) -> Option<&[u8; N]> {
        self.bytes().first_chunk()
    }

    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start);
        self.start += count;
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn is_full(&self) -> bool {
        self.end - self.start == self.buffer.len()
    }

    /// All free space. Moves what is left to the front first; the parser leaves little more than part of a header.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// Takes `count` bytes that were put into [`Self::space`].
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "more bytes than there was space for");
        self.end += count;
    }
}

/// Used data buffers, kept so that a busy connection does not allocate.
#[derive(Default)]
pub(super) struct BufferPool {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    /// A buffer of `length` bytes. It holds zeroes or leftovers of this session, never more than twice the memory asked
    /// for, so that a bound on lengths stays a bound on memory.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| buffer.capacity() >= length && buffer.capacity() / 2 <= length;
        let Some(at) = self.buffers.iter().rposition(fits) else { return vec![0; length] };
        let mut buffer = self.buffers.swap_remove_back(at).expect("the position was just found");
        self.bytes -= buffer.capacity();
        buffer.resize(length, 0);
        buffer
    }

    /// Keeps a buffer for later. The oldest ones go when the pool is full: sizes of requests change over time.
    pub fn put(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() == 0 || buffer.capacity() > MAX_POOLED_BYTES {
            return;
        }
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        while self.buffers.len() > MAX_POOLED || self.bytes > MAX_POOLED_BYTES {
            let oldest = self.buffers.pop_front().expect("a full pool has buffers");
            self.bytes -= oldest.capacity();
        }
    }

    /// Memory held, in bytes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbox_keeps_order_across_moves() {
        let mut inbox = Inbox::new();
        let mut written = 0u8;
        let mut read = 0u8;
        for step in 0..1000 {
            let space = inbox.space();
            let count = space.len().min(step % 977);
            for byte in &mut space[..count] {
                *byte = written;
                written = written.wrapping_add(1);
            }
            inbox.filled(count);
            let count = inbox.bytes().len().min(step % 881);
            for &byte in &inbox.bytes()[..count] {
                assert_eq!(byte, read);
                read = read.wrapping_add(1);
            }
            inbox.consume(count);
        }
    }

    #[test]
    fn inbox_knows_when_it_is_full() {
        let mut inbox = Inbox::new();
        assert!(inbox.is_empty() && !inbox.is_full());
        assert_eq!(inbox.space().len(), INBOX_BYTES);
        inbox.filled(INBOX_BYTES);
        assert!(inbox.is_full() && inbox.space().is_empty());
        assert!(inbox.peek::<4>().is_some());
        inbox.consume(INBOX_BYTES - 3);
        assert!(!inbox.is_full());
        assert!(inbox.peek::<4>().is_none());
    }

    #[test]
    #[should_panic(expected = "more bytes than there was space for")]
    fn overfilling_the_inbox_is_a_bug() {
        Inbox::new().filled(INBOX_BYTES + 1);
    }

    #[test]
    fn pool_gives_back_the_same_memory() {
        let mut pool = BufferPool::default();
        let buffer = pool.take(4096);
        let address = buffer.as_ptr();
        pool.put(buffer);
        assert_eq!(pool.bytes(), 4096);
        let buffer = pool.take(4096);
        assert_eq!(buffer.as_ptr(), address);
        assert_eq!((buffer.len(), pool.bytes()), (4096, 0));
    }

    #[test]
    fn pool_does_not_waste_a_large_buffer_on_a_small_request() {
        let mut pool = BufferPool::default();
        pool.put(vec![0; 1 << 20]);
        assert!(pool.take(512).capacity() <= 1024);
        assert_eq!(pool.bytes(), 1 << 20);
    }

    #[test]
    fn pool_is_bounded_and_forgets_the_oldest() {
        let mut pool = BufferPool::default();
        for _ in 0..MAX_POOLED + 10 {
            pool.put(vec![0; 512]);
        }
        assert_eq!(pool.bytes(), MAX_POOLED * 512);
        for _ in 0..MAX_POOLED + 10 {
            pool.put(vec![0; 1 << 20]);
        }
        assert_eq!(pool.bytes(), MAX_POOLED_BYTES);
        assert!(pool.buffers.iter().all(|buffer| buffer.capacity() == 1 << 20));
        pool.put(vec![0; MAX_POOLED_BYTES + 1]);
        pool.put(Vec::new());
        assert_eq!(pool.bytes(), MAX_POOLED_BYTES);
    }
}
