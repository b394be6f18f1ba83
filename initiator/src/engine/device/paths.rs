//! The paths of a device: how they are found, identified, registered with, and given up.

use aoe_common::ata::Identify;
use aoe_common::frame::{HEADROOM, SECTOR};
use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;
use aoe_common::wire::{ConfigRepr, Frame, MacAddr};

use super::super::frames::{self, Envelope};
use super::super::path::{LOSSES_TO_FAIL, PATHS_MAX, Path, PathState, Question, WINDOW_MAX};
use super::super::{PortId, PortInfo, payload_sectors};
use super::{ASK_EAGERLY, Device, DeviceState, Event, IDENTIFY_ATTEMPTS, IoError, SETTLE, UNAWAITED_MAX};

impl Device {
    /// Asks everybody on a port for the device.
    pub(super) fn ask(&mut self, port: PortId, info: PortInfo) {
        let mut frame = vec![0; aoe_common::frame::MIN_FRAME];
        frames::config_query(info.mac, self.config.address, self.tags.take(), &mut frame);
        self.controls.push_back((port, frame));
    }

    pub(super) fn handle_config(&mut self, now: Instant, port: PortId, info: PortInfo, frame: &Frame<'_>) {
        let Ok(config) = ConfigRepr::parse(frame.body, true) else { return };
        let sectors = payload_sectors(info, config.sector_count);
        if frame.header.error.is_some() || sectors == 0 {
            return;
        }
        let mac = frame.ethernet.source;
        let Some(index) = self.find_path(port, mac) else {
            let path = Path::new(now, port, mac, sectors, config.buffer_count);
            let index = if self.paths.len() < PATHS_MAX {
                self.paths.push(path);
                self.paths.len() - 1
            } else {
                let Some(index) = self.replaceable_path() else { return };
                self.paths[index] = path;
                index
            };
            self.identify_path_if_due(now, index);
            return;
        };
        let path = &mut self.paths[index];
        path.offered = sectors;
        path.window.set_limit(u32::from(config.buffer_count).min(WINDOW_MAX));
        match path.state {
            PathState::Identifying { .. } => {}
            PathState::Failed | PathState::Foreign => {
                path.identify(now);
                self.identify_path_if_due(now, index);
            }
            PathState::Live => {
                let was_silent = path.losses > 0;
                // An unasked answer tells of a change: the target started anew, or its disk has another size.
                // A routine one is a chance to learn of the same.
                self.ask_path(now, index);
                if was_silent {
                    self.lose_flights_of(index);
                }
            }
        }
    }

    /// A path out of use whose place a new one may take: no flight waits for an answer over it.
    fn replaceable_path(&self) -> Option<usize> {
        let awaited = self.flights.iter().flatten().fold(0, |paths, flight| paths | flight.paths_used);
        let unused = |path: &Path| matches!(path.state, PathState::Failed | PathState::Foreign);
        (0..self.paths.len()).find(|index| unused(&self.paths[*index]) && awaited & 1 << index == 0)
    }

    pub(super) fn find_path(&self, port: PortId, mac: MacAddr) -> Option<usize> {
        self.paths.iter().position(|path| path.port == port && path.mac == mac)
    }

    /// Asks a path what it is to be asked, and waits for the answer.
    fn ask_path(&mut self, now: Instant, index: usize) {
        let question = self.paths[index].question;
        self.paths[index].asked_at = now;
        self.paths[index].question_tag = self.send_question(index, question);
    }

    /// Queues a question for a path; returns its tag.
    fn send_question(&mut self, index: usize, question: Question) -> Option<u32> {
        let tag = self.tags.take();
        let envelope = self.envelope(index, tag)?;
        let mut frame = vec![0; HEADROOM + SECTOR];
        let len = match question {
            Question::Identify => frames::identify(&envelope, &mut frame),
            Question::Register => frames::register(&envelope, self.config.identity, &mut frame),
        };
        frame.truncate(len);
        self.controls.push_back((self.paths[index].port, frame));
        Some(tag)
    }

    pub(super) fn identify_path_if_due(&mut self, now: Instant, index: usize) {
        let PathState::Identifying { attempts, again } = self.paths[index].state else { return };
        if now < again {
            return;
        }
        if attempts == IDENTIFY_ATTEMPTS {
            self.paths[index].state = PathState::Failed;
            return;
        }
        self.paths[index].state =
            PathState::Identifying { attempts: attempts + 1, again: now + Path::identify_timeout(attempts) };
        self.ask_path(now, index);
    }

