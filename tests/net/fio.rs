//! Load with verification: fio writes blocks over and over, and knows which write of each was the last.

use crate::net::{Host, HostCommand};

/// Bytes of disk that the load needs, from the start.
pub const DISK_BYTES: u64 = 4 * PART_BYTES;

/// What each job has to itself.
const PART_BYTES: u64 = 16 << 20;

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Blocks of a job; few are overwritten soon, and by many writes at a time. The job with the largest blocks has a
    /// fourth of them, and of the writes.
    pub blocks: u64,
    /// Writes of a job before it reads all of its blocks back.
    pub writes: u64,
    /// How often it does both.
    pub passes: u64,
    /// Writes a second of a job at the most; 0: as many as it can.
    pub rate: u64,
    /// Whether a block may be written while an earlier write of it is under way. aoe-attach keeps such writes in order;
    /// NBD does not ask that of anybody.
    pub overlaps: bool,
}

impl Load {
    /// fio with four jobs of different block sizes at an NBD address: 512 bytes to 128 KiB, one frame to many. It
    /// fails when it reads anything but the last write of a block, by the number in it and by its checksum.
    pub fn at<'lab>(self, host: Host<'lab>, uri: &str) -> HostCommand<'lab> {
        let fio = host
            .typed("fio --ioengine=nbd --rw=randwrite --norandommap --iodepth=32 --randseed=1")
            .args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"])
            .arg(format!("--loops={}", self.passes))
            .arg(format!("--serialize_overlap={}", u8::from(!self.overlaps)))
            .arg(format!("--uri={uri}"));
        let jobs = [("sector", 512, 1), ("page", 4096, 1), ("frames", 24 << 10, 1), ("large", 128 << 10, 4)];
        (0..).zip(jobs).fold(fio, |fio, (number, (name, bytes, fewer))| {
            fio.arg(format!("--name={name}"))
                .arg(format!("--bs={bytes}"))
                .arg(format!("--offset={}", number * PART_BYTES))
                .arg(format!("--size={}", bytes * (self.blocks / fewer).max(1)))
                .arg(format!("--io_size={}", bytes * (self.writes / fewer).max(1)))
                .arg(format!("--rate_iops=,{}", self.rate / fewer))
        })
    }
}
