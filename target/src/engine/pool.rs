//! Frame buffers, bounded in number, made when first needed and used again.

use aoe_common::frame::FrameBuffer;

/// The shortest payload area in sectors: every answer that is not data fits, the longest mask list included.
const PAYLOAD_SECTORS_MIN: usize = 3;

/// A bounded set of buffers.
#[derive(Debug)]
pub struct Pool {
    free: Vec<FrameBuffer>,
    out: usize,
    limit: usize,
    payload_sectors: usize,
}

impl Pool {
    /// At most `limit` buffers.
    pub fn new(limit: usize) -> Self {
        Self { free: Vec::with_capacity(limit), out: 0, limit, payload_sectors: PAYLOAD_SECTORS_MIN }
    }

    /// From now on buffers hold payloads of at least `sectors` sectors.
    pub fn fit(&mut self, sectors: usize) {
        if sectors > self.payload_sectors {
            self.payload_sectors = sectors;
            self.free.clear();
        }
    }

    /// A buffer with bytes of unknown content; `None` when all are out.
    pub fn take(&mut self) -> Option<FrameBuffer> {
        if self.out == self.limit {
            return None;
        }
        self.out += 1;
        Some(self.free.pop().unwrap_or_else(|| FrameBuffer::new(self.payload_sectors)))
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: FrameBuffer) {
        assert!(self.out > 0, "more buffers came back than went out");
        self.out -= 1;
        // Buffers from before a larger MTU are let go.
        if buffer.payload_capacity() >= self.payload_sectors * aoe_common::frame::SECTOR {
            self.free.push(buffer);
        }
    }

    /// Buffers that can still be taken.
    pub fn available(&self) -> usize {
        self.limit - self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_reused() {
        let mut pool = Pool::new(2);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        let at = a.payload(1).as_ptr();
        pool.give(a);
        assert_eq!(pool.take().unwrap().payload(1).as_ptr(), at);
        pool.give(b);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn small_buffers_go_when_frames_grow() {
        let mut pool = Pool::new(2);
        let old = pool.take().unwrap();
        pool.fit(17);
        pool.give(old);
        assert_eq!(pool.take().unwrap().payload_capacity(), 17 * 512);
    }
}
