//! What the figures of a check mean, in words, and what to do about it.

use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::{HEADROOM, SECTOR};
use aoe_common::wire::{ErrorCode, MacAddr};
use serde::Serialize;

use crate::engine::WayReport;
use aoe_common::text::{printable, size};

/// A way to the disk and all that is known of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The target.
    pub mac: MacAddr,
    /// Our interface.
    pub interface: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Sectors of a frame that fit it.
    pub ours: u8,
    /// Sectors that the target offers to take.
    pub offered: u8,
    /// What it says the disk is; none: nothing.
    pub disk: Option<Identify>,
    /// What was found out.
    pub report: WayReport,
}

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it is to be put right; else it is good to know.
    pub problem: bool,
    /// What it is, and what to do.
    pub text: String,
}

/// Counts that are no accident: three, and more than one in a thousand.
fn is_much(count: u64, of: u64) -> bool {
    count >= 3 && count * 1000 > of
}

/// All findings, problems first.
pub fn findings(device: Address, facts: &[Facts]) -> Vec<Finding> {
    let mut found = Findings::default();
    found.disks(device, facts);
    facts.iter().for_each(|way| found.way(device, way));
    if let Some(disk) = facts.iter().find_map(|way| way.disk.as_ref()) {
        found.cache(disk);
    }
    found.0.sort_by_key(|finding| !finding.problem);
    found.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn problem(&mut self, text: String) {
        self.0.push(Finding { problem: true, text });
    }

    fn note(&mut self, text: String) {
        self.0.push(Finding { problem: false, text });
    }

    /// Whether all ways lead to one disk.
    fn disks(&mut self, device: Address, facts: &[Facts]) {
        let name = |disk: &Identify| (disk.sectors, disk.model.clone(), disk.serial.clone(), disk.wwn);
        let known: Vec<_> = facts.iter().filter_map(|way| Some((way, way.disk.as_ref()?))).collect();
        let Some((first, disk)) = known.first() else { return };
        let all = "all who use it would mix up two disks: detach it everywhere, and give one of them another address";
        for (way, other) in &known[1..] {
            let (one, two) = (first.place(), way.place());
            if name(disk) != name(other) {
                let (disk, other) = (describe(disk), describe(other));
                return self.problem(format!(
                    "two targets answer as {device} with different disks, {one} ({disk}) and {two} ({other}); {all}"
                ));
            }
            if first.report.differs_from(&way.report) {
                return self.problem(format!(
                    "{one} and {two} answer as {device} and describe the same disk, but other data is on it: two targets \
                     with one address, or copies that are no longer equal; {all}"
                ));
            }
        }
        if facts.len() > 1 {
            self.note(format!("{} ways lead to the same disk", facts.len()));
        }
    }

    fn way(&mut self, device: Address, way: &Facts) {
        let (place, report) = (way.place(), &way.report);
        if way.disk.is_none() {
            return self.problem(format!("{place} answers as {device} but does not say what its disk is: see its log"));
        }
        if report.claimed == 0 {
            let mtu = way.mtu;
            return self.problem(format!("the MTU of {} ({mtu}) does not hold one sector: raise it", way.interface));
        }
        match report.refused {
            Some(ErrorCode::Reserved) => {
                return self.problem(format!(
                    "{place} refuses reads: it is reserved for others, see \"aoe-cfg {device} reserve list\""
                ));
            }
            Some(error) => self.problem(format!("{place} refuses reads ({error}): see the target's log")),
            None => {}
        }
        if report.failed > 0 {
            self.problem(format!(
                "{place} answers {} reads with an error of its disk: see the target's log, and save what can be read",
                report.failed
            ));
        }
        if report.reads == 0 {
            if report.refused.is_none() && report.failed == 0 {
                self.problem(format!(
                    "{place} answers discovery but no read: see the target's log, and what filters frames"
                ));
            }
            return;
        }
        self.sizes(way);
        self.load(way);
    }

    /// Frames that vanish for their size.
    fn sizes(&mut self, way: &Facts) {
        let (place, report) = (way.place(), &way.report);
        let claimed = report.claimed;
        let passing = report.reads.min(report.requests);
        for (passes, direction, what) in [
            (report.reads, "from the target to this host", "reads"),
            (report.requests, "from this host to the target", "writes"),
        ] {
            if passes < claimed {
                self.problem(format!(
                    "{place}: both ends claim frames of {}, but {direction} nothing above {} passes, so larger {what} \
                     hang; a switch, bridge or VLAN between them has a smaller MTU: raise it there, or set an MTU of {} on \
                     both ends",
                    frame(claimed),
                    frame(passes),
                    mtu_for(passing.max(1))
                ));
            }
        }
        let (ours, offered) = (way.ours, if way.offered == 0 { 2 } else { way.offered });
        // An MTU of 9000 holds 17 sectors, and some targets offer a round 16.
        let is_less = |one: u8, other: u8| u16::from(one) * 4 < u16::from(other) * 3;
        if is_less(ours, offered) {
            self.note(format!(
                "{place} takes {offered} sectors in a frame, but the MTU of {} ({}) holds {ours}: {} there would be faster",
                way.interface,
                way.mtu,
                mtu_for(offered)
            ));
        }
        if is_less(offered, ours) {
            self.note(format!(
                "{place} takes {offered} sectors in a frame, while the MTU of {} ({}) holds {ours}: the same MTU on the \
                 target's interface would be faster",
                way.interface, way.mtu
            ));
        }
    }

    /// What happened under load.
    fn load(&mut self, way: &Facts) {
        let (place, report) = (way.place(), &way.report);
        let load = &report.load;
        if is_much(report.differing, load.sent) {
            self.problem(format!(
                "{place}: one question gets answers that differ: two targets with this address have the same MAC address, or \
                 one host runs two; stop one of them"
            ));
        } else if is_much(load.repeated, load.sent) {
            self.problem(format!(
                "{place}: {} answers came twice: the network repeats frames (a loop, mirrored ports, Wi-Fi), or two \
                 targets serve the same disk under one MAC address; until that is put right, attach with \
                 --repeating-network unless the target is aoe-target",
                percent(load.repeated, load.sent)
            ));
        }
        if is_much(load.lost(), load.sent) {
            self.problem(format!(
                "{place}: {} of the requests got no answer: look for errors and drops in \"ip -s link\" on both ends \
                 and on the switch, at cable and plugs, and at flow control (pause frames)",
                percent(load.lost(), load.sent)
            ));
        }
        // Answers of two targets, or two of one request, come in no order that the network has made.
        let is_told = !is_much(report.differing, load.sent) && !is_much(load.repeated, load.sent);
        if is_told && is_much(load.overtaken, load.ordered) {
            self.problem(format!(
                "{place}: {} of the answers were overtaken by later ones: the network changes the order of frames; \
                 bonds should choose a link by MAC address, not in turn",
                percent(load.overtaken, load.ordered)
            ));
        }
        if is_much(load.late, load.sent) {
            self.note(format!(
                "{place}: {} of the answers took more than 200 ms: the target's disk is busy or slow, or the link is full",
                percent(load.late, load.sent)
            ));
        }
    }

    fn cache(&mut self, disk: &Identify) {
        match (disk.write_cache, disk.flush || disk.flush_ext) {
            (true, false) => self.problem(
                "the disk keeps writes in a cache and cannot flush it: what was written last is lost with the target's \
                 power; turn its write cache off"
                    .to_owned(),
            ),
            (false, _) if !disk.flush_ext => self.note(
                "the disk announces no write cache and no FLUSH CACHE EXT, so nothing tells when writes are durable; \
                 vblade, for one, leaves them in memory unless started with -s"
                    .to_owned(),
            ),
            _ => {}
        }
    }
}

