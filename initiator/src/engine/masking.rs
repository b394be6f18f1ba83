//! Reading and editing the mask lists of exports, at every target that serves them.
//!
//! A conversation in two rounds. Reading finds the targets of each export and asks each for its list; it listens for
//! a time, so that none is missed that answers late. Then [`Masking::edit`] sends the same directives to all of them
//! and, once an edit is answered, asks for the list again. A round is over when everybody has answered, or when the
//! time is. What a list should hold is for the caller to judge, before an edit and after.
//!
//! A question that is not answered is sent again under the same tag, over each port on which its target was heard in
//! turn. Only the target that was asked can answer it: by its address, for that export, with that tag.

use std::collections::{BTreeMap, BTreeSet};

use aoe_common::addr::Address;
use aoe_common::time::Instant;
use aoe_common::wire::{
    Command, ConfigRepr, DirectiveCommand, DirectiveRepr, ErrorCode, Frame, MacAddr, MaskCommand, MaskError, MaskRepr,
};

use super::frames::{self, Envelope};
use super::question::Question;
use super::{Conversation, PortId, PortInfo, Tags};

/// Exports in one conversation at the most.
pub const EXPORTS_MAX: usize = 64;
/// Targets of one export at the most.
pub const TARGETS_MAX: usize = 64;
/// Directives in one edit, and stations on a list after it, at the most: they fit an MTU of 1500.
pub const DIRECTIVES_MAX: usize = 180;

/// A mask list, as a target gave it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskList {
    /// The export.
    pub address: Address,
    /// The target that serves it.
    pub target: MacAddr,
    /// The stations on the list; empty means that everybody is let in.
    pub stations: Vec<MacAddr>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody serves an export.
    #[error("no target answers for {0}: it is down, or has a mask list without this host's stations")]
    Unserved(Address),
    /// A target that has to serve an export does not.
    #[error("target {target} does not answer for {address}")]
    Missing {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
    },
    /// A target stopped answering.
    #[error("target {target} serves {address} but did not answer in time when {round}")]
    Silent {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
        /// What it was asked for.
        round: Round,
    },
    /// A target does not do what it is asked.
    #[error("target {target} refuses for {address}: {error}")]
    Refused {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
        /// Why.
        error: ErrorCode,
    },
    /// A target stopped in the middle of an edit; what it did before that is in force.
    #[error("target {target} stopped editing the list of {address} at station {at}: {}", explain(*.error))]
    Stopped {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
        /// Why.
        error: MaskError,
        /// At which directive, counted from 0.
        at: u8,
    },
    /// An edit that would end the conversation.
    #[error(
        "target {target} would no longer hear this host for {address}: none of this host's stations would be on the list"
    )]
    Deaf {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
    },
    /// An edit that cannot work.
    #[error("the list of {address} at target {target} would hold {count} stations: {DIRECTIVES_MAX} are the most")]
    Full {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
        /// How many.
        count: usize,
    },
    /// More targets than can be kept track of.
    #[error("more than {TARGETS_MAX} targets answer for {0}")]
    Crowd(Address),
    /// A target that came when the lists had been read already.
    #[error("target {target} came up for {address} while the lists were edited, and was left out: run this again")]
    Latecomer {
        /// The export.
        address: Address,
        /// The target.
        target: MacAddr,
    },
}

fn explain(error: MaskError) -> &'static str {
    match error {
        MaskError::Unspecified => "it cannot keep the change",
        MaskError::BadDirective => "it does not know that directive",
        MaskError::Full => "its list is full",
        MaskError::Unknown(_) => "it gives no reason that is defined",
    }
}

/// What a target is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Its list.
    Reading,
    /// To edit it.
    Editing,
    /// Its list, after the edit.
    Verifying,
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reading => "asked for its list",
            Self::Editing => "told to edit its list, so the edit may or may not be in force",
            Self::Verifying => "asked for its list after the edit",
        })
    }
}

