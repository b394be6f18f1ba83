//! What a run is like, drawn from its seed (swarm testing: most runs turn most accidents off or up).

use fastrand::Rng;

/// The settings of one run. Times in nanoseconds of virtual time.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Initiators that share the disk.
    pub initiators: usize,
    /// Ports of each host, all on one segment.
    pub ports: usize,
    /// Largest Ethernet payload in bytes.
    pub mtu: u32,
    /// Size of the disk in sectors; small, so that requests meet.
    pub sectors: u64,
    /// Messages the target says it can queue.
    pub buffers: u16,
    /// Requests each initiator makes.
    pub requests: u32,
    /// Requests it keeps under way.
    pub depth: usize,
    /// Longest request in sectors.
    pub request_sectors_max: u64,
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
    /// Ports of the first initiator go down and come back, this far apart on average; 0 is never.
    pub flap_every: u64,
    /// Writes, trims and zeroings among the requests, in a hundred.
    pub writes: u32,
    /// Trims and zeroings among those, in a hundred.
    pub zeroes: u32,
    /// Flushes among the requests, in a hundred.
    pub flushes: u32,
}

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000 * MICROS;

impl Knobs {
    /// The settings that belong to a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut pick = |choices: &[u64]| choices[rng.usize(..choices.len())];
        let initiators = pick(&[1, 1, 2, 3]) as usize;
        let ports = pick(&[1, 1, 2]) as usize;
        let delay_min = pick(&[5 * MICROS, 50 * MICROS]);
        let flap_every = if ports > 1 { pick(&[0, 300 * MILLIS, 3000 * MILLIS]) } else { 0 };
        Self {
            initiators,
            ports,
            mtu: pick(&[1500, 4200, 9000]) as u32,
            sectors: pick(&[16, 64, 256]),
            buffers: pick(&[2, 8, 16, 64]) as u16,
            requests: pick(&[100, 300]) as u32,
            depth: pick(&[1, 4, 16, 64]) as usize,
            request_sectors_max: pick(&[1, 8, 64]),
            loss: pick(&[0, 0, 10, 50, 200]) as u32,
            repeat: pick(&[0, 0, 20, 200]) as u32,
            delay_min,
            delay_max: delay_min + pick(&[MICROS, 100 * MICROS, 2 * MILLIS]),
            late: pick(&[0, 0, 20, 100]) as u32,
            late_max: pick(&[MILLIS, 200 * MILLIS, 5000 * MILLIS]),
            disk_max: pick(&[10 * MICROS, MILLIS, 50 * MILLIS, 400 * MILLIS]),
            flap_every,
            writes: pick(&[20, 50, 80]) as u32,
            zeroes: pick(&[0, 0, 10]) as u32,
            flushes: pick(&[0, 2, 10]) as u32,
        }
    }

    /// The network does nothing wrong any more.
    pub fn heal(&mut self) {
        (self.loss, self.repeat, self.late, self.flap_every) = (0, 0, 0, 0);
    }
}
