//! What does not come back: flights that are overtaken or overdue, and a target that is given up.

use aoe_common::ordering::Ordering;
use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;

use super::super::measuring::SURE;
use super::super::path::{LOSSES_TO_FAIL, SILENCE_TO_FAIL};
use super::super::recovery::Kind;
use super::{ASK_EAGERLY, Device, DeviceState, Event, IoError, TIMEOUTS_TO_MEASURE};

impl Device {
    /// Sends again what later answers tell to be lost. That is no sign of a path that fails: it answers, or has only just
    /// fallen silent.
    pub(super) fn lose_overtaken_flights(&mut self, now: Instant) {
        for index in 0..self.paths.len() {
            for kind in Kind::ALL {
                while let Some(id) = self.paths[index].recovery(kind).next_lost(now) {
                    let flight = self.flights[id as usize].as_mut().expect("flights leave the order when they end");
                    flight.place = None;
                    flight.early += 1;
                    if flight.attempts == 1 {
                        self.paths[index].window.lost(now, flight.last_sent);
                    }
                    self.lose_flight(id);
                }
            }
        }
    }

    pub(super) fn lose_overdue_flights(&mut self, now: Instant) {
        let mut next = None;
        let (mut failing, mut doubtful) = (0u32, 0u32);
        let mut given_up = Vec::new();
        for id in 0..self.flights.len() {
            let Some(flight) = self.flights[id].as_mut().filter(|flight| !flight.lost) else { continue };
            if flight.deadline > now {
                next = Some(next.map_or(flight.deadline, |next: Instant| next.min(flight.deadline)));
                continue;
            }
            let too_old = self.config.dead_after.is_some_and(|after| now >= flight.first_sent + after);
            if too_old && flight.attempts >= LOSSES_TO_FAIL {
                given_up.push(id as u32);
            }
            flight.timeouts += 1;
            let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
            let is_long = active.work.payload_sectors(flight.sectors) > u64::from(SURE);
            if is_long && flight.timeouts >= TIMEOUTS_TO_MEASURE {
                doubtful |= 1 << flight.path;
            }
            let (index, attempts, last_sent) = (flight.path, flight.attempts, flight.last_sent);
            self.lose_flight(id as u32);
            let path = &mut self.paths[index];
            // Frames sent again wait longer each time instead; one never answered must not close the window.
            if attempts == 1 {
                path.window.lost(now, last_sent);
            }
            if path.losses == 0 {
                path.silent_since = last_sent;
            }
            path.losses += 1;
            if path.losses >= LOSSES_TO_FAIL && now >= path.silent_since + SILENCE_TO_FAIL {
                failing |= 1 << index;
            }
        }
        self.flights_due = next;
        if self.is_silent() {
            given_up.clear();
        }
        // The target answers others and never these.
        for id in given_up {
            self.doubt(id);
            self.end_flight(now, id, Err(IoError::Dead));
        }
        for index in (0..self.paths.len()).filter(|index| doubtful & 1 << index != 0) {
            self.measure(now, index);
        }
        for index in 0..self.paths.len() {
            let others = self
                .paths
                .iter()
                .enumerate()
                .any(|(other, path)| other != index && path.is_live() && path.losses < LOSSES_TO_FAIL);
            // The last path is kept: there is nothing to lose by trying it. One that is measured may carry smaller frames.
            if failing & 1 << index != 0 && others && self.paths[index].measuring.is_none() {
                self.fail_path(now, index);
            }
        }
        if self.is_silent() {
            self.ask_at = self.ask_at.min(now + ASK_EAGERLY);
        }
    }

    /// Everything under way on a path is to be sent again at once.
    pub(super) fn lose_flights_of(&mut self, index: usize) {
        for id in 0..self.flights.len() {
            if self.flights[id].as_ref().is_some_and(|flight| flight.path == index) {
                self.lose_flight(id as u32);
            }
        }
    }

    /// A flight is to be sent again at once.
    pub(super) fn lose_flight(&mut self, id: u32) {
        let flight = self.flights[id as usize].as_mut().expect("only known flights are lost");
        if !flight.lost {
            flight.lost = true;
            self.resend.push_back(id);
            let path = &mut self.paths[flight.path];
            path.in_flight -= 1;
            if let Some((kind, number)) = flight.place.take() {
                path.recovery(kind).over(number);
            }
        }
    }

    pub(super) fn give_up_if_dead(&mut self, now: Instant) {
        let (Some(since), Some(after)) = (self.waiting_since, self.config.dead_after) else { return };
        if self.state != DeviceState::Up || now < since + after || !self.is_silent() {
            return;
        }
        self.state = DeviceState::Dead;
        self.report(Event::Dead);
        for id in 0..self.flights.len() as u32 {
            if self.flights[id as usize].is_none() {
                continue;
            }
            self.doubt(id);
            self.drop_flight(id);
        }
        self.resend.clear();
        self.unsent.clear();
        self.parked.clear();
        self.ordering = Ordering::default();
        for slot in 0..self.requests.len() as u32 {
            if let Some(active) = self.requests[slot as usize].as_mut() {
                active.error = Some(IoError::Dead);
                active.ordered = false;
                self.end_request(now, slot);
            }
        }
        for index in 0..self.paths.len() {
            self.fail_path(now, index);
        }
        self.ask_at = now;
    }

    /// A write that was never answered is given up: a copy may still arrive, and the target would take it for
    /// new.
    fn doubt(&mut self, flight_id: u32) {
        let flight = self.flights[flight_id as usize].as_ref().expect("only known flights are given up");
        let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
        if active.work.writes() && !planted(Fault::DoubtForgotten) {
            let start = active.lba + flight.offset;
            let until = flight.last_sent + self.config.frame_life;
            self.quarantine.add(start, start + flight.sectors, until, None);
        }
    }
}
