//! Round trips to whoever answers for a device: config queries, or IDENTIFY, at an interval.
//!
//! In a round every answerer that is known is asked, each under a tag of its own. In the first rounds, and for as long as
//! a port has no answerer, everybody on the port is asked first; who answers there for the first time is asked at once.
//! What is measured is the unicast question and its answer, per address, MAC address and port.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::Status;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{AtaRepr, Command, ConfigCommand, ConfigRepr, ErrorCode, Frame, MacAddr};

use super::frames::{self, Envelope};
use super::{Conversation, PortId, PortInfo, RoundTrips, Tags};

/// Answerers that are kept apart; further ones are left out.
pub const ANSWERERS_MAX: usize = 64;
/// Questions to one answerer that an answer can still be told from others by; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 2048;
/// Answers that wait to be told; further ones count, but are not told.
const UNTOLD_MAX: usize = 1024;
/// Rounds in which everybody is asked, whoever is known.
const ROUNDS_TO_ALL: u64 = 3;
/// How long after the last round further answerers are waited for.
const SETTLE: Duration = Duration::from_millis(200);

/// What is to be asked, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// The device; wildcards welcome.
    pub device: Address,
    /// IDENTIFY instead of config queries.
    pub identify: bool,
    /// Rounds; none: without end.
    pub count: Option<u64>,
    /// From one round to the next; more than zero.
    pub interval: Duration,
    /// How long an answer may take before it is late.
    pub patience: Duration,
}

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What was asked for.
    Fine,
    /// The target refuses.
    Refused(ErrorCode),
    /// The disk failed.
    Failed,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Who answers: for this device,
    pub address: Address,
    /// from this MAC address,
    pub mac: MacAddr,
    /// on this port.
    pub port: PortId,
    /// The round of the question, counted from 1.
    pub round: u64,
    /// How long it took.
    pub took: Duration,
    /// Bytes of the frame.
    pub bytes: usize,
    /// What it said.
    pub reply: Reply,
    /// It took longer than it may.
    pub late: bool,
    /// The question was answered before.
    pub repeated: bool,
}

/// What came of the questions to one answerer.
#[derive(Clone, Debug, Default)]
pub struct PingReport {
    /// Questions.
    pub sent: u64,
    /// Questions that were answered, however late.
    pub answered: u64,
    /// Those whose answer was late.
    pub late: u64,
    /// Answers to what was answered before.
    pub repeated: u64,
    /// Answers that were not what was asked for.
    pub refused: u64,
    /// How long the first answers took.
    pub times: RoundTrips,
}

impl PingReport {
    /// Questions without an answer, of a hundred.
    pub fn loss_percent(&self) -> f64 {
        let lost = self.sent - self.answered;
        if self.sent == 0 { 0.0 } else { lost as f64 * 100.0 / self.sent as f64 }
    }
}

/// A question that was sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    tag: u32,
    round: u64,
    at: Instant,
    answered: bool,
}

#[derive(Debug, Default)]
struct Answerer {
    /// The last round it was asked in.
    round: u64,
    asked: VecDeque<Asked>,
    report: PingReport,
}

type Key = (Address, [u8; 6], PortId);

/// See the [module](self). Begins when the value is made.
#[derive(Debug)]
pub struct Pinging {
    ping: Ping,
    ports: BTreeMap<PortId, PortInfo>,
    tags: Tags,
    /// The round that runs, counted from 1, and since when; 0 before the first.
    round: u64,
    round_began: Instant,
    /// Ports on which everybody is to be asked in this round.
    calls: VecDeque<PortId>,
    answerers: BTreeMap<Key, Answerer>,
    untold: VecDeque<Pong>,
}

impl Pinging {
    /// Questions on these ports, from now on.
    ///
    /// # Panics
    /// When the interval is zero.
    pub fn new(now: Instant, ping: Ping, tag_start: u32, ports: impl IntoIterator<Item = (PortId, PortInfo)>) -> Self {
        assert!(ping.interval > Duration::ZERO, "rounds take time");
        Self {
            ping,
            ports: ports.into_iter().collect(),
            tags: Tags::new(tag_start),
            round: 0,
            round_began: now,
            calls: VecDeque::new(),
            answerers: BTreeMap::new(),
            untold: VecDeque::new(),
        }
    }

    /// The next answer to tell of.
    pub fn poll_pong(&mut self) -> Option<Pong> {
        self.untold.pop_front()
    }

