//! Naming the memory in which a target keeps writes that are not durable yet.
//!
//! When the host of a target loses power, writes are lost that were answered and not flushed. An initiator does not see
//! it: the target is silent for a while, then it answers again, and the next FLUSH succeeds, though what it was to make
//! durable is gone. So a target says in IDENTIFY, and in each answer to FLUSH CACHE EXT, in which memory it keeps such
//! writes. When that is another one than before, what was not flushed is lost, and no later flush may say otherwise.
//!
//! 48 bits, as many as the LBA registers of an answer hold: 24 for the host and 24 for the life of its memory.

const BITS: u32 = 24;
const MASK: u32 = (1 << BITS) - 1;

/// A target's memory for writes that are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMemory {
    /// Whose: stays the same when the host starts anew. 24 bits.
    pub host: u32,
    /// Another one whenever that memory was lost. 24 bits.
    pub life: u32,
}

impl CacheMemory {
    /// The memory of a host that is called so, in this life.
    pub fn of(host: &[u8], life: &[u8]) -> Self {
        let number = |bytes: &[u8]| (fnv1a(bytes) >> BITS) as u32 & MASK;
        Self { host: number(host), life: number(life) }
    }

    /// From 48 bits; others are ignored.
    pub fn from_bits(bits: u64) -> Self {
        Self { host: (bits >> BITS) as u32 & MASK, life: bits as u32 & MASK }
    }

    /// As 48 bits.
    pub fn bits(self) -> u64 {
        u64::from(self.host & MASK) << BITS | u64::from(self.life & MASK)
    }
}

/// FNV-1a, 64 bits.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back() {
        let memory = CacheMemory { host: 0xabcdef, life: 0x123456 };
        assert_eq!(memory.bits(), 0xabcd_ef12_3456);
        assert_eq!(CacheMemory::from_bits(memory.bits() | 0xff << 48), memory);
    }

    #[test]
    fn hosts_and_lives_differ() {
        let [one, reborn, other] = [(b"a", b"1"), (b"a", b"2"), (b"b", b"1")].map(|(h, l)| CacheMemory::of(h, l));
        assert!(one.host == reborn.host && one.life != reborn.life);
        assert!(one.host != other.host && one.life == other.life);
    }

    #[test]
    fn fnv_as_published() {
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
