//! One request to each of many: a config string or a reservation, read or set, at targets that were found before.
//!
//! Everybody is sent the same, again and again under the same tag, over each port on which it was heard in turn, until
//! it answers or the time is over. Only the target that was asked can answer: by its address, for that export, with
//! that tag. An edit that arrives twice says the same twice; what is in force in the end, a reading has to tell.

use std::collections::BTreeMap;

use aoe_common::addr::Address;
use aoe_common::time::Instant;
use aoe_common::wire::{
    CONFIG_STRING_MAX, Command, ConfigCommand, ConfigRepr, ErrorCode, Frame, MacAddr, ReserveCommand, ReserveRepr,
};

use super::frames::{self, Envelope};
use super::question::Question;
use super::{Conversation, PortId, PortInfo, Tags};

/// Stations in one reservation at the most: they fit an MTU of 1500.
pub const STATIONS_MAX: usize = 240;

/// What everybody is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// About the config string, which has at most `CONFIG_STRING_MAX` bytes.
    Config(ConfigCommand, Vec<u8>),
    /// About the reservation, which names at most [`STATIONS_MAX`] stations.
    Reserve(ReserveCommand, Vec<MacAddr>),
}

/// What is set at a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The config string.
    Config(Vec<u8>),
    /// The stations that may use the disk; none: all.
    Reservation(Vec<MacAddr>),
}

/// What one of them said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Done; this is in force.
    Done(Setting),
    /// Refused.
    Refused(ErrorCode),
}

/// An export at a target, and where that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The export.
    pub address: Address,
    /// The target.
    pub target: MacAddr,
    /// The ports; at least one.
    pub ports: Vec<PortId>,
}

#[derive(Debug)]
struct Asked {
    holder: Holder,
    question: Question,
    said: Option<Said>,
}

/// See the [module](self). Begins when the value is made.
#[derive(Debug)]
pub struct Asking {
    wish: Wish,
    deadline: Instant,
    ports: BTreeMap<PortId, PortInfo>,
    asked: Vec<Asked>,
}

impl Asking {
    /// Asks all of these, until the deadline.
    ///
    /// # Panics
    /// When what is asked is longer than a frame may be, or a holder has no port or one that is not there.
    pub fn new(
        now: Instant,
        deadline: Instant,
        wish: Wish,
        holders: impl IntoIterator<Item = Holder>,
        tag_start: u32,
        ports: impl IntoIterator<Item = (PortId, PortInfo)>,
    ) -> Self {
        let ports: BTreeMap<_, _> = ports.into_iter().collect();
        assert!(wish.is_bounded(), "a request that fits a frame");
        let mut tags = Tags::new(tag_start);
        let ask = |holder: Holder| {
            let is_there = !holder.ports.is_empty() && holder.ports.iter().all(|port| ports.contains_key(port));
            assert!(is_there, "a way to {holder:?}");
            Asked { holder, question: Question::new(tags.take(), now), said: None }
        };
        let asked = holders.into_iter().map(ask).collect();
        Self { wish, deadline, ports, asked }
    }

    /// What each said, in the order in which they were named; `None` from those that did not answer.
    pub fn said(&self) -> impl Iterator<Item = (&Holder, Option<&Said>)> {
        self.asked.iter().map(|asked| (&asked.holder, asked.said.as_ref()))
    }
}

impl Wish {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Config(_, string) => string.len() <= CONFIG_STRING_MAX,
            Self::Reserve(_, stations) => stations.len() <= STATIONS_MAX,
        }
    }

    fn command(&self) -> Command {
        match self {
            Self::Config(..) => Command::Config,
            Self::Reserve(..) => Command::Reserve,
        }
    }

    /// What an answer says, if it is one to this.
    fn read(&self, frame: &Frame<'_>) -> Option<Said> {
        if let Some(error) = frame.header.error {
            return Some(Said::Refused(error));
        }
        let setting = match self {
            Self::Config(asked, _) => {
                let config = ConfigRepr::parse(frame.body, true).ok().filter(|config| config.command == *asked)?;
                Setting::Config(config.string.to_vec())
            }
            Self::Reserve(asked, _) => {
                let (reserve, stations) = ReserveRepr::parse(frame.body).ok()?;
                (reserve.command == *asked).then(|| Setting::Reservation(stations.collect()))?
            }
        };
        Some(Said::Done(setting))
    }
}