    /// Rounds so far.
    pub fn rounds(&self) -> u64 {
        self.round
    }

    /// What came of it so far, for each answerer.
    pub fn reports(&self) -> impl Iterator<Item = (Address, MacAddr, PortId, &PingReport)> {
        self.answerers.iter().map(|((address, mac, port), known)| (*address, (*mac).into(), *port, &known.report))
    }

    fn has_rounds(&self) -> bool {
        self.ping.count.is_none_or(|count| self.round < count)
    }

    fn next_round(&self) -> Option<Instant> {
        let pause = if self.round == 0 { Duration::ZERO } else { self.ping.interval };
        self.has_rounds().then_some(self.round_began + pause)
    }

    fn begin_round(&mut self, now: Instant) {
        self.round += 1;
        self.round_began = now;
        let is_known = |port: PortId| self.answerers.keys().any(|(_, _, known)| *known == port);
        let calls = self.ports.keys().filter(|port| self.round <= ROUNDS_TO_ALL || !is_known(**port));
        self.calls = calls.copied().collect();
    }

    /// When the last question under way is given up.
    fn patience_ends(&self) -> Option<Instant> {
        let open = |known: &Answerer| known.asked.iter().rev().find(|asked| !asked.answered).map(|asked| asked.at);
        let last = if self.answerers.is_empty() {
            Some(self.round_began)
        } else {
            self.answerers.values().filter_map(open).max()
        };
        last.map(|at| at + self.ping.patience)
    }

    /// When it ends, once the last round has begun.
    fn end(&self) -> Option<Instant> {
        let settled = self.round_began + SETTLE.min(self.ping.patience);
        (!self.has_rounds()).then(|| self.patience_ends().map_or(settled, |end| end.max(settled)))
    }
}

impl Answerer {
    /// An answer under a tag: when its question was sent, and whether it was answered before.
    fn answer(&mut self, tag: u32) -> Option<(Asked, bool)> {
        let asked = self.asked.iter_mut().rev().find(|asked| asked.tag == tag)?;
        let before = std::mem::replace(&mut asked.answered, true);
        Some((*asked, before))
    }

    fn remember(&mut self, asked: Asked) {
        if self.asked.len() == REMEMBERED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(asked);
        self.round = asked.round;
        self.report.sent += 1;
    }
}

fn reply(frame: &Frame<'_>) -> Option<Reply> {
    if let Some(error) = frame.header.error {
        return Some(Reply::Refused(error));
    }
    match frame.header.command {
        Command::Config => ConfigRepr::parse(frame.body, true).ok().map(|_| Reply::Fine),
        _ => {
            let (ata, _) = AtaRepr::parse(frame.body).ok()?;
            Some(if Status::from_bits_retain(ata.command).failed() { Reply::Failed } else { Reply::Fine })
        }
    }
}

