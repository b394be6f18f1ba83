//! Recognising a write that comes too late, from a station that sends again under new tags.
//!
//! aoe.ko gives every frame a new tag, and one that it sends again too. So the first attempt of a write may linger in
//! the network, its second attempt be run, then a newer write to the same place; and then the first attempt comes. It
//! looks like any new write, and would undo the newer one. But its tag tells its age: bits 0-15 are the low bits of
//! the sender's clock (100 to 1000 ticks a second), and bits 16-30 count its frames for this disk.
//!
//! So the newest write of each place is remembered for `LIFE`, with its tag. A write that overlaps one from the same
//! station with a newer tag is stale: to be dropped without an answer. Its sender has the answer it wanted; and should
//! it be alive and wait after all, it sends again under a tag that is newest.
//!
//! The clock decides, and the counter within a tick only: at over 1638 frames a second it passes half its range in
//! `LIFE`. And a copy is behind by no more than the ticks of `LIFE`; what is farther off is not a copy.
//!
//! Others put other things into their tags. A station is judged only after its tags have looked like this for a few
//! frames: the counter never stands still, and the clock runs like one. As soon as they do not, all it wrote is
//! forgotten. That is also how a station that was started anew is recognised, most of the time: its clock jumps. If
//! by chance it starts within the last 10 000 ticks, its first writes may be taken for stale. But dropped writes are not
//! remembered, so that ends `LIFE` after the last write from before.
//!
//! Not judged: writes that overlap only newer ones from another address of the same station, which cannot be told
//! from another station.

use aoe_common::hash::FastMap;
use aoe_common::ordering::Footprint;
use aoe_common::planted::{Fault, planted};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::MacAddr;

use super::recent::{Number, Recent, Record};

/// How long a frame lives in a network, its queues included.
pub const LIFE: Duration = Duration::from_secs(10);

/// Remembered places of 4 KiB at the most: at 70 000 writes of that size a second, those of the last 15 s.
pub const REMEMBERED_MAX: usize = 1 << 20;

/// Stations watched at the most, each once for every export it uses. Others are not judged until one of these has been
/// silent for `LIFE`.
pub const WATCHED_MAX: usize = 1024;

/// Ticks of the fastest clock in `LIFE`.
const LIFE_TICKS: u16 = 10_000;

/// Ticks a second, with room for clocks that are off.
const TICK_RATES: std::ops::RangeInclusive<u64> = 90..=1100;

/// Frames sent within a tick at the most; more than the fastest link carries in the longest tick.
const TICK_FRAMES: u16 = 4096;

/// Frames in a row that may be missing, lost or sent by another path, for the tags to be regular.
const STEP_MAX: u16 = 64;

/// Regular frames until a station is judged.
const JUDGED_AFTER: u8 = 8;

/// For how long ticks are counted against time, before that starts again.
const CLOCK_WATCH: Duration = Duration::from_secs(60);

/// Sectors in a place, each with a bit.
const PLACE_SECTORS: u64 = u8::BITS as u64;

/// Places one WRITE or ZERO touches at the most. TRIM can touch more: it is remembered and judged by its station.
const PLACES_MAX: u64 = 33;

/// Slots looked at for one that a new station may have.
const SLOTS_TRIED: usize = 8;

/// A tag, as aoe.ko builds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u32);

impl Tag {
    /// `None`: bit 31 is set, which aoe.ko never does.
    fn from_aoe_ko(tag: u32) -> Option<Self> {
        (tag >> 31 == 0).then_some(Self(tag))
    }

    /// Ticks from another tag to this one.
    fn ticks_since(self, other: Self) -> u16 {
        (self.0 as u16).wrapping_sub(other.0 as u16)
    }

    /// Frames from another tag to this one.
    fn frames_since(self, other: Self) -> u16 {
        (self.0 >> 16).wrapping_sub(other.0 >> 16) as u16 & 0x7fff
    }

    /// Whether a frame with this tag was sent before one with that tag, if both may be in a network now.
    fn is_older(self, than: Self) -> bool {
        match than.ticks_since(self) {
            0 => (1..=TICK_FRAMES).contains(&than.frames_since(self)),
            ticks => ticks <= LIFE_TICKS,
        }
    }
}

/// Time in 1/15 of a second, which fits a record; it wraps around after years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(u32);