    pub(super) fn handle_identify(&mut self, now: Instant, index: usize, result: Result<(), IoError>, data: &[u8]) {
        let identify = match Identify::parse(data) {
            Ok(identify) if result.is_ok() => identify,
            _ => {
                self.stats.bad_answers += 1;
                return;
            }
        };
        let was_live = self.paths[index].is_live();
        let known = self.disk.as_ref();
        let other_live = self.paths.iter().enumerate().any(|(other, path)| other != index && path.is_live());
        let same_disk = known.is_none_or(|known| {
            let same_name = known.serial == identify.serial && known.model == identify.model;
            // A disk may grow or shrink under one path; two paths that disagree lead to two disks.
            same_name && (known.sectors == identify.sectors || was_live || !other_live)
        });
        let (mac, port) = (self.paths[index].mac, self.paths[index].port);
        if !same_disk && !planted(Fault::ForeignUsed) {
            if self.paths[index].state != PathState::Foreign {
                if was_live {
                    self.fail_path(now, index);
                }
                self.paths[index].state = PathState::Foreign;
                self.report(Event::Foreign { mac, port, identify: Box::new(identify) });
            }
            return;
        }
        if let Some(known) = known
            && known.sectors != identify.sectors
        {
            if self.paths[index].asked_at < self.resized_at {
                // Overtaken on its way by a newer answer on another path; else it would undo a growth.
                self.ask_path(now, index);
                return;
            }
            self.resized_at = now;
            self.report(Event::Resized { before: known.sectors, now: identify.sectors });
        }
        if let Some(memory) = identify.cache_memory {
            self.hear_memory(index, memory);
        }
        let exactly_once = identify.exactly_once;
        self.disk = Some(identify);
        match (was_live, exactly_once) {
            // It may have started anew, and have to be told again. Lost, this is made up for by the next time.
            (true, true) => {
                let tag = self.send_question(index, Question::Register);
                tag.into_iter().for_each(|tag| self.do_not_await(tag));
            }
            (true, false) => {}
            (false, true) => {
                let path = &mut self.paths[index];
                path.question = Question::Register;
                path.state = PathState::Identifying { attempts: 0, again: now };
                self.identify_path_if_due(now, index);
            }
            (false, false) => self.path_is_up(now, index),
        }
    }

    /// A path leads to our disk, and its target knows who we are as far as it can.
    pub(super) fn path_is_up(&mut self, now: Instant, index: usize) {
        let (mac, port) = (self.paths[index].mac, self.paths[index].port);
        let can_flush = self.disk.as_ref().is_some_and(|disk| disk.flush_ext);
        let path = &mut self.paths[index];
        path.question = Question::Identify;
        path.state = PathState::Live;
        path.losses = 0;
        path.window.restart();
        self.report(Event::PathUp { mac, port });
        if can_flush {
            self.greet(index);
        }
        if self.paths[index].passes < u8::MAX {
            // What was in the way may have gone.
            self.measure(now, index);
        }
        match self.state {
            DeviceState::Searching => {
                self.settle_at.get_or_insert(now + SETTLE);
            }
            DeviceState::Dead => {
                self.state = DeviceState::Up;
                self.report(Event::Up);
            }
            DeviceState::Up => {}
        }
    }

    /// Shows a target that this station flushes, so that it may answer our writes before they are durable.
    /// Lost, this costs speed until the first real flush; so nobody waits for the answer.
    fn greet(&mut self, index: usize) {
        let tag = self.tags.take();
        let Some(envelope) = self.envelope(index, tag) else { return };
        let mut frame = vec![0; aoe_common::frame::MIN_FRAME];
        frames::ata_request(&envelope, &self.flush_command(), 0, |_| {}, &mut frame);
        self.controls.push_back((self.paths[index].port, frame));
        self.do_not_await(tag);
    }

    /// The answer to this tag is expected, and means nothing.
    fn do_not_await(&mut self, tag: u32) {
        if self.unawaited.len() == UNAWAITED_MAX {
            self.unawaited.pop_front();
        }
        self.unawaited.push_back(tag);
    }

    /// Takes a path out of use; what was under way on it is to be sent again, elsewhere if possible.
    pub(super) fn fail_path(&mut self, now: Instant, index: usize) {
        let was_live = self.paths[index].is_live();
        self.paths[index].state = PathState::Failed;
        self.paths[index].question_tag = None;
        if was_live {
            let (mac, port) = (self.paths[index].mac, self.paths[index].port);
            self.report(Event::PathDown { mac, port });
            self.lose_flights_of(index);
            self.ask_at = self.ask_at.min(now + ASK_EAGERLY);
        }
    }

    /// Whether no path is left that answers.
    pub(super) fn is_silent(&self) -> bool {
        self.paths.iter().all(|path| !path.is_live() || path.losses >= LOSSES_TO_FAIL)
    }

    pub(super) fn envelope(&self, index: usize, tag: u32) -> Option<Envelope> {
        let path = &self.paths[index];
        let info = self.ports.get(&path.port)?;
        Some(Envelope { source: info.mac, destination: path.mac, address: self.config.address, tag })
    }
}
