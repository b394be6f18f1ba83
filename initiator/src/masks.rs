//! The mask lists of exports, read and edited from this host: [`Masking`] with ports and a clock.

use std::io;

use aoe_common::addr::Address;
use aoe_common::link::monotonic_now;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{DirectiveRepr, MacAddr};

use crate::engine::{MaskList, Masking, Trouble};
use crate::identity::first_tag;
use crate::ports::PortsError;
use crate::talk::Talk;

/// How long to listen for targets even if all that were asked for have answered.
const LISTEN: Duration = Duration::from_secs(1);

/// Why lists could not be read or edited.
#[derive(Debug, thiserror::Error)]
pub enum MasksError {
    /// No port can be opened.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// No port is open.
    #[error("no target can be asked {0}")]
    NoPort(String),
    /// Waiting failed.
    #[error("cannot wait for answers: {0}")]
    Wait(#[from] io::Error),
    /// The targets did not all do their part.
    #[error("{}", join(.0))]
    Troubles(Vec<Trouble>),
}

fn join(troubles: &[Trouble]) -> String {
    let texts: Vec<_> = troubles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// A conversation with all targets of some exports. See the [module](self).
#[derive(Debug)]
pub struct Masks {
    talk: Talk,
    deadline: Instant,
    masking: Masking,
}

impl Masks {
    /// Begins a conversation about these exports on the named interfaces, or on all. Every one of `required` has to
    /// serve every export; `timeout` is for reading and editing together. The bounds of [`Masking`] apply.
    pub fn open(
        interfaces: Vec<String>,
        exports: &[Address],
        required: Vec<MacAddr>,
        timeout: Duration,
    ) -> Result<Self, MasksError> {
        let talk = Talk::open(interfaces)?;
        if talk.ports().next().is_none() {
            return Err(MasksError::NoPort(talk.describe()));
        }
        let now = monotonic_now();
        let (listen_until, deadline) = (now + LISTEN.min(timeout / 2), now + timeout);
        let exports = exports.iter().copied();
        let masking = Masking::new(now, listen_until, deadline, exports, required, first_tag(), talk.ports());
        Ok(Self { talk, deadline, masking })
    }

    /// The lists of all targets.
    pub fn read(&mut self) -> Result<Vec<MaskList>, MasksError> {
        self.converse()
    }

    /// Has all targets edit their lists, after they have been read, and reads them again.
    pub fn edit(&mut self, directives: Vec<DirectiveRepr>) -> Result<Vec<MaskList>, MasksError> {
        self.masking.edit(monotonic_now(), directives).map_err(MasksError::Troubles)?;
        self.converse()
    }

    fn converse(&mut self) -> Result<Vec<MaskList>, MasksError> {
        self.talk.hold(&mut self.masking, self.deadline)?;
        let outcome = self.masking.outcome(monotonic_now()).expect("it is over at its deadline");
        outcome.map_err(MasksError::Troubles)?;
        let lists: Vec<_> = self.masking.lists().collect();
        tracing::debug!("lists {}: {lists:?}", self.talk.describe());
        Ok(lists)
    }
}