/// A target that serves an export.
#[derive(Debug)]
struct Server {
    /// The ports it was heard on.
    ports: Vec<PortId>,
    /// What it is being asked; `None` once it has answered.
    open: Option<(Round, Question)>,
    stations: Vec<MacAddr>,
    trouble: Option<Trouble>,
}

/// A conversation, begun when the value is made. See the [module](self).
#[derive(Debug)]
pub struct Masking {
    listen_until: Instant,
    deadline: Instant,
    exports: BTreeSet<Address>,
    /// Targets that have to serve every export.
    required: Vec<MacAddr>,
    ports: BTreeMap<PortId, PortInfo>,
    tags: Tags,
    /// Who serves an export? Asked of everybody on a port.
    calls: BTreeMap<(Address, PortId), Question>,
    servers: BTreeMap<(Address, [u8; 6]), Server>,
    /// What concerns no known server.
    troubles: Vec<Trouble>,
    /// Empty while reading.
    directives: Vec<DirectiveRepr>,
}

impl Masking {
    /// Finds the targets of these exports and asks for their lists. Listens for targets until `listen_until`, and
    /// longer for those it has to find: each of `required` for each export, and one for each in any case. All has to
    /// be over by `deadline`.
    ///
    /// # Panics
    /// When there are more exports than [`EXPORTS_MAX`], more required targets than [`TARGETS_MAX`], or wildcards.
    pub fn new(
        now: Instant,
        listen_until: Instant,
        deadline: Instant,
        exports: impl IntoIterator<Item = Address>,
        required: Vec<MacAddr>,
        tag_start: u32,
        ports: impl IntoIterator<Item = (PortId, PortInfo)>,
    ) -> Self {
        let exports: BTreeSet<_> = exports.into_iter().collect();
        assert!(exports.len() <= EXPORTS_MAX && required.len() <= TARGETS_MAX, "a bounded conversation");
        assert!(exports.iter().all(|address| !address.is_wildcard()), "each export has an address of its own");
        let ports: BTreeMap<_, _> = ports.into_iter().collect();
        let mut tags = Tags::new(tag_start);
        let calls = exports.iter().flat_map(|address| ports.keys().map(|port| (*address, *port)));
        let calls = calls.map(|key| (key, Question::new(tags.take(), now))).collect();
        Self {
            listen_until,
            deadline,
            exports,
            required,
            ports,
            tags,
            calls,
            servers: BTreeMap::new(),
            troubles: Vec::new(),
            directives: Vec::new(),
        }
    }

    /// Somebody serves an export.
    fn handle_server(&mut self, now: Instant, address: Address, target: MacAddr, port: PortId) {
        if let Some(known) = self.servers.get_mut(&(address, target.octets())) {
            if self.directives.is_empty() && !known.ports.contains(&port) {
                known.ports.push(port);
            }
            return;
        }
        if self.servers_of(address).count() == TARGETS_MAX {
            return self.note(Trouble::Crowd(address));
        }
        if !self.directives.is_empty() {
            return self.note(Trouble::Latecomer { address, target });
        }
        let open = Some((Round::Reading, Question::new(self.tags.take(), now)));
        let server = Server { ports: vec![port], open, stations: Vec::new(), trouble: None };
        self.servers.insert((address, target.octets()), server);
    }

    fn servers_of(&self, address: Address) -> impl Iterator<Item = &Server> {
        self.servers.range((address, [0; 6])..=(address, [0xff; 6])).map(|(_, server)| server)
    }

    fn note(&mut self, trouble: Trouble) {
        if self.troubles.len() < EXPORTS_MAX && !self.troubles.contains(&trouble) {
            self.troubles.push(trouble);
        }
    }

