//! Which sectors are asked for, one request after the other.

use aoe_common::frame::SECTOR;
use clap::ValueEnum;
use serde::Serialize;

/// What a load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Reads at random places
    #[value(name = "randread")]
    RandRead,
    /// Writes at random places
    #[value(name = "randwrite")]
    RandWrite,
    /// Reads one block after the other, from the start again behind the end
    Read,
    /// Writes one block after the other, from the start again behind the end
    Write,
    /// Reads and writes at random places
    Mix,
}

impl Kind {
    /// Whether it reads.
    pub fn reads(self) -> bool {
        matches!(self, Self::RandRead | Self::Read | Self::Mix)
    }

    /// Whether it writes.
    pub fn writes(self) -> bool {
        matches!(self, Self::RandWrite | Self::Write | Self::Mix)
    }
}

/// The part of a disk that is used, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first sector.
    pub first_sector: u64,
    /// Sectors of a block.
    pub block_sectors: u64,
    /// Whole blocks; at least one.
    pub blocks: u64,
}

/// Why there is no such range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It reaches beyond the disk.
    #[error("--offset and --size reach beyond the end: the disk has {0} bytes")]
    BeyondEnd(u64),
    /// It is shorter than a block.
    #[error("not one block of {block} bytes fits {range} bytes: choose a smaller --bs or another --offset and --size")]
    TooShort {
        /// Bytes of a block.
        block: u64,
        /// Bytes of the range.
        range: u64,
    },
}

impl Range {
    /// The blocks of `block` bytes in `size` bytes from `offset` on, or up to the end of a disk of `disk` bytes. All are
    /// multiples of 512.
    pub fn new(offset: u64, size: Option<u64>, block: u64, disk: u64) -> Result<Self, RangeError> {
        let left = disk.checked_sub(offset).ok_or(RangeError::BeyondEnd(disk))?;
        let range = size.unwrap_or(left);
        if range > left {
            return Err(RangeError::BeyondEnd(disk));
        }
        let blocks = range / block;
        if blocks == 0 {
            return Err(RangeError::TooShort { block, range });
        }
        let sector = SECTOR as u64;
        Ok(Self { first_sector: offset / sector, block_sectors: block / sector, blocks })
    }

    /// Its first byte.
    pub fn offset_bytes(&self) -> u64 {
        self.first_sector * SECTOR as u64
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks * self.block_sectors * SECTOR as u64
    }
}

/// One request to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A write, else a read.
    pub writes: bool,
    /// The first sector; it is a block long.
    pub lba: u64,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Pattern {
    kind: Kind,
    range: Range,
    /// How many of a hundred requests of a mix read.
    mix_reads: u8,
    random: Random,
    /// The next block, where one follows the other.
    cursor: u64,
}

impl Pattern {
    /// The seed decides what is drawn.
    pub fn new(kind: Kind, range: Range, mix_reads: u8, seed: u64) -> Self {
        Self { kind, range, mix_reads, random: Random(seed), cursor: 0 }
    }

    /// The next request.
    pub fn step(&mut self) -> Step {
        let block = match self.kind {
            Kind::Read | Kind::Write => {
                let block = self.cursor;
                self.cursor = (block + 1) % self.range.blocks;
                block
            }
            Kind::RandRead | Kind::RandWrite | Kind::Mix => self.random.below(self.range.blocks),
        };
        let writes = match self.kind {
            Kind::Mix => self.random.below(100) >= u64::from(self.mix_reads),
            kind => kind.writes(),
        };
        Step { writes, lba: self.range.first_sector + block * self.range.block_sectors }
    }
}

/// Numbers without order: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// The next one below a bound.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { first_sector: 16, block_sectors: 8, blocks: 5 };

    fn steps(kind: Kind, count: usize) -> Vec<Step> {
        let mut pattern = Pattern::new(kind, RANGE, 70, 1);
        (0..count).map(|_| pattern.step()).collect()
    }

    #[test]
    fn one_block_after_the_other_and_again() {
        for (kind, writes) in [(Kind::Read, false), (Kind::Write, true)] {
            let lbas = [16, 24, 32, 40, 48, 16, 24];
            assert_eq!(steps(kind, 7), lbas.map(|lba| Step { writes, lba }));
        }
    }

    #[test]
    fn random_places_are_blocks_of_the_range_and_all_of_them() {
        for (kind, writes) in [(Kind::RandRead, false), (Kind::RandWrite, true)] {
            let steps = steps(kind, 1000);
            for block in 0..5 {
                let hits = steps.iter().filter(|step| step.lba == 16 + block * 8).count();
                assert!((120..280).contains(&hits), "{hits} of 1000 at block {block} of 5");
            }
            let inside =
                |step: &Step| step.writes == writes && (16..56).contains(&step.lba) && step.lba.is_multiple_of(8);
            assert!(steps.iter().all(inside));
        }
    }

    #[test]
    fn a_mix_reads_as_often_as_asked() {
        let reads = steps(Kind::Mix, 10_000).iter().filter(|step| !step.writes).count();
        assert!((6700..7300).contains(&reads), "{reads} of 10000");
        for (mix_reads, writes) in [(0, true), (100, false)] {
            let mut pattern = Pattern::new(Kind::Mix, RANGE, mix_reads, 1);
            assert!((0..1000).all(|_| pattern.step().writes == writes));
        }
    }

    #[test]
    fn a_range_is_whole_blocks_of_the_disk() {
        let range = Range::new(8192, Some(10_240), 4096, 1 << 20).unwrap();
        assert_eq!(range, Range { first_sector: 16, block_sectors: 8, blocks: 2 });
        assert_eq!((range.offset_bytes(), range.bytes()), (8192, 8192));
        assert_eq!(Range::new(0, None, 4096, 1 << 20).unwrap().blocks, 256);
        assert_eq!(Range::new((1 << 20) - 512, None, 512, 1 << 20).unwrap().blocks, 1);
        for (offset, size) in [((1 << 20) + 512, None), (512, Some(1 << 20)), (0, Some(u64::MAX - 511))] {
            assert_eq!(Range::new(offset, size, 512, 1 << 20), Err(RangeError::BeyondEnd(1 << 20)));
        }
        assert_eq!(Range::new(0, Some(512), 1024, 2048), Err(RangeError::TooShort { block: 1024, range: 512 }));
        assert!(Range::new(2048, None, 512, 2048).is_err(), "nothing is left there");
    }
}