impl Conversation for Pinging {
    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else { return };
        let (header, mac) = (frame.header, frame.ethernet.source);
        let Some(info) = self.ports.get(&port) else { return };
        let is_meant = self.ping.device.reaches(header.address) && !header.address.is_wildcard();
        if !header.response || !is_meant || mac.0 & 1 != 0 {
            return;
        }
        let key = (header.address, mac.octets(), port);
        let command = if self.ping.identify { Command::Ata } else { Command::Config };
        let to_us = frame.ethernet.destination == info.mac && header.command == command;
        if let Some(known) = self.answerers.get_mut(&key)
            && to_us
            && let Some(reply) = reply(&frame)
            && let Some((asked, repeated)) = known.answer(header.tag)
        {
            let took = now.since(asked.at);
            let late = took > self.ping.patience;
            let report = &mut known.report;
            if repeated {
                report.repeated += 1;
            } else {
                report.answered += 1;
                report.late += u64::from(late);
                report.refused += u64::from(reply != Reply::Fine);
                report.times.record(took);
            }
            let round = asked.round;
            if self.untold.len() < UNTOLD_MAX {
                let address = header.address;
                let bytes = bytes.len();
                self.untold.push_back(Pong { address, mac, port, round, took, bytes, reply, late, repeated });
            }
            return;
        }
        // An answer to a call, or an advert.
        let is_config = header.command == Command::Config && ConfigRepr::parse(frame.body, true).is_ok();
        if is_config && self.round > 0 && self.answerers.len() < ANSWERERS_MAX {
            self.answerers.entry(key).or_default();
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        if self.next_round().is_some_and(|begins| now >= begins) {
            self.begin_round(now);
        }
        if let Some(port) = self.calls.pop_front() {
            let tag = self.tags.take();
            return Some((port, frames::config_query(self.ports[&port].mac, self.ping.device, tag, out)));
        }
        let (key, known) = self.answerers.iter_mut().find(|(_, known)| known.round < self.round)?;
        let (address, mac, port) = *key;
        let tag = self.tags.take();
        known.remember(Asked { tag, round: self.round, at: now, answered: false });
        let envelope = Envelope { source: self.ports[&port].mac, destination: mac.into(), address, tag };
        let len = if self.ping.identify {
            frames::identify(&envelope, out)
        } else {
            frames::config_request(&envelope, ConfigCommand::Read, b"", out)
        };
        Some((port, len))
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let is_waiting = !self.calls.is_empty() || self.answerers.values().any(|known| known.round < self.round);
        if is_waiting { Some(now) } else { self.next_round().or_else(|| self.end()) }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| now >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::wire::{BROADCAST, EthernetRepr, HeaderRepr};

    const PORT: PortId = PortId(3);
    const OURS: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const ONE: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);
    const TWO: MacAddr = MacAddr(2, 0, 0, 0, 1, 2);
    const DEVICE: Address = Address::new(0, 1);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn pinging(count: u64, identify: bool) -> Pinging {
        let second = Duration::from_secs(1);
        let ping = Ping { device: DEVICE, identify, count: Some(count), interval: second, patience: second };
        Pinging::new(at(0), ping, 7, [(PORT, PortInfo { mac: OURS, mtu: 1500 })])
    }

    /// What goes out now: to whom, and under which header.
    fn sent(pinging: &mut Pinging, now: Instant) -> Vec<(MacAddr, HeaderRepr)> {
        let mut out = vec![0; frames::FRAME_MAX];
        let next = || {
            let (port, len) = pinging.poll_transmit(now, &mut out)?;
            assert_eq!((port, len), (PORT, 60));
            let frame = Frame::parse(&out[..len]).unwrap();
            Some((frame.ethernet.destination, frame.header))
        };
        std::iter::from_fn(next).collect()
    }

    fn answer(source: MacAddr, asked: HeaderRepr, error: Option<ErrorCode>) -> Vec<u8> {
        let ethernet = EthernetRepr { destination: OURS, source, vlan: None };
        let header = HeaderRepr { response: true, error, address: DEVICE, ..asked };
        let mut out = vec![0; 60];
        let body = Frame::emit_headers(&ethernet, &header, &mut out);
        match asked.command {
            Command::Config => drop(ConfigRepr::answer(16, 1, 2, ConfigCommand::Read, b"").emit(body)),
            _ => body[3] = 0x40,
        }
        out
    }

