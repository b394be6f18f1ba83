//! What a run is like, drawn from its seed (swarm testing: most runs turn most accidents off or up).

use aoe_target::engine::durability::CacheMode;
use fastrand::Rng;

/// How targets, exports and disks belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// One target, one export, shared by all initiators.
    Single,
    /// Two targets with three exports; each initiator uses one of them.
    Several,
    /// Two targets export one disk under one address, as DRBD below them would have it. Each initiator writes to a part
    /// of its own: two targets know nothing of each other's requests.
    Twins,
    /// Two targets use the same address for different disks, by mistake.
    Collision,
    /// One target like vblade: it runs every copy of a request, and its flush does nothing. Each initiator writes to a
    /// part of its own, and the network repeats nothing by itself.
    Forgetful,
}

/// The settings of one run. Times in nanoseconds of virtual time.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// How targets and disks belong together.
    pub arrangement: Arrangement,
    /// Initiators of ours.
    pub initiators: usize,
    /// Initiators that behave like aoe.ko.
    pub kernels: usize,
    /// Ports of each host but those, all on one segment.
    pub ports: usize,
    /// Largest Ethernet payload in bytes.
    pub mtu: u32,
    /// When writes are acknowledged.
    pub cache: CacheMode,
    /// Size of a disk in sectors; small, so that requests meet.
    pub sectors: u64,
    /// Messages a target says it can queue.
    pub buffers: u16,
    /// Frame buffers a target has.
    pub pool: usize,
    /// Frames that wait at a host that is slow or frozen; more are lost.
    pub ring: usize,
    /// Requests each initiator makes.
    pub requests: u32,
    /// Requests it keeps under way.
    pub depth: usize,
    /// Longest pause before it asks for more.
    pub pause: u64,
    /// Longest request in sectors.
    pub request_sectors_max: u64,
    /// How long initiators of ours wait for a silent target; 0 is for ever.
    pub dead_after: u64,
    /// Frames lost, in a thousand.
    pub loss: u32,
    /// Frames repeated, in a thousand.
    pub repeat: u32,
    /// Shortest time on the wire.
    pub delay_min: u64,
    /// Longest ordinary time on the wire.
    pub delay_max: u64,
    /// Frames that take much longer, in a thousand.
    pub late: u32,
    /// How long those take at the most.
    pub late_max: u64,
    /// Longest disk operation.
    pub disk_max: u64,
    /// Disk operations that fail, in a thousand.
    pub disk_errors: u32,
    /// Whether any did, or may have.
    pub disks_fail: bool,
    /// Whether hosts of targets lose power, or did.
    pub loses_power: bool,
    /// Whether exports take no writes at times, or did.
    pub refuses_writes: bool,
    /// Accidents of each kind come this far apart on average; 0 is never.
    pub accidents: Accidents,
    /// Writes, trims and zeroings among the requests, in a hundred.
    pub writes: u32,
    /// Trims and zeroings among those, in a hundred.
    pub zeroes: u32,
    /// Flushes among the requests, in a hundred.
    pub flushes: u32,
}

/// Mean times between accidents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accidents {
    /// A port goes down and comes back.
    pub flap: u64,
    /// A port gets another MTU.
    pub mtu: u64,
    /// A port or a host is cut off, in one direction or both.
    pub partition: u64,
    /// A host stands still; then its clock jumps.
    pub freeze: u64,
    /// A target is killed and started again.
    pub kill: u64,
    /// A target's host loses power.
    pub power: u64,
    /// A target is stopped in order, and its host boots.
    pub reboot: u64,
    /// An initiator dies; another takes over.
    pub takeover: u64,
    /// A station is taken off the mask list or reserved out, and let in again.
    pub fencing: u64,
    /// A stranger sends what it likes.
    pub hostile: u64,
    /// An operator removes an export and adds it again, or drains it for a while.
    pub change: u64,
    /// Something on the way takes smaller frames than all ends, for a while.
    pub narrow: u64,
    /// An operator lets an export take no writes for a while.
    pub read_only: u64,
}

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000 * MICROS;
const SECONDS: u64 = 1_000 * MILLIS;