impl Moment {
    const NANOS_LOG2: u32 = 26;

    fn of(now: Instant) -> Self {
        Self((now.as_nanos() >> Self::NANOS_LOG2) as u32)
    }

    fn is_within_life(self, now: Self) -> bool {
        u64::from(now.0.wrapping_sub(self.0)) << Self::NANOS_LOG2 <= LIFE.as_nanos() as u64
    }
}

/// The newest write of some sectors of a place.
#[derive(Debug)]
struct Write {
    /// The place, and in the low bits which of its sectors.
    place_and_sectors: u64,
    /// Whose.
    name: u32,
    tag: Tag,
    at: Moment,
    /// An earlier write of other sectors there.
    earlier: Number,
}

impl Write {
    fn sectors(&self) -> u8 {
        self.place_and_sectors as u8
    }
}

impl Record for Write {
    type Key = (u32, u64);

    fn key(&self) -> Self::Key {
        (self.name, self.place_and_sectors >> PLACE_SECTORS)
    }
}

/// A station that uses an export.
#[derive(Debug)]
struct Watched {
    who: (u32, MacAddr),
    /// Stands for it in the memory. It gets another one to forget what it wrote.
    name: u32,
    /// Its newest tag, and when that came.
    newest: Tag,
    heard: Instant,
    /// Since when ticks are counted, and how many passed.
    clock_since: Instant,
    ticks: u64,
    /// Regular frames, up to `JUDGED_AFTER`.
    regular: u8,
    wrote: Option<(Tag, Moment)>,
    trimmed: Option<(Footprint, Tag, Moment)>,
}

impl Watched {
    fn new(now: Instant, who: (u32, MacAddr), name: u32, tag: Tag) -> Self {
        Self { who, name, newest: tag, heard: now, clock_since: now, ticks: 0, regular: 0, wrote: None, trimmed: None }
    }

    /// A frame came. `false`: the tags are not like those of the frames before.
    fn hear(&mut self, now: Instant, tag: Tag) -> bool {
        if now.since(self.heard) > LIFE {
            // No frame from before can still come, so nothing that has to fit.
            (self.newest, self.heard, self.clock_since, self.ticks) = (tag, now, now, 0);
            return true;
        }
        if tag == self.newest || tag.is_older(self.newest) {
            return true;
        }
        let step = tag.frames_since(self.newest);
        let ticks = self.ticks + u64::from(tag.ticks_since(self.newest));
        // Frames are delayed, so the clock may seem to stand or to jump for as long as one lives.
        let time = now.since(self.clock_since);
        let fastest = (time + LIFE).as_millis() as u64 * TICK_RATES.end() / 1000;
        let slowest = time.saturating_sub(LIFE).as_millis() as u64 * TICK_RATES.start() / 1000;
        if step == 0 || ticks > fastest || ticks < slowest {
            return false;
        }
        if step <= STEP_MAX {
            self.regular = (self.regular + 1).min(JUDGED_AFTER);
        }
        (self.newest, self.heard, self.ticks) = (tag, now, ticks);
        if time > CLOCK_WATCH {
            (self.clock_since, self.ticks) = (now, 0);
        }
        true
    }
}

/// The newest writes of stations whose tags look like those of aoe.ko.
#[derive(Debug)]
pub struct Stale {
    watched: Vec<Watched>,
    slots: FastMap<(u32, MacAddr), u32>,
    /// The station heard last: a busy one is found without a search.
    last: usize,
    /// Where to look next for a station that may be replaced.
    hand: usize,
    names: u32,
    writes: Recent<Write>,
    forgotten_early: u64,
}

impl Default for Stale {
    fn default() -> Self {
        Self {
            watched: Vec::new(),
            slots: FastMap::default(),
            last: 0,
            hand: 0,
            names: 0,
            writes: Recent::new(REMEMBERED_MAX),
            forgotten_early: 0,
        }
    }
}

impl Stale {
    /// A station sent a request to an export; to be told of each, since their tags show what kind it is.
    pub fn hear(&mut self, now: Instant, export: u32, station: MacAddr, tag: u32) {
        let Some(tag) = Tag::from_aoe_ko(tag) else { return };
        let who = (export, station);
        match self.find(who) {
            Some(slot) => {
                if !self.watched[slot].hear(now, tag) {
                    self.names = self.names.wrapping_add(1);
                    self.watched[slot] = Watched::new(now, who, self.names, tag);
                }
            }
            None => self.watch(now, who, tag),
        }
    }