impl Facts {
    fn place(&self) -> String {
        format!("{} on {}", self.mac, self.interface)
    }
}

fn describe(disk: &Identify) -> String {
    format!("{}, serial {}", size(disk.sectors * SECTOR as u64), printable(disk.serial.as_bytes()))
}

fn frame(sectors: u8) -> String {
    format!("{} bytes ({sectors} sectors)", HEADROOM + usize::from(sectors) * SECTOR)
}

/// The MTU that so many sectors need, as everybody counts.
fn mtu_for(sectors: u8) -> usize {
    HEADROOM + usize::from(sectors) * SECTOR
}

fn percent(count: u64, of: u64) -> String {
    format!("{:.1} %", count as f64 * 100.0 / of.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LoadReport;

    fn good() -> Facts {
        let load = LoadReport { sent: 10_000, answered: 10_000, ordered: 2500, ..LoadReport::default() };
        let report = WayReport { claimed: 17, reads: 17, requests: 17, load, ..WayReport::default() };
        let disk = Identify { sectors: 2048, serial: "s".into(), flush: true, flush_ext: true, ..Identify::default() };
        let (mac, interface) = (MacAddr(2, 0, 0, 0, 1, 1), "eth0".to_owned());
        Facts { mac, interface, mtu: 9000, ours: 17, offered: 17, disk: Some(disk), report }
    }

    fn texts(facts: &[Facts]) -> Vec<(bool, String)> {
        let found = findings(Address::new(0, 1), facts);
        assert!(found.iter().all(|finding| !finding.text.contains('\n') && !finding.text.contains("  ")), "{found:?}");
        found.into_iter().map(|finding| (finding.problem, finding.text)).collect()
    }

    /// The one finding about a way that was good before.
    fn one(change: impl FnOnce(&mut Facts)) -> (bool, String) {
        let mut facts = good();
        change(&mut facts);
        let mut found = texts(&[facts]);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_good_way_is_no_finding() {
        assert_eq!(texts(&[good()]), []);
        let mut round = good();
        (round.offered, round.report.claimed, round.report.reads, round.report.requests) = (16, 16, 16, 16);
        round.report.load.answered -= 2;
        assert_eq!(texts(&[round]), [], "16 of 17 sectors and a lost frame now and then are no trouble");
    }

    #[test]
    fn each_trouble_is_told_with_what_to_do() {
        let trouble = |change: fn(&mut Facts), words: &[&str]| {
            let (problem, text) = one(change);
            assert!(problem && words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        };
        trouble(
            |way| way.report.reads = 2,
            &["8740 bytes (17 sectors)", "to this host nothing above 1060", "MTU of 1060"],
        );
        trouble(|way| way.report.requests = 8, &["from this host", "4132 bytes (8 sectors)", "writes hang"]);
        trouble(|way| way.report.reads = 0, &["no read"]);
        trouble(|way| way.report.claimed = 0, &["does not hold one sector"]);
        trouble(|way| way.report.refused = Some(ErrorCode::Reserved), &["aoe-cfg e0.1 reserve list"]);
        trouble(|way| way.report.refused = Some(ErrorCode::DeviceUnavailable), &["device unavailable"]);
        trouble(|way| way.report.failed = 3, &["error of its disk"]);
        trouble(|way| way.report.differing = 50, &["answers that differ"]);
        trouble(|way| way.report.load.repeated = 500, &["5.0 % answers came twice", "--repeating-network"]);
        trouble(|way| way.report.load.answered = 9_700, &["3.0 % of the requests got no answer"]);
        trouble(|way| way.report.load.overtaken = 250, &["10.0 % of the answers were overtaken"]);
        trouble(|way| way.disk = None, &["does not say what its disk is"]);
        trouble(
            |way| way.disk = Some(Identify { write_cache: true, ..Identify::default() }),
            &["cannot flush it", "write cache off"],
        );
    }

    #[test]
    fn what_is_good_to_know_is_no_problem() {
        let note = |change: fn(&mut Facts), words: &str| {
            let (problem, text) = one(change);
            assert!(!problem && text.contains(words), "{words}: {text}");
        };
        note(|way| way.offered = 2, "the same MTU on the target's interface");
        note(|way| (way.ours, way.mtu) = (2, 1500), "MTU of eth0 (1500) holds 2: 8740 there");
        note(|way| way.report.load.late = 100, "more than 200 ms");
        note(|way| way.disk = Some(Identify { flush: true, ..Identify::default() }), "vblade");
    }

    #[test]
    fn two_disks_under_one_address_are_told_first() {
        let mut other = good();
        other.mac = MacAddr(2, 0, 0, 0, 1, 2);
        assert_eq!(texts(&[good(), other.clone()]), [(false, "2 ways lead to the same disk".to_owned())]);
        let mut copy = other.clone();
        for samples in &mut copy.report.samples {
            samples[0] = Some(2);
        }
        let mut first = good();
        for samples in &mut first.report.samples {
            samples[0] = Some(1);
        }
        let found = texts(&[first, copy]);
        assert!(found[0].0 && found[0].1.contains("other data is on it"), "{found:?}");
        other.disk.as_mut().unwrap().serial = "t".to_owned();
        other.report.load.overtaken = 100;
        let found = texts(&[good(), other]);
        assert!(found[0].0 && found[0].1.contains("(1.0 MiB, serial s) and 02:00:00:00:01:02 on eth0"), "{found:?}");
    }
}
