//! Recognising an edit of a mask list or a reservation that has been here before.
//!
//! A copy of an old edit must not undo a newer one: the "let in" that comes late after the "shut out" would end a fence
//! that was answered for. An edit is the same when station, tag, command and every byte of it are the same. It is
//! remembered for as long as a frame lives in a network, and answered then with what is in force, or as failed if it
//! failed. So a program that always uses the same tag cannot repeat an edit within that time, and sees so in the answer.

use std::collections::VecDeque;

use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;

use super::stale::LIFE;
use super::{Command, ReplyTo};

/// Edits remembered at the most, of all exports; beyond that the oldest is forgotten early.
const REMEMBERED_MAX: usize = 256;

/// How an edit ended, as far as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is, or was, in force.
    Applied,
    /// It could not be stored, and was taken back.
    TakenBack,
}

#[derive(Debug)]
struct Known {
    export: u32,
    station: [u8; 6],
    tag: u32,
    command: Command,
    body: Box<[u8]>,
    until: Instant,
    outcome: Outcome,
}

impl Known {
    fn is(&self, export: u32, to: &ReplyTo, body: &[u8]) -> bool {
        let sender = (self.station, self.tag, self.command) == (to.station.octets(), to.tag, to.command);
        sender && self.export == export && *self.body == *body
    }
}

/// The latest edits.
#[derive(Debug, Default)]
pub(super) struct Edited {
    known: VecDeque<Known>,
}

impl Edited {
    /// What came of this edit, if it came before.
    pub(super) fn seen(&self, now: Instant, export: u32, to: &ReplyTo, body: &[u8]) -> Option<Outcome> {
        let known = self.known.iter().find(|known| known.until > now && known.is(export, to, body))?;
        Some(known.outcome).filter(|_| !planted(Fault::EditsRepeated))
    }

    /// An edit is applied.
    pub(super) fn remember(&mut self, now: Instant, export: u32, to: &ReplyTo, body: &[u8]) {
        while self.known.front().is_some_and(|known| known.until <= now) || self.known.len() == REMEMBERED_MAX {
            self.known.pop_front();
        }
        self.known.push_back(Known {
            export,
            station: to.station.octets(),
            tag: to.tag,
            command: to.command,
            body: body.into(),
            until: now + LIFE,
            outcome: Outcome::Applied,
        });
    }

    /// The edit of this station under this tag was taken back.
    pub(super) fn taken_back(&mut self, export: u32, to: &ReplyTo) {
        let of =
            |known: &&mut Known| known.export == export && known.tag == to.tag && known.station == to.station.octets();
        if let Some(known) = self.known.iter_mut().rfind(of) {
            known.outcome = Outcome::TakenBack;
        }
    }
}