    /// An answer about a mask list.
    fn handle_answer(&mut self, now: Instant, frame: &Frame<'_>) {
        let (address, target) = (frame.header.address, frame.ethernet.source);
        let Some(server) = self.servers.get_mut(&(address, target.octets())) else { return };
        let Some((round, _)) = server.open.filter(|(_, question)| question.is_answered_by(frame.header.tag)) else {
            return;
        };
        if let Some(error) = frame.header.error {
            server.trouble = Some(Trouble::Refused { address, target, error });
            server.open = None;
            return;
        }
        let Ok((mask, directives)) = MaskRepr::parse(frame.body) else { return };
        if mask.command != round.command() {
            return;
        }
        if let Some(error) = mask.error {
            server.trouble = Some(Trouble::Stopped { address, target, error, at: mask.directive_count });
            server.open = None;
            return;
        }
        server.stations = directives.map(|directive| directive.mac).collect();
        server.open = (round == Round::Editing).then(|| (Round::Verifying, Question::new(self.tags.take(), now)));
    }

    /// Whether there may be targets that have not been found.
    fn is_searching(&self, now: Instant) -> bool {
        self.directives.is_empty() && (now < self.listen_until || self.absent().next().is_some())
    }

    /// Who has to be there and is not.
    fn absent(&self) -> impl Iterator<Item = Trouble> + '_ {
        let unserved = self.exports.iter().filter(|address| self.servers_of(**address).next().is_none());
        let unserved = unserved.map(|address| Trouble::Unserved(*address));
        let pairs = self.exports.iter().flat_map(|address| self.required.iter().map(|target| (*address, *target)));
        let missing = pairs.filter(|(address, target)| !self.servers.contains_key(&(*address, target.octets())));
        unserved.chain(missing.map(|(address, target)| Trouble::Missing { address, target }))
    }

    /// How the round ended; `None` while it goes on.
    pub fn outcome(&self, now: Instant) -> Option<Result<(), Vec<Trouble>>> {
        let waits = self.is_searching(now) || self.servers.values().any(|server| server.open.is_some());
        if waits && now < self.deadline {
            return None;
        }
        let silent = self.servers.iter().filter_map(|((address, target), server)| {
            let (round, _) = server.open?;
            Some(Trouble::Silent { address: *address, target: (*target).into(), round })
        });
        let told = self.servers.values().filter_map(|server| server.trouble.clone());
        let troubles: Vec<_> = self.troubles.iter().cloned().chain(self.absent()).chain(told).chain(silent).collect();
        Some(if troubles.is_empty() { Ok(()) } else { Err(troubles) })
    }

    /// The lists as they were given last, by export and target.
    pub fn lists(&self) -> impl Iterator<Item = MaskList> + '_ {
        self.servers.iter().map(|((address, target), server)| MaskList {
            address: *address,
            target: (*target).into(),
            stations: server.stations.clone(),
        })
    }

    /// Edits the lists of all targets, once reading has ended well. What makes an edit impossible anywhere is told
    /// before anything is sent.
    ///
    /// # Panics
    /// When reading has not ended well, and when there are no directives or more than [`DIRECTIVES_MAX`].
    pub fn edit(&mut self, now: Instant, directives: Vec<DirectiveRepr>) -> Result<(), Vec<Trouble>> {
        assert!((1..=DIRECTIVES_MAX).contains(&directives.len()), "a bounded edit");
        assert!(self.directives.is_empty() && self.outcome(now) == Some(Ok(())), "an edit follows a reading");
        let mut troubles = Vec::new();
        let mut ways = Vec::new();
        for list in self.lists() {
            let MaskList { address, target, stations } = &list;
            let (address, target) = (*address, *target);
            let after = list.after(&directives);
            let heard = |port: &PortId| after.is_empty() || after.contains(&self.ports[port].mac);
            let ports = &self.servers[&(address, target.octets())].ports;
            let ports: Vec<_> = ports.iter().copied().filter(heard).collect();
            if ports.is_empty() {
                troubles.push(Trouble::Deaf { address, target });
            }
            if after.len() > stations.len().max(DIRECTIVES_MAX) {
                troubles.push(Trouble::Full { address, target, count: after.len() });
            }
            ways.push(ports);
        }
        if !troubles.is_empty() {
            return Err(troubles);
        }
        for (server, ports) in self.servers.values_mut().zip(ways) {
            server.ports = ports;
            server.open = Some((Round::Editing, Question::new(self.tags.take(), now)));
        }
        self.directives = directives;
        Ok(())
    }
}