impl Knobs {
    /// The settings that belong to a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut pick = |choices: &[u64]| choices[rng.usize(..choices.len())];
        use Arrangement::*;
        let arrangement =
            [Single, Single, Single, Several, Twins, Collision, Forgetful][pick(&[0, 1, 2, 3, 4, 5, 6]) as usize];
        let shared = matches!(arrangement, Single | Several);
        // Linux would take both targets for paths to one disk.
        let kernels = if shared { pick(&[0, 0, 0, 1, 1, 2]) as usize } else { 0 };
        let initiators = if kernels > 0 { pick(&[0, 1, 2]) } else { pick(&[1, 1, 2, 3]) } as usize;
        let ports = pick(&[1, 1, 2]) as usize;
        let delay_min = pick(&[5 * MICROS, 50 * MICROS]);
        let forgetful = arrangement == Forgetful;
        let mut accident = |choices: &[u64], wanted: bool| if wanted { pick(choices) } else { 0 };
        let accidents = Accidents {
            flap: accident(&[0, 300 * MILLIS, 3 * SECONDS], ports > 1),
            mtu: accident(&[0, 0, 0, SECONDS], kernels == 0),
            partition: accident(&[0, 0, 0, SECONDS, 10 * SECONDS], true),
            freeze: accident(&[0, 0, 0, SECONDS, 5 * SECONDS], true),
            kill: accident(&[0, 0, 0, SECONDS, 10 * SECONDS], true),
            power: accident(&[0, 0, 0, 5 * SECONDS, 20 * SECONDS], shared),
            takeover: accident(&[0, 0, 0, 2 * SECONDS, 20 * SECONDS], true),
            fencing: accident(&[0, 0, 0, SECONDS / 2, 3 * SECONDS], arrangement == Single),
            hostile: accident(&[0, 0, MILLIS, 30 * MILLIS], true),
            change: 0,
            reboot: 0,
            narrow: 0,
            read_only: 0,
        };
        let disk_errors = if shared { pick(&[0, 0, 0, 0, 10]) as u32 } else { 0 };
        let modes = [CacheMode::Auto, CacheMode::Auto, CacheMode::Writeback, CacheMode::Writethrough];
        Self {
            arrangement,
            initiators,
            kernels,
            ports,
            mtu: pick(&[1500, 4200, 9000]) as u32,
            cache: modes[pick(&[0, 1, 2, 3]) as usize],
            sectors: pick(&[16, 64, 256]),
            buffers: pick(&[2, 8, 16, 64]) as u16,
            pool: pick(&[1024, 40]) as usize,
            // vblade has no queue but a socket buffer for what it says it takes.
            ring: if forgetful { 16 } else { pick(&[16, 1024]) as usize },
            requests: pick(&[100, 300]) as u32,
            depth: pick(&[1, 4, 16, 64]) as usize,
            pause: pick(&[0, 0, MILLIS, 500 * MILLIS]),
            request_sectors_max: pick(&[1, 8, 64]),
            dead_after: pick(&[0, 0, SECONDS, 5 * SECONDS]),
            loss: pick(&[0, 0, 10, 50, 200]) as u32,
            repeat: if forgetful { 0 } else { pick(&[0, 0, 20, 200]) as u32 },
            delay_min,
            delay_max: delay_min + pick(&[MICROS, 100 * MICROS, 2 * MILLIS]),
            late: pick(&[0, 0, 20, 100]) as u32,
            late_max: pick(&[MILLIS, 200 * MILLIS, 5 * SECONDS]),
            disk_max: pick(&[10 * MICROS, MILLIS, 50 * MILLIS, if forgetful { MILLIS } else { 400 * MILLIS }]),
            disk_errors,
            disks_fail: disk_errors > 0,
            loses_power: accidents.power > 0,
            refuses_writes: false,
            accidents,
            writes: pick(&[20, 50, 80]) as u32,
            zeroes: pick(&[0, 0, 10]) as u32,
            flushes: pick(&[0, 2, 10, 40]) as u32,
        }
    }

    /// Adds what an operator does. Drawn apart, so that all else of a seed stays as it is.
    pub fn draw_changes(&mut self, rng: &mut Rng) {
        let choices = [0, 0, 0, SECONDS, 5 * SECONDS];
        if self.arrangement != Arrangement::Forgetful {
            self.accidents.change = choices[rng.usize(..choices.len())];
            self.accidents.read_only = choices[rng.usize(..choices.len())];
            self.refuses_writes = self.accidents.read_only > 0;
        }
        // Where two hosts share a disk, one that boots does not know what the other has answered meanwhile.
        if matches!(self.arrangement, Arrangement::Single | Arrangement::Several) {
            self.accidents.reboot = choices[rng.usize(..choices.len())];
        }
    }

    /// Adds what a switch does. Drawn apart, too.
    pub fn draw_narrow(&mut self, rng: &mut Rng) {
        let choices = [0, 0, 0, 5 * SECONDS, 30 * SECONDS];
        // aoe.ko in this simulation knows one size of frames.
        if self.mtu > 1500 && self.kernels == 0 {
            self.accidents.narrow = choices[rng.usize(..choices.len())];
        }
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        (self.loss, self.repeat, self.late, self.disk_errors) = (0, 0, 0, 0);
        self.accidents = Accidents::default();
    }

    /// Whether each initiator keeps its writes to a part of the disk of its own.
    pub fn writes_apart(&self) -> bool {
        matches!(self.arrangement, Arrangement::Twins | Arrangement::Forgetful)
    }
}