    #[test]
    fn who_answers_is_asked_at_once_and_in_every_round() {
        for identify in [false, true] {
            let mut pinging = pinging(2, identify);
            let calls = sent(&mut pinging, at(0));
            assert_eq!((calls.len(), calls[0].0, calls[0].1.command), (1, BROADCAST, Command::Config));
            [ONE, TWO].into_iter().for_each(|mac| pinging.handle_frame(at(1), PORT, &answer(mac, calls[0].1, None)));
            assert_eq!(pinging.poll_timeout(at(1)), Some(at(1)));
            let asked = sent(&mut pinging, at(1));
            assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [ONE, TWO]);
            asked.iter().for_each(|(to, header)| pinging.handle_frame(at(3), PORT, &answer(*to, *header, None)));
            let pong = pinging.poll_pong().unwrap();
            assert_eq!((pong.mac, pong.round, pong.took), (ONE, 1, Duration::from_millis(2)));
            assert!(!pong.late && !pong.repeated && pong.reply == Reply::Fine);
            assert!(!pinging.is_over(at(999)) && pinging.poll_timeout(at(999)) == Some(at(1000)));
            let asked = sent(&mut pinging, at(1000));
            assert_eq!(asked.len(), 3, "a call and a question each");
            let is_answered = |(to, _): &&(MacAddr, HeaderRepr)| *to == ONE;
            let (to, header) = asked.iter().find(is_answered).unwrap();
            pinging.handle_frame(at(1001), PORT, &answer(*to, *header, None));
            assert!(!pinging.is_over(at(1999)) && pinging.is_over(at(2000)), "the other may still answer");
            let reports: Vec<_> = pinging.reports().collect();
            assert_eq!((reports[0].3.sent, reports[0].3.answered, reports[0].3.loss_percent()), (2, 2, 0.0));
            assert_eq!((reports[1].3.sent, reports[1].3.answered, reports[1].3.loss_percent()), (2, 1, 50.0));
        }
    }

    #[test]
    fn late_answers_repeats_and_refusals_are_marked() {
        let mut pinging = pinging(10, false);
        let call = sent(&mut pinging, at(0))[0].1;
        pinging.handle_frame(at(0), PORT, &answer(ONE, call, None));
        let first = sent(&mut pinging, at(0))[0].1;
        sent(&mut pinging, at(1000));
        pinging.handle_frame(at(1500), PORT, &answer(ONE, first, None));
        pinging.handle_frame(at(1501), PORT, &answer(ONE, first, None));
        let [late, repeat] = [(); 2].map(|()| pinging.poll_pong().unwrap());
        assert!(late.late && !late.repeated && late.round == 1 && late.took == Duration::from_millis(1500));
        assert!(repeat.repeated);
        let third = sent(&mut pinging, at(2000)).pop().unwrap().1;
        pinging.handle_frame(at(2000), PORT, &answer(ONE, third, Some(ErrorCode::DeviceUnavailable)));
        assert_eq!(pinging.poll_pong().unwrap().reply, Reply::Refused(ErrorCode::DeviceUnavailable));
        let (_, _, _, report) = pinging.reports().next().unwrap();
        assert_eq!((report.sent, report.answered, report.late, report.repeated, report.refused), (3, 2, 1, 1, 1));
    }

    #[test]
    fn what_nobody_asked_for_is_no_answer() {
        let mut pinging = pinging(1, false);
        let call = sent(&mut pinging, at(0))[0].1;
        pinging.handle_frame(at(0), PORT, &answer(ONE, call, None));
        let asked = sent(&mut pinging, at(0))[0].1;
        let right = answer(ONE, asked, None);
        let mut elsewhere = right.clone();
        elsewhere[18] = 9;
        let mut request = right.clone();
        request[14] = 0x10;
        let mut to_another = right.clone();
        to_another[5] = 9;
        let wrong_tag = answer(ONE, HeaderRepr { tag: asked.tag + 5, ..asked }, None);
        for wrong in [elsewhere, request, to_another, wrong_tag, answer(TWO, asked, None), right[..20].to_vec()] {
            pinging.handle_frame(at(1), PORT, &wrong);
        }
        pinging.handle_frame(at(1), PortId(9), &right);
        assert_eq!(pinging.poll_pong(), None);
        pinging.handle_frame(at(1), PORT, &right);
        assert!(pinging.poll_pong().is_some());
    }

    #[test]
    fn nobody_at_all_ends_when_patience_does() {
        let mut pinging = pinging(5, true);
        let mut now = at(0);
        let mut calls = 0;
        while !pinging.is_over(now) {
            calls += sent(&mut pinging, now).len();
            let due = pinging.poll_timeout(now).unwrap();
            assert!(due > now);
            now = due;
        }
        assert_eq!((calls, now, pinging.reports().count()), (5, at(5000), 0));
    }

    #[test]
    fn crowds_and_long_runs_are_bounded() {
        let second = Duration::from_secs(1);
        let ping = Ping { device: Address::ANY, identify: false, count: None, interval: second, patience: second };
        let mut pinging = Pinging::new(at(0), ping, 7, [(PORT, PortInfo { mac: OURS, mtu: 1500 })]);
        let call = sent(&mut pinging, at(0))[0].1;
        for number in 0..=255 {
            pinging.handle_frame(at(0), PORT, &answer(MacAddr(2, 0, 0, 0, 2, number), call, None));
        }
        for round in 1..=REMEMBERED_MAX as u64 + 10 {
            sent(&mut pinging, at(round * 1000));
        }
        assert_eq!(pinging.reports().count(), ANSWERERS_MAX);
        assert!(pinging.answerers.values().all(|known| known.asked.len() == REMEMBERED_MAX));
        assert!(!pinging.is_over(at(1 << 40)));
    }
}
