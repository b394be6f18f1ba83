//! Paths that carry smaller frames than both ends take: finding out, and going on with what passes.

use aoe_common::frame::{HEADROOM, SECTOR};
use aoe_common::time::Instant;

use super::super::frames;
use super::super::measuring::{Measuring, SURE, Step};
use super::sending::read_command;
use super::{Device, Event, IoError, MEASURE_PAUSE};

impl Device {
    /// Finds out which frames pass on a path, unless that is being done or was done just now.
    pub(super) fn measure(&mut self, now: Instant, index: usize) {
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.sectors);
        let path = &mut self.paths[index];
        let claimed = u64::from(path.offered).min(on_disk) as u8;
        if path.is_live() && path.measuring.is_none() && now >= path.measure_from && claimed > SURE {
            path.measuring = Some(Measuring::new(now, claimed));
            self.measure_if_due(now, index);
        }
    }

    pub(super) fn measure_if_due(&mut self, now: Instant, index: usize) {
        let Some(measuring) = self.paths[index].measuring.as_mut().filter(|measuring| now >= measuring.due()) else {
            return;
        };
        match measuring.step() {
            Step::Ask(sectors) => self.ask_measured(now, index, sectors),
            Step::Known(most) => self.frames_pass(now, index, most),
            Step::Unknown => self.stop_measuring(now, index),
        }
    }

    fn ask_measured(&mut self, now: Instant, index: usize, sectors: u8) {
        let tags = [self.fresh_tag(), self.fresh_tag()];
        let path = &mut self.paths[index];
        let measuring = path.measuring.as_mut().expect("it is being measured");
        let until = now + path.rtt.timeout(measuring.attempts());
        let large = measuring.asked(now, tags, until);
        // The answer to the large one ends an attempt.
        for (tag, sectors) in [(tags[1], SURE), (large, sectors)] {
            let Some(envelope) = self.envelope(index, tag) else { return self.stop_measuring(now, index) };
            let room = usize::from(sectors) * SECTOR;
            let mut frame = vec![0; HEADROOM + room];
            let lba48 = self.disk.as_ref().is_some_and(|disk| disk.lba48);
            let ata = read_command(lba48, 0, sectors.into());
            let len = frames::ata_request(&envelope, &ata, room, |_| {}, &mut frame);
            frame.truncate(len);
            self.controls.push_back((self.paths[index].port, frame));
        }
    }

    fn stop_measuring(&mut self, now: Instant, index: usize) {
        self.paths[index].measuring = None;
        self.paths[index].measure_from = now + MEASURE_PAUSE;
    }

    /// An answer with this tag came by a path. Returns whether it was one to a read that measures.
    pub(super) fn hear_measured(
        &mut self,
        now: Instant,
        index: usize,
        tag: u32,
        result: Result<(), IoError>,
        bytes: usize,
    ) -> bool {
        let path = &mut self.paths[index];
        let Some(measuring) = path.measuring.as_mut().filter(|measuring| measuring.asks(tag)) else { return false };
        // Who may not read, or cannot, learns nothing of frames.
        if result.is_err() || bytes < usize::from(SURE) * SECTOR {
            self.stop_measuring(now, index);
            return true;
        }
        if let (Some(sent), None) = (measuring.small_sent(tag), path.rtt.smooth()) {
            path.rtt.measured(now.since(sent));
        }
        measuring.answered(now, tag);
        self.measure_if_due(now, index);
        true
    }

    /// So many sectors pass in a frame on a path and no more, or all that both ends take.
    fn frames_pass(&mut self, now: Instant, index: usize, most: Option<u8>) {
        self.stop_measuring(now, index);
        let path = &mut self.paths[index];
        let before = path.sectors();
        path.passes = most.unwrap_or(u8::MAX);
        let (mac, port, sectors, offered) = (path.mac, path.port, path.sectors(), path.offered);
        if sectors == before {
            return;
        }
        self.report(Event::Passes { mac, port, sectors, offered });
        if sectors > before {
            return;
        }
        // Silence has another reason now than a target that is gone.
        let path = &mut self.paths[index];
        path.losses = 0;
        path.window.restart();
        self.waiting_since = self.waiting_since.map(|_| now);
        for id in 0..self.flights.len() {
            let Some(flight) = self.flights[id].as_ref().filter(|flight| flight.path == index) else { continue };
            let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
            if active.work.payload_sectors(flight.sectors) > u64::from(sectors) {
                self.lose_flight(id as u32);
            }
        }
    }
}