impl Conversation for Asking {
    fn handle_frame(&mut self, _: Instant, port: PortId, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else { return };
        let Some(info) = self.ports.get(&port) else { return };
        let header = frame.header;
        if !header.response || header.command != self.wish.command() || frame.ethernet.destination != info.mac {
            return;
        }
        let is_from = |asked: &&mut Asked| {
            let Asked { holder, question, said } = asked;
            let is_him = holder.address == header.address && holder.target == frame.ethernet.source;
            is_him && said.is_none() && question.is_answered_by(header.tag)
        };
        if let Some(asked) = self.asked.iter_mut().find(is_from) {
            asked.said = self.wish.read(&frame);
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        if now >= self.deadline {
            return None;
        }
        let is_due = |asked: &&mut Asked| asked.said.is_none() && asked.question.is_due(now);
        let Asked { holder, question, .. } = self.asked.iter_mut().find(is_due)?;
        let port = holder.ports[question.sent() % holder.ports.len()];
        question.was_sent(now);
        let envelope = Envelope {
            source: self.ports[&port].mac,
            destination: holder.target,
            address: holder.address,
            tag: question.tag(),
        };
        let len = match &self.wish {
            Wish::Config(command, string) => frames::config_request(&envelope, *command, string, out),
            Wish::Reserve(command, stations) => frames::reserve_request(&envelope, *command, stations, out),
        };
        Some((port, len))
    }

    fn poll_timeout(&self, _: Instant) -> Option<Instant> {
        let open = self.asked.iter().filter(|asked| asked.said.is_none());
        open.map(|asked| asked.question.again()).chain([self.deadline]).min()
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline || self.asked.iter().all(|asked| asked.said.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::time::Duration;
    use aoe_common::wire::{EthernetRepr, HeaderRepr};

    const PORTS: [PortId; 2] = [PortId(1), PortId(2)];
    const OURS: [MacAddr; 2] = [MacAddr(2, 0, 0, 0, 0, 1), MacAddr(2, 0, 0, 0, 0, 2)];
    const ONE: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);
    const TWO: MacAddr = MacAddr(2, 0, 0, 0, 1, 2);
    const EXPORT: Address = Address::new(0, 1);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn asking(wish: Wish) -> Asking {
        let ports = [0, 1].map(|at| (PORTS[at], PortInfo { mac: OURS[at], mtu: 1500 }));
        let holders = [ONE, TWO].map(|target| Holder { address: EXPORT, target, ports: PORTS.to_vec() });
        Asking::new(at(0), at(5000), wish, holders, 7, ports)
    }

    struct Sent {
        port: PortId,
        to: MacAddr,
        header: HeaderRepr,
        body: Vec<u8>,
    }

    fn sent(asking: &mut Asking, now: Instant) -> Vec<Sent> {
        let mut out = vec![0; frames::FRAME_MAX];
        let next = || {
            let (port, len) = asking.poll_transmit(now, &mut out)?;
            let frame = Frame::parse(&out[..len]).unwrap();
            Some(Sent { port, to: frame.ethernet.destination, header: frame.header, body: frame.body.to_vec() })
        };
        std::iter::from_fn(next).collect()
    }

    /// The request turned round.
    fn answer(sent: &Sent, error: Option<ErrorCode>, body: &[u8]) -> Vec<u8> {
        let destination = OURS[PORTS.iter().position(|port| *port == sent.port).unwrap()];
        let ethernet = EthernetRepr { destination, source: sent.to, vlan: None };
        let mut out = vec![0; 24 + body.len()];
        let header = HeaderRepr { response: true, error, ..sent.header };
        Frame::emit_headers(&ethernet, &header, &mut out).copy_from_slice(body);
        out
    }

    #[test]
    fn strings_are_set_over_every_port_until_all_have_answered() {
        let mut asking = asking(Wish::Config(ConfigCommand::Set, b"mail".to_vec()));
        let first = sent(&mut asking, at(0));
        assert_eq!(
            first.iter().map(|sent| (sent.to, sent.port)).collect::<Vec<_>>(),
            [(ONE, PORTS[0]), (TWO, PORTS[0])]
        );
        let config = ConfigRepr::parse(&first[0].body, false).unwrap();
        assert_eq!((config.command, config.string), (ConfigCommand::Set, b"mail".as_slice()));
        asking.handle_frame(at(1), PORTS[0], &answer(&first[0], None, &first[0].body));
        assert_eq!(asking.poll_timeout(at(1)), Some(at(200)));
        let again = sent(&mut asking, at(200));
        assert_eq!(again.len(), 1);
        assert_eq!(
            (again[0].port, again[0].header.tag),
            (PORTS[1], first[1].header.tag),
            "the other port, the same tag"
        );
        assert!(!asking.is_over(at(201)));
        asking.handle_frame(at(201), PORTS[1], &answer(&again[0], Some(ErrorCode::ConfigPresent), &first[0].body));
        assert!(asking.is_over(at(201)));
        let said: Vec<_> = asking.said().map(|(_, said)| said.cloned()).collect();
        let done = Said::Done(Setting::Config(b"mail".to_vec()));
        assert_eq!(said, [Some(done), Some(Said::Refused(ErrorCode::ConfigPresent))]);
    }

    #[test]
    fn reservations_name_their_stations() {
        let mut asking = asking(Wish::Reserve(ReserveCommand::ForceSet, OURS.to_vec()));
        let first = sent(&mut asking, at(0));
        let (reserve, stations) = ReserveRepr::parse(&first[0].body).unwrap();
        assert_eq!((reserve.command, stations.collect::<Vec<_>>()), (ReserveCommand::ForceSet, OURS.to_vec()));
        asking.handle_frame(at(1), PORTS[0], &answer(&first[1], None, &first[1].body));
        let said: Vec<_> = asking.said().map(|(_, said)| said.cloned()).collect();
        assert_eq!(said, [None, Some(Said::Done(Setting::Reservation(OURS.to_vec())))]);
        assert!(asking.is_over(at(5000)) && sent(&mut asking, at(5000)).is_empty(), "the time is over");
    }

    #[test]
    fn answers_of_others_and_garbled_ones_are_ignored() {
        let mut asking = asking(Wish::Reserve(ReserveCommand::Read, Vec::new()));
        let first = sent(&mut asking, at(0));
        let right = answer(&first[0], None, &first[0].body);
        let change = |at: usize, byte: u8| {
            let mut wrong = right.clone();
            wrong[at] = byte;
            wrong
        };
        let other =
            Sent { header: HeaderRepr { tag: first[1].header.tag, ..first[0].header }, body: Vec::new(), ..first[0] };
        let to_everybody: Vec<_> = [0xff; 6].into_iter().chain(right[6..].iter().copied()).collect();
        for wrong in [
            change(11, 9),
            change(14, 0x10),
            change(18, 9),
            change(19, 1),
            change(24, 1),
            change(25, 200),
            to_everybody,
            answer(&other, None, &first[0].body),
            right[..25].to_vec(),
        ] {
            asking.handle_frame(at(1), PORTS[0], &wrong);
        }
        asking.handle_frame(at(1), PORTS[1], &right);
        assert!(asking.said().all(|(_, said)| said.is_none()));
        asking.handle_frame(at(1), PORTS[0], &right);
        assert_eq!(asking.said().next().unwrap().1, Some(&Said::Done(Setting::Reservation(Vec::new()))));
    }
}