impl Conversation for Masking {
    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else { return };
        let header = frame.header;
        let source = frame.ethernet.source;
        let from_station = source.0 & 1 == 0 && source != MacAddr::zero();
        if !header.response || !from_station || !self.exports.contains(&header.address) {
            return;
        }
        let Some(info) = self.ports.get(&port) else { return };
        match header.command {
            Command::Config if header.error.is_none() && ConfigRepr::parse(frame.body, true).is_ok() => {
                self.handle_server(now, header.address, source, port);
            }
            Command::Mask if frame.ethernet.destination == info.mac => self.handle_answer(now, &frame),
            _ => {}
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        if now >= self.deadline {
            return None;
        }
        if self.is_searching(now)
            && let Some(((address, port), call)) = self.calls.iter_mut().find(|(_, call)| call.is_due(now))
        {
            call.was_sent(now);
            return Some((*port, frames::config_query(self.ports[port].mac, *address, call.tag(), out)));
        }
        let is_due = |server: &Server| server.open.is_some_and(|(_, question)| question.is_due(now));
        let ((address, target), server) = self.servers.iter_mut().find(|(_, server)| is_due(server))?;
        let (round, question) = server.open.as_mut().expect("it has a question that is due");
        let port = server.ports[question.sent() % server.ports.len()];
        question.was_sent(now);
        let envelope = Envelope {
            source: self.ports[&port].mac,
            destination: (*target).into(),
            address: *address,
            tag: question.tag(),
        };
        let directives = if *round == Round::Editing { self.directives.as_slice() } else { &[] };
        Some((port, frames::mask_request(&envelope, round.command(), directives, out)))
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let searching = self.is_searching(now);
        let calls = self.calls.values().filter(|_| searching).map(|call| call.again());
        let questions = self.servers.values().filter_map(|server| Some(server.open?.1.again()));
        let listen = (now < self.listen_until).then_some(self.listen_until);
        calls.chain(questions).chain(listen).chain([self.deadline]).min()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.outcome(now).is_some()
    }
}

impl MaskList {
    /// The stations that the directives leave on the list.
    pub fn after(&self, directives: &[DirectiveRepr]) -> Vec<MacAddr> {
        let mut stations = self.stations.clone();
        for DirectiveRepr { command, mac } in directives {
            match command {
                DirectiveCommand::Add if !stations.contains(mac) => stations.push(*mac),
                DirectiveCommand::Delete => stations.retain(|station| station != mac),
                _ => {}
            }
        }
        stations
    }
}

impl Round {
    fn command(self) -> MaskCommand {
        match self {
            Self::Reading | Self::Verifying => MaskCommand::Read,
            Self::Editing => MaskCommand::Edit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::time::Duration;
    use aoe_common::wire::{BROADCAST, ConfigCommand, EthernetRepr, HeaderRepr, VERSION};

    const PORT: PortId = PortId(1);
    const OTHER_PORT: PortId = PortId(2);
    const OURS: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const ALSO_OURS: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
    const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xb);
    const ONE: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);
    const TWO: MacAddr = MacAddr(2, 0, 0, 0, 1, 2);
    const EXPORT: Address = Address::new(0, 1);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn directives(command: DirectiveCommand, stations: &[MacAddr]) -> Vec<DirectiveRepr> {
        stations.iter().map(|mac| DirectiveRepr { command, mac: *mac }).collect()
    }