    /// Whether a write has been overtaken by a newer one of the same station.
    pub fn is_stale(&mut self, now: Instant, export: u32, station: MacAddr, tag: u32, footprint: Footprint) -> bool {
        let now = Moment::of(now);
        let Some(tag) = Tag::from_aoe_ko(tag) else { return false };
        let Some(slot) = self.find((export, station)) else { return false };
        let watched = &self.watched[slot];
        if watched.regular < JUDGED_AFTER || planted(Fault::StaleRun) {
            return false;
        }
        let overtaken = |by: Tag, at: Moment| at.is_within_life(now) && tag.is_older(by);
        if let Some((trimmed, by, at)) = watched.trimmed
            && trimmed.start < footprint.end
            && footprint.start < trimmed.end
            && overtaken(by, at)
        {
            return true;
        }
        let Some(places) = places(footprint) else {
            return watched.wrote.is_some_and(|(by, at)| overtaken(by, at));
        };
        for (place, sectors) in places {
            let mut next = self.writes.find(&(watched.name, place));
            while let Some(write) = next.and_then(|number| self.writes.get(number)) {
                if write.sectors() & sectors != 0 && overtaken(write.tag, write.at) {
                    return true;
                }
                next = Some(write.earlier);
            }
        }
        false
    }

    /// A write was taken in, and runs before any that come later.
    pub fn admitted(&mut self, now: Instant, export: u32, station: MacAddr, tag: u32, footprint: Footprint) {
        let now = Moment::of(now);
        let Some(tag) = Tag::from_aoe_ko(tag) else { return };
        let Some(slot) = self.find((export, station)) else { return };
        let watched = &mut self.watched[slot];
        if watched.regular == 0 {
            return;
        }
        let newer = |before: Option<(Tag, Moment)>| match before {
            Some((by, at)) if at.is_within_life(now) && tag.is_older(by) => (by, now),
            _ => (tag, now),
        };
        watched.wrote = Some(newer(watched.wrote));
        let Some(places) = places(footprint) else {
            // Several are remembered as one that covers them all: a write that is dropped for it is sent again.
            let before = watched.trimmed.filter(|(_, _, at)| at.is_within_life(now));
            let covered = before.map_or(footprint, |(before, ..)| Footprint {
                start: before.start.min(footprint.start),
                end: before.end.max(footprint.end),
                writes: true,
            });
            let (by, at) = newer(before.map(|(_, by, at)| (by, at)));
            watched.trimmed = Some((covered, by, at));
            return;
        };
        let name = watched.name;
        for (place, sectors) in places {
            self.forget(now);
            let place_and_sectors = place << PLACE_SECTORS | u64::from(sectors);
            let nothing = self.writes.nothing();
            let (number, before) = self.writes.push(Write { place_and_sectors, name, tag, at: now, earlier: nothing });
            // The rest of its chain: without those it covers, so that no sector is in a chain twice.
            let mut last = number;
            let mut next = before;
            while let Some((at, write)) = next.and_then(|at| Some((at, self.writes.get_mut(at)?))) {
                write.place_and_sectors &= !u64::from(sectors);
                next = Some(write.earlier);
                if write.sectors() != 0 {
                    self.link(last, at);
                    last = at;
                }
            }
            self.link(last, nothing);
        }
    }

    /// Places that had to be forgotten before their time.
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn link(&mut self, from: Number, to: Number) {
        self.writes.get_mut(from).expect("chains hold what is kept").earlier = to;
    }

    /// Makes room for one write.
    fn forget(&mut self, now: Moment) {
        const STEPS: usize = 4;
        for _ in 0..STEPS {
            let full = self.writes.len() >= REMEMBERED_MAX;
            let Some(oldest) = self.writes.oldest() else { return };
            let counts = oldest.sectors() != 0 && oldest.at.is_within_life(now);
            if counts && !full {
                return;
            }
            self.forgotten_early += u64::from(counts);
            self.writes.take_oldest();
        }
    }

    fn find(&mut self, who: (u32, MacAddr)) -> Option<usize> {
        if self.watched.get(self.last).is_none_or(|watched| watched.who != who) {
            self.last = *self.slots.get(&who)? as usize;
        }
        Some(self.last)
    }