    fn delete(stations: &[MacAddr]) -> Vec<DirectiveRepr> {
        directives(DirectiveCommand::Delete, stations)
    }

    /// Gets the number and the frame of a request, and its answer: may change that, or lose it.
    type Hook = dyn FnMut(usize, &Frame<'_>, &mut Vec<u8>) -> bool;

    /// A target that does as r11 says, or as its hook says.
    struct Fake {
        mac: MacAddr,
        list: Vec<MacAddr>,
        edits: usize,
        hook: Box<Hook>,
        heard: usize,
    }

    impl Fake {
        fn new(mac: MacAddr, list: &[MacAddr]) -> Self {
            Self { mac, list: list.to_vec(), edits: 0, hook: Box::new(|_, _, _| true), heard: 0 }
        }

        fn hook(mut self, hook: impl FnMut(usize, &Frame<'_>, &mut Vec<u8>) -> bool + 'static) -> Self {
            self.hook = Box::new(hook);
            self
        }

        fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
            let frame = Frame::parse(bytes).unwrap();
            assert!(!frame.header.response && frame.header.address == EXPORT);
            let meant = [self.mac, BROADCAST].contains(&frame.ethernet.destination);
            if !meant || !self.list.is_empty() && !self.list.contains(&frame.ethernet.source) {
                return None;
            }
            let body = match frame.header.command {
                Command::Config => config(),
                Command::Mask => self.mask(frame.body),
                other => panic!("asked for {other:?}"),
            };
            let mut answer = answer(self.mac, frame.ethernet.source, frame.header, &body);
            self.heard += 1;
            (self.hook)(self.heard, &frame, &mut answer).then_some(answer)
        }

        fn mask(&mut self, body: &[u8]) -> Vec<u8> {
            let (request, directives) = MaskRepr::parse(body).unwrap();
            if request.command == MaskCommand::Edit {
                self.edits += 1;
                for directive in directives {
                    self.list.retain(|mac| *mac != directive.mac);
                    if directive.command == DirectiveCommand::Add {
                        self.list.push(directive.mac);
                    }
                }
            }
            mask(request.command, &self.list)
        }
    }

    fn mask(command: MaskCommand, list: &[MacAddr]) -> Vec<u8> {
        let repr = MaskRepr { command, error: None, directive_count: list.len() as u8 };
        let mut body = vec![0; MaskRepr::FIXED_LEN + list.len() * MaskRepr::DIRECTIVE_LEN];
        repr.emit(directives(DirectiveCommand::None, list), &mut body);
        body
    }

    fn config() -> Vec<u8> {
        let repr = ConfigRepr::answer(16, 0x4019, 2, ConfigCommand::Read, b"");
        let mut body = vec![0; repr.wire_len()];
        repr.emit(&mut body);
        body
    }

    fn answer(source: MacAddr, destination: MacAddr, asked: HeaderRepr, body: &[u8]) -> Vec<u8> {
        let ethernet = EthernetRepr { destination, source, vlan: None };
        let header = HeaderRepr { response: true, ..asked };
        let mut out = vec![0; 24 + body.len()];
        Frame::emit_headers(&ethernet, &header, &mut out).copy_from_slice(body);
        out
    }

    /// A header of an answer nobody asked for.
    fn unasked(command: Command, tag: u32) -> HeaderRepr {
        HeaderRepr { version: VERSION, response: true, error: None, address: EXPORT, command, tag }
    }

    fn masking(required: &[MacAddr]) -> Masking {
        let ports = [(PORT, OURS), (OTHER_PORT, ALSO_OURS)].map(|(id, mac)| (id, PortInfo { mac, mtu: 1500 }));
        Masking::new(at(0), at(1000), at(20_000), [EXPORT], required.to_vec(), 7, ports)
    }

    /// Runs a round against these targets, and returns how and when it ended. An answer takes 1 ms.
    fn run(masking: &mut Masking, now: &mut Instant, targets: &mut [Fake]) -> Result<(), Vec<Trouble>> {
        let mut out = vec![0; frames::FRAME_MAX];
        loop {
            while let Some((port, len)) = masking.poll_transmit(*now, &mut out) {
                let answers: Vec<_> = targets.iter_mut().filter_map(|target| target.answer(&out[..len])).collect();
                *now = *now + Duration::from_millis(u64::from(!answers.is_empty()));
                answers.iter().for_each(|answer| masking.handle_frame(*now, port, answer));
            }
            if let Some(outcome) = masking.outcome(*now) {
                return outcome;
            }
            let due = masking.poll_timeout(*now).expect("a deadline");
            assert!(due > *now, "something is due for ever");
            *now = due;
        }
    }

    #[test]
    fn every_target_is_read_edited_and_read_again() {
        let (mut now, mut masking) = (at(0), masking(&[]));
        let mut targets = [Fake::new(ONE, &[OURS, B]), Fake::new(TWO, &[B, OURS])];
        run(&mut masking, &mut now, &mut targets).unwrap();
        assert_eq!(now, at(1000), "it listens for others");
        let lists: Vec<_> = masking.lists().map(|list| (list.target, list.stations)).collect();
        assert_eq!(lists, [(ONE, vec![OURS, B]), (TWO, vec![B, OURS])]);

        masking.edit(now, delete(&[B])).unwrap();
        run(&mut masking, &mut now, &mut targets).unwrap();
        assert!(now < at(1100), "nothing to wait for: {now:?}");
        assert!(masking.lists().all(|list| list.stations == [OURS]));
        assert!(targets.iter().all(|target| target.list == [OURS] && target.edits == 1));
    }

    #[test]
    fn lost_frames_are_sent_again_under_the_same_tag() {
        let mut tags = BTreeSet::new();
        // Of every four answers one arrives.
        let lossy = Fake::new(ONE, &[OURS, ALSO_OURS, B]).hook(move |number, frame, _| {
            tags.insert(frame.header.tag);
            assert!(tags.len() <= 5, "two calls, a reading, an edit and a reading: {tags:?}");
            number % 4 == 0
        });
        let (mut now, mut masking) = (at(0), masking(&[]));
        let mut targets = [lossy];
        run(&mut masking, &mut now, &mut targets).unwrap();
        masking.edit(now, delete(&[B])).unwrap();
        run(&mut masking, &mut now, &mut targets).unwrap();
        assert_eq!(targets[0].list, [OURS, ALSO_OURS]);
        assert!(targets[0].edits > 1 && now < at(20_000));
    }

    #[test]
    fn a_target_that_falls_silent_is_named_when_the_time_is_over() {
        for (silent_from, round) in [(2, Round::Reading), (5, Round::Editing), (6, Round::Verifying)] {
            let (mut now, mut masking) = (at(0), masking(&[]));
            // Heard on one port only: a call, a reading, two more calls, an edit, a reading.
            let silent = Fake::new(TWO, &[OURS, B]).hook(move |number, _, _| number < silent_from);
            let mut targets = [Fake::new(ONE, &[OURS, B]), silent];
            let mut outcome = run(&mut masking, &mut now, &mut targets);
            if round != Round::Reading {
                outcome.unwrap();
                masking.edit(now, delete(&[B])).unwrap();
                outcome = run(&mut masking, &mut now, &mut targets);
                assert_eq!(targets[0].list, [OURS], "the others do their part");
            }
            assert_eq!(outcome, Err(vec![Trouble::Silent { address: EXPORT, target: TWO, round }]));
            assert_eq!(now, at(20_000));
        }
    }

    #[test]
    fn targets_that_have_to_be_there_are_waited_for() {
        let (mut now, mut first) = (at(0), masking(&[ONE, TWO]));
        let outcome = run(&mut first, &mut now, &mut [Fake::new(ONE, &[])]);
        assert_eq!((outcome, now), (Err(vec![Trouble::Missing { address: EXPORT, target: TWO }]), at(20_000)));

        let (mut now, mut second) = (at(0), masking(&[]));
        let outcome = run(&mut second, &mut now, &mut []);
        assert_eq!((outcome, now), (Err(vec![Trouble::Unserved(EXPORT)]), at(20_000)));

        // Comes up after a few seconds.
        let late = Fake::new(TWO, &[]).hook(|number, _, _| number > 8);
        let (mut now, mut third) = (at(0), masking(&[TWO]));
        assert_eq!(run(&mut third, &mut now, &mut [late]), Ok(()));
        assert!(now > at(1000) && now < at(20_000), "{now:?}");
    }

    #[test]
    fn refusals_end_the_round_at_once() {
        let refuses = Fake::new(ONE, &[OURS, B]).hook(|_, frame, answer| {
            if frame.header.command == Command::Mask && frame.body[1] == 1 {
                (answer[14], answer[15]) = (answer[14] | 0x04, 2);
            }
            true
        });
        let full = Fake::new(TWO, &[OURS, B]).hook(|_, frame, answer| {
            if frame.header.command == Command::Mask && frame.body[1] == 1 {
                answer.truncate(24);
                answer.extend([0, 1, 3, 1]);
            }
            true
        });
        let (mut now, mut masking) = (at(0), masking(&[]));
        let mut targets = [refuses, full];
        run(&mut masking, &mut now, &mut targets).unwrap();
        masking.edit(now, delete(&[B])).unwrap();
        let troubles = run(&mut masking, &mut now, &mut targets).unwrap_err();
        assert_eq!(
            troubles,
            [
                Trouble::Refused { address: EXPORT, target: ONE, error: ErrorCode::BadArgument },
                Trouble::Stopped { address: EXPORT, target: TWO, error: MaskError::Full, at: 1 },
            ]
        );
        assert!(now < at(1100), "nothing to wait for: {now:?}");
        assert!(troubles[1].to_string().ends_with("at station 1: its list is full"), "{}", troubles[1]);
    }

    #[test]
    fn answers_from_others_about_others_and_garbled_ones_are_ignored() {
        let mut masking = masking(&[]);
        let mut out = vec![0; frames::FRAME_MAX];
        while masking.poll_transmit(at(0), &mut out).is_some() {}
        masking.handle_frame(at(0), PORT, &answer(ONE, OURS, unasked(Command::Config, 0), &config()));
        masking.handle_frame(at(0), PORT, &answer(TWO, OURS, unasked(Command::Config, 0), &config()));
        let mut asked = BTreeMap::new();
        while let Some((_, len)) = masking.poll_transmit(at(0), &mut out) {
            let frame = Frame::parse(&out[..len]).unwrap();
            assert_eq!((frame.header.command, len), (Command::Mask, 60));
            asked.insert(frame.ethernet.destination.octets(), frame.header);
        }
        let (one, two) = (asked[&ONE.octets()], asked[&TWO.octets()]);
        let body = mask(MaskCommand::Read, &[OURS]);
        let right = answer(ONE, OURS, one, &body);
        let elsewhere = HeaderRepr { address: Address::new(0, 2), ..one };
        let mut request = right.clone();
        request[14] = 0x10;
        for wrong in [
            answer(ONE, OURS, two, &body),
            answer(TWO, OURS, one, &body),
            answer(B, OURS, one, &body),
            answer(ONE, BROADCAST, one, &body),
            answer(ONE, OURS, elsewhere, &body),
            answer(ONE, OURS, HeaderRepr { command: Command::Ata, ..one }, &body),
            answer(ONE, OURS, one, &mask(MaskCommand::Edit, &[OURS])),
            answer(ONE, OURS, one, &body[..8]),
            answer(BROADCAST, OURS, unasked(Command::Config, 0), &config()),
            right[..26].to_vec(),
            request,
        ] {
            masking.handle_frame(at(1), PORT, &wrong);
        }
        masking.handle_frame(at(1), PortId(9), &right);
        masking.handle_frame(at(1), PORT, &answer(TWO, OURS, two, &body));
        assert_eq!(masking.lists().filter(|list| list.stations == [OURS]).count(), 1, "the one that was asked");
        assert_eq!(masking.outcome(at(1000)), None);
        masking.handle_frame(at(1000), PORT, &right);
        assert_eq!(masking.outcome(at(1000)), Some(Ok(())));
    }

    #[test]
    fn an_edit_that_would_end_the_conversation_or_cannot_fit_is_not_begun() {
        let begin = |lists: [&[MacAddr]; 2]| {
            let (mut now, mut masking) = (at(0), masking(&[]));
            let mut targets = [Fake::new(ONE, lists[0]), Fake::new(TWO, lists[1])];
            run(&mut masking, &mut now, &mut targets).unwrap();
            (now, masking, targets)
        };
        let deaf = |target| Trouble::Deaf { address: EXPORT, target };
        let (now, mut masking, _) = begin([&[OURS, B], &[]]);
        assert_eq!(masking.edit(now, delete(&[OURS])), Err(vec![deaf(ONE)]));
        assert_eq!(masking.edit(now, directives(DirectiveCommand::Add, &[B])), Err(vec![deaf(TWO)]));
        assert!(masking.poll_transmit(now, &mut vec![0; frames::FRAME_MAX]).is_none(), "nothing is sent");

        let crowd: Vec<_> = (0..DIRECTIVES_MAX).map(|n| MacAddr(2, 0, 0, 0, 2, n as u8)).collect();
        let (now, mut masking, _) = begin([&[OURS], &[]]);
        let troubles = masking.edit(now, directives(DirectiveCommand::Add, &crowd)).unwrap_err();
        assert!(troubles.contains(&Trouble::Full { address: EXPORT, target: ONE, count: DIRECTIVES_MAX + 1 }));

        // What is left of us is on the other port: that is where the edit goes out.
        let (mut now, mut masking, mut targets) = begin([&[], &[]]);
        masking.edit(now, directives(DirectiveCommand::Add, &[ALSO_OURS])).unwrap();
        run(&mut masking, &mut now, &mut targets).unwrap();
        assert!(targets.iter().all(|target| target.list == [ALSO_OURS]) && now < at(1100), "{now:?}");
    }

    #[test]
    fn who_comes_up_during_an_edit_is_told() {
        let (mut now, mut masking) = (at(0), masking(&[]));
        let mut targets = [Fake::new(ONE, &[OURS, B])];
        run(&mut masking, &mut now, &mut targets).unwrap();
        masking.edit(now, delete(&[B])).unwrap();
        let advert = answer(TWO, OURS, unasked(Command::Config, 0), &config());
        masking.handle_frame(now, PORT, &advert);
        masking.handle_frame(now, PORT, &advert);
        let outcome = run(&mut masking, &mut now, &mut targets);
        assert_eq!(outcome, Err(vec![Trouble::Latecomer { address: EXPORT, target: TWO }]));
    }

    #[test]
    fn a_crowd_is_too_much() {
        let mut masking = masking(&[]);
        for number in 0..=255 {
            let target = MacAddr(2, 0, 0, 0, 3, number);
            masking.handle_frame(at(0), PORT, &answer(target, OURS, unasked(Command::Config, 0), &config()));
        }
        assert_eq!(masking.lists().count(), TARGETS_MAX);
        let troubles = masking.outcome(at(20_000)).unwrap().unwrap_err();
        assert_eq!(troubles[0], Trouble::Crowd(EXPORT));
        assert_eq!(troubles.len(), 1 + TARGETS_MAX);
    }
}