    fn watch(&mut self, now: Instant, who: (u32, MacAddr), tag: Tag) {
        self.names = self.names.wrapping_add(1);
        let watched = Watched::new(now, who, self.names, tag);
        if self.watched.len() < WATCHED_MAX {
            self.slots.insert(who, self.watched.len() as u32);
            self.watched.push(watched);
            return;
        }
        for _ in 0..SLOTS_TRIED {
            self.hand = (self.hand + 1) % WATCHED_MAX;
            let old = &mut self.watched[self.hand];
            if now.since(old.heard) > LIFE {
                self.slots.remove(&old.who);
                self.slots.insert(who, self.hand as u32);
                *old = watched;
                return;
            }
        }
    }
}

/// The places a write touches, and which sectors of each. `None`: too many.
fn places(footprint: Footprint) -> Option<impl Iterator<Item = (u64, u8)>> {
    let Footprint { start, end, .. } = footprint;
    let (first, last) = (start / PLACE_SECTORS, (end - 1) / PLACE_SECTORS);
    (last - first < PLACES_MAX).then(|| {
        (first..=last).map(move |place| {
            let from = start.saturating_sub(place * PLACE_SECTORS);
            let to = (end - place * PLACE_SECTORS).min(PLACE_SECTORS);
            (place, (0xff << from & 0xff >> (PLACE_SECTORS - to)) as u8)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);

    /// Tags as aoe.ko makes them.
    struct Ko {
        counter: u32,
        hertz: u64,
        /// What its clock shows at time zero.
        ticks: u64,
    }

    impl Ko {
        fn new(hertz: u64) -> Self {
            Self { counter: 0x7ff0, hertz, ticks: 0xff00 }
        }

        fn tag(&mut self, now: Instant) -> u32 {
            self.counter += 1;
            let ticks = self.ticks + now.as_nanos() * self.hertz / 1_000_000_000;
            (self.counter & 0x7fff) << 16 | (ticks & 0xffff) as u32
        }
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1000) + Duration::from_millis(millis)
    }

    fn sectors(start: u64, count: u64) -> Footprint {
        Footprint { start, end: start + count, writes: true }
    }

    /// What the engine does with a write. Whether it runs.
    fn runs(stale: &mut Stale, now: Instant, mac: MacAddr, tag: u32, footprint: Footprint) -> bool {
        stale.hear(now, 0, mac, tag);
        let is_stale = stale.is_stale(now, 0, mac, tag, footprint);
        if !is_stale {
            stale.admitted(now, 0, mac, tag, footprint);
        }
        !is_stale
    }

    /// A station that has shown by reads what it is.
    fn known(now: Instant, ko: &mut Ko) -> Stale {
        let mut stale = Stale::default();
        for _ in 0..=JUDGED_AFTER {
            stale.hear(now, 0, MAC, ko.tag(now));
        }
        stale
    }

    #[test]
    fn a_first_attempt_that_comes_after_the_second_and_a_newer_write() {
        for hertz in [100, 250, 300, 1000] {
            for delay in [150, 1_000, 9_800] {
                let mut ko = Ko::new(hertz);
                let mut stale = known(at(0), &mut ko);
                let first = ko.tag(at(0));
                let second = ko.tag(at(100));
                assert!(runs(&mut stale, at(101), MAC, second, sectors(0, 8)));
                let newer = ko.tag(at(102));
                assert!(runs(&mut stale, at(103), MAC, newer, sectors(0, 8)));
                assert!(!runs(&mut stale, at(delay), MAC, first, sectors(0, 8)), "{hertz} Hz, {delay} ms");
                assert!(!runs(&mut stale, at(delay), MAC, second, sectors(0, 8)));
                assert!(runs(&mut stale, at(delay), MAC, ko.tag(at(delay)), sectors(0, 8)), "it is alive");
            }
        }
    }

    #[test]
    fn within_a_tick_the_counter_decides() {
        let mut ko = Ko::new(100);
        let mut stale = known(at(0), &mut ko);
        let [first, second, newer] = [(); 3].map(|()| ko.tag(at(0)));
        assert_eq!(first & 0xffff, newer & 0xffff);
        assert!(runs(&mut stale, at(1), MAC, second, sectors(0, 8)));
        assert!(runs(&mut stale, at(1), MAC, newer, sectors(0, 8)));
        assert!(!runs(&mut stale, at(2), MAC, first, sectors(0, 8)));
    }

    #[test]
    fn any_sector_in_common_counts_and_no_other() {
        for (start, count) in [(16, 8), (13, 2), (3, 255), (20, 17)] {
            let mut ko = Ko::new(250);
            let mut stale = known(at(0), &mut ko);
            let old = ko.tag(at(0));
            assert!(runs(&mut stale, at(50), MAC, ko.tag(at(50)), sectors(start, count)));
            let overlaps = |other: Footprint| other.start < start + count && start < other.end;
            for first in 0..start + count + 4 {
                for length in [1, 2, 8, 9, 255] {
                    let other = sectors(first, length);
                    let is_stale = stale.is_stale(at(60), 0, MAC, old, other);
                    assert_eq!(is_stale, overlaps(other), "{other:?} after {start}+{count}");
                }
            }
        }
    }

    #[test]
    fn each_sector_has_its_newest_write() {
        let mut ko = Ko::new(250);
        let mut stale = known(at(0), &mut ko);
        // Writes of one to eight sectors, anywhere in two places, over and over; a late one is judged by a list.
        let mut random = fastrand::Rng::with_seed(1);
        let mut newest = [ko.tag(at(0)); 16];
        let mut tags = vec![newest[0]];
        for round in 1..2000 {
            let now = at(4 * round);
            let start = random.u64(0..16);
            let footprint = sectors(start, random.u64(1..=(16 - start).min(8)));
            let range = footprint.start as usize..footprint.end as usize;
            if random.u8(0..4) == 0 {
                let late = tags[random.usize(0..tags.len())];
                let overtaken = newest[range].iter().any(|by| Tag(late).is_older(Tag(*by)));
                assert_eq!(stale.is_stale(now, 0, MAC, late, footprint), overtaken);
                continue;
            }
            let tag = ko.tag(now);
            assert!(runs(&mut stale, now, MAC, tag, footprint));
            newest[range].fill(tag);
            tags.push(tag);
        }
        let mut length = 0;
        let mut next = stale.writes.find(&(stale.watched[0].name, 0));
        while let Some(write) = next.and_then(|number| stale.writes.get(number)) {
            length += 1;
            next = Some(write.earlier);
        }
        assert!((1..=8).contains(&length), "a chain of {length}");
    }

    #[test]
    fn trims_count_however_large() {
        let everything = sectors(0, 1 << 40);
        let mut ko = Ko::new(250);
        let mut stale = known(at(0), &mut ko);
        let old = ko.tag(at(0));
        assert!(runs(&mut stale, at(50), MAC, ko.tag(at(50)), sectors(1 << 30, 1 << 20)));
        assert!(stale.is_stale(at(60), 0, MAC, old, sectors((1 << 30) + 5, 1)));
        assert!(!stale.is_stale(at(60), 0, MAC, old, sectors(5, 1)));
        let late_trim = ko.tag(at(60));
        assert!(runs(&mut stale, at(70), MAC, ko.tag(at(70)), sectors(77, 1)));
        assert!(stale.is_stale(at(80), 0, MAC, late_trim, everything));
        assert!(runs(&mut stale, at(90), MAC, ko.tag(at(90)), everything));
        assert!(stale.is_stale(at(90), 0, MAC, late_trim, sectors(5, 1)));
        assert!(!stale.is_stale(at(11_000), 0, MAC, late_trim, sectors(5, 1)));
    }

    #[test]
    fn exports_and_stations_are_apart() {
        let other = MacAddr(2, 0, 0, 0, 0, 2);
        let mut ko = Ko::new(250);
        let mut stale = known(at(0), &mut ko);
        let old = ko.tag(at(0));
        assert!(runs(&mut stale, at(50), MAC, ko.tag(at(50)), sectors(0, 8)));
        for _ in 0..=JUDGED_AFTER {
            let tag = ko.tag(at(50));
            stale.hear(at(50), 1, MAC, tag);
            stale.hear(at(50), 0, other, tag);
        }
        assert!(stale.is_stale(at(60), 0, MAC, old, sectors(0, 8)));
        assert!(!stale.is_stale(at(60), 1, MAC, old, sectors(0, 8)));
        assert!(!stale.is_stale(at(60), 0, other, old, sectors(0, 8)));
    }

    #[test]
    fn a_counter_that_wraps_starves_nobody_and_hides_nothing() {
        for hertz in [100, 1000] {
            let mut ko = Ko::new(hertz);
            let mut stale = known(at(0), &mut ko);
            // 60 000 writes a second to few places, for 3 s; a copy of each thousandth comes 500 ms late.
            let mut late = std::collections::VecDeque::new();
            for round in 0..180_000_u64 {
                let now = at(0) + Duration::from_micros(round * 1_000_000 / 60_000);
                let footprint = sectors(round % 100 * 8, 8);
                let tag = ko.tag(now);
                if round % 1000 == 0 {
                    late.push_back((now, ko.tag(now), footprint));
                }
                assert!(runs(&mut stale, now, MAC, tag, footprint), "{hertz} Hz, write {round}");
                if let Some((sent, tag, footprint)) = late.front().copied()
                    && now.since(sent) >= Duration::from_millis(500)
                {
                    late.pop_front();
                    assert!(!runs(&mut stale, now, MAC, tag, footprint), "{hertz} Hz, late after write {round}");
                }
            }
        }
    }

    #[test]
    fn a_station_that_is_started_anew_waits_no_longer_than_a_frame_lives() {
        let mut waited = 0;
        let mut longest = Duration::ZERO;
        for jump in (0..0x1_0000).step_by(64) {
            for hertz in [100, 1000] {
                let mut ko = Ko::new(hertz);
                let mut stale = known(at(0), &mut ko);
                assert!(runs(&mut stale, at(0), MAC, ko.tag(at(0)), sectors(0, 8)));
                // Its clock and its counter begin anywhere, and it has nothing to do but this write.
                let mut ko = Ko { counter: 0, hertz, ticks: jump };
                let mut now = at(500);
                (0..8).for_each(|_| stale.hear(now, 0, MAC, ko.tag(now)));
                while !runs(&mut stale, now, MAC, ko.tag(now), sectors(0, 8)) {
                    now = now + Duration::from_millis(200);
                }
                waited += u32::from(now > at(500));
                longest = longest.max(now.since(at(500)));
                assert!(runs(&mut stale, now, MAC, ko.tag(now), sectors(0, 8)), "and it goes on");
            }
        }
        assert!(longest <= LIFE, "{longest:?}");
        assert!(waited < 2048 / 5, "{waited} of 2048 had to wait");
    }

    #[test]
    fn several_paths_starve_nobody() {
        // Frames leave every 50 us in turn by paths that are 0, 3 and 700 ms long, and overlap all the time.
        let mut ko = Ko::new(1000);
        let mut stale = known(at(0), &mut ko);
        let mut under_way = std::collections::BTreeMap::new();
        let mut dropped = 0;
        for round in 0..40_000_u64 {
            let now = at(0) + Duration::from_micros(50 * round);
            let delay = Duration::from_millis([0, 3, 700][round as usize % 3]);
            under_way.insert((now + delay, round), (ko.tag(now), sectors(round % 50 * 8, 8)));
            while let Some(first) = under_way.first_entry()
                && first.key().0 <= now
            {
                let (tag, footprint) = first.remove();
                if !runs(&mut stale, now, MAC, tag, footprint) {
                    // It is sent again by the fast path, and runs.
                    dropped += 1;
                    assert!(runs(&mut stale, now, MAC, ko.tag(now), footprint));
                }
            }
        }
        assert!(dropped > 0, "frames that were overtaken were dropped first");
    }

    /// Writes that `tag` drops, of 400 000 to 1000 places at 20 000 a second.
    fn drops(overtaking: bool, mut tag: impl FnMut(u32) -> u32) -> u32 {
        let mut stale = Stale::default();
        let mut random = fastrand::Rng::with_seed(2);
        let dropped = (0..400_000_u32).filter(|n| {
            let now = at(0) + Duration::from_micros(u64::from(*n) * 50);
            // One in ten is overtaken by the next, and overlaps it.
            let n = if overtaking && n % 10 < 2 { n ^ 1 } else { *n };
            let place = if n % 10 < 2 { 0 } else { random.u64(0..1000) };
            !runs(&mut stale, now, MAC, tag(n), sectors(place * 8, 8))
        });
        dropped.count() as u32
    }

    #[test]
    fn other_kinds_of_tags_are_not_judged() {
        let mut random = fastrand::Rng::with_seed(4);
        assert_eq!(drops(true, |n| 0x18ae_0000 | n & 0xffff), 0, "iPXE");
        assert_eq!(drops(true, |n| 0x0003_ff00 + n), 0, "one by one");
        assert_eq!(drops(true, |n| n.swap_bytes() & 0x7fff_ffff), 0, "one by one, from the top");
        assert_eq!(drops(true, |n| 0x8000_0000 | n), 0, "ours");
        assert_eq!(drops(true, |_| random.u32(0..1 << 31)), 0, "any");
        // This looks like aoe.ko for half a second at a time. What comes in order is safe all the same.
        assert_eq!(drops(false, |n| (n & 0x7fff) << 16 | n & 0xffff), 0, "one for both halves");
    }

    #[test]
    fn a_clock_that_stands_still_or_races_is_none() {
        for (ticks_a_second, is_clock) in [(0, false), (50, false), (100, true), (1000, true), (2000, false)] {
            let mut stale = Stale::default();
            let mut ko = Ko::new(ticks_a_second);
            (0..40_000).for_each(|n| stale.hear(at(n), 0, MAC, ko.tag(at(n))));
            assert_eq!(stale.names == 1, is_clock, "{ticks_a_second} ticks a second");
        }
    }

    #[test]
    fn plan_9_may_use_its_tag_again() {
        // Two writes overlap, and the first is lost: under its old tag it is behind the second until that is forgotten.
        let mut ko = Ko::new(1000);
        let mut stale = known(at(0), &mut ko);
        let (first, second) = (ko.tag(at(0)), ko.tag(at(1)));
        assert!(runs(&mut stale, at(1), MAC, second, sectors(0, 8)));
        let tries = (1..200).map(|n| at(n * 100)).take_while(|now| !runs(&mut stale, *now, MAC, first, sectors(0, 8)));
        assert!(tries.count() <= 101);
    }

    #[test]
    fn memory_is_bounded_and_lets_the_oldest_go_first() {
        let mut ko = Ko::new(1000);
        let mut stale = known(at(0), &mut ko);
        let old = ko.tag(at(0));
        let now = at(100);
        for place in 0..REMEMBERED_MAX as u64 + 1000 {
            let tag = ko.tag(now);
            stale.hear(now, 0, MAC, tag);
            stale.admitted(now, 0, MAC, tag, sectors(place * 8, 8));
        }
        assert_eq!((stale.writes.len(), stale.forgotten_early()), (REMEMBERED_MAX, 1000));
        assert!(!stale.is_stale(now, 0, MAC, old, sectors(999 * 8, 8)));
        assert!(stale.is_stale(now, 0, MAC, old, sectors(1000 * 8, 8)));
        // What is over goes a few at a time, and is not counted.
        for place in 0..REMEMBERED_MAX as u64 {
            stale.admitted(at(11_000), 0, MAC, ko.tag(at(11_000)), sectors(place * 8, 8));
        }
        assert_eq!((stale.writes.keys(), stale.forgotten_early()), (REMEMBERED_MAX, 1000));
    }

    #[test]
    fn a_flood_of_stations_costs_no_memory_and_displaces_nobody_who_is_heard() {
        let mut ko = Ko::new(1000);
        let mut stale = known(at(0), &mut ko);
        let old = ko.tag(at(0));
        let mac = |n: u64| MacAddr(2, 1, (n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8, n as u8);
        for n in 0..200_000 {
            let now = at(n / 8);
            stale.hear(now, 0, mac(n), 1 << 16);
            if n % 8000 == 0 {
                assert!(runs(&mut stale, now, MAC, ko.tag(now), sectors(0, 8)));
            }
        }
        assert!(stale.watched.len() == WATCHED_MAX && stale.slots.len() == WATCHED_MAX);
        assert!(stale.slots.contains_key(&(0, MAC)));
        assert!(!stale.slots.contains_key(&(0, mac(0))) && stale.slots.len() == WATCHED_MAX);
        assert!(!stale.is_stale(at(25_000), 0, MAC, old, sectors(0, 8)), "25 s are longer than a frame lives");
    }
}
