//! Whether writes that were answered and not flushed are still there.
//!
//! A target may answer a write from memory that its host loses with the power. When the host is back, flushes succeed
//! again, and none of them brings the write back. So targets of ours name that memory (`CacheMemory`), and here it is
//! kept which hosts have kept theirs since before the oldest write that no flush has made durable. When a host turns up
//! with another memory and there is no such host left, writes are lost, and from then on every flush has to fail: nobody
//! may be told that they are durable. That ends with the device: whoever uses it has to look at what is left and attach
//! it anew.
//!
//! Several hosts of one device share its disk below, so each has what any of them has answered: when one loses power,
//! nothing is lost as long as another lives. Of the one that is back nobody knows whether it has all of it, or came back
//! together with the others. So a flush of what is older than its memory is for another host to answer.
//!
//! It errs to one side only. A write that the new memory has answered already, before it was heard of, is taken for one
//! of the old.

use aoe_common::ata::CacheMemory;
use aoe_common::planted::{Fault, planted};

/// Hosts kept apart; a device has a few at the most. Of further ones nothing is remembered.
const HOSTS_MAX: usize = 16;

#[derive(Debug)]
struct Host {
    memory: CacheMemory,
    /// The number of the last write that may be older than this memory, or than our knowledge of it.
    since: u64,
    /// It had another memory before.
    is_reborn: bool,
}

/// Writes that no flush has covered.
#[derive(Debug, Default)]
pub struct Unflushed {
    hosts: Vec<Host>,
    writes: u64,
    /// The number of the last write that a flush has covered.
    flushed: u64,
    lost: bool,
}

impl Unflushed {
    /// A host says which memory it has. Returns whether that is news of a loss.
    pub fn heard(&mut self, memory: CacheMemory) -> bool {
        let since = self.writes;
        let Some(at) = self.host(memory) else {
            if self.hosts.len() < HOSTS_MAX {
                self.hosts.push(Host { memory, since, is_reborn: false });
            }
            return false;
        };
        if self.hosts[at].memory == memory {
            return false;
        }
        self.hosts[at] = Host { memory, since, is_reborn: true };
        let survive = self.hosts.iter().any(|host| host.since <= self.flushed);
        !survive && self.lose()
    }

    /// A write that need not be durable was answered by a host whose memory has been heard of.
    pub fn written(&mut self) {
        self.writes += 1;
    }

    /// What a flush that is asked for now has to cover: the writes up to this number.
    pub fn mark(&self) -> u64 {
        self.writes
    }

    /// Whether a host has kept its memory since before the oldest write that is not durable. One that says nothing of its
    /// memory is taken at its word.
    pub fn is_held_by(&self, memory: Option<CacheMemory>) -> bool {
        let at = memory.and_then(|memory| self.host(memory));
        at.is_none_or(|at| self.hosts[at].since <= self.flushed)
    }

    /// A flush with this mark was answered, and no better host is left to ask. It is for all hosts, as they share the disk
    /// below. Returns whether it is news of a loss.
    pub fn flushed(&mut self, memory: Option<CacheMemory>, mark: u64) -> bool {
        let is_reborn = memory.and_then(|memory| self.host(memory)).is_some_and(|at| self.hosts[at].is_reborn);
        if is_reborn && !self.is_held_by(memory) {
            return self.lose();
        }
        self.flushed = self.flushed.max(mark);
        false
    }

    /// Whether writes were lost that no flush had covered.
    pub fn is_lost(&self) -> bool {
        self.lost && !planted(Fault::LossIgnored)
    }

    fn lose(&mut self) -> bool {
        !std::mem::replace(&mut self.lost, true)
    }

    fn host(&self, memory: CacheMemory) -> Option<usize> {
        self.hosts.iter().position(|host| host.memory.host == memory.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: CacheMemory = CacheMemory { host: 1, life: 1 };
    const SECOND: CacheMemory = CacheMemory { host: 1, life: 2 };
    const OTHER: CacheMemory = CacheMemory { host: 2, life: 7 };

    #[test]
    fn another_memory_is_a_loss_when_something_was_not_flushed() {
        for flushed in [false, true] {
            let mut unflushed = Unflushed::default();
            assert!(!unflushed.heard(FIRST));
            unflushed.written();
            if flushed {
                assert!(!unflushed.flushed(Some(FIRST), unflushed.mark()));
            }
            assert!(!unflushed.heard(FIRST));
            assert_eq!(unflushed.heard(SECOND), !flushed);
            assert_eq!(unflushed.is_lost(), !flushed);
            assert!(!unflushed.heard(SECOND), "told once");
        }
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_was_asked_for() {
        let mut unflushed = Unflushed::default();
        unflushed.heard(FIRST);
        unflushed.written();
        let mark = unflushed.mark();
        unflushed.written();
        unflushed.flushed(Some(FIRST), mark);
        assert!(unflushed.heard(SECOND));
    }

    /// Two hosts with something that was not flushed; the first has come back with another memory.
    fn one_of_two_is_back() -> Unflushed {
        let mut unflushed = Unflushed::default();
        unflushed.heard(FIRST);
        unflushed.heard(OTHER);
        unflushed.written();
        assert!(!unflushed.heard(SECOND), "the other host has it");
        assert!(!unflushed.is_held_by(Some(SECOND)) && unflushed.is_held_by(Some(OTHER)));
        unflushed
    }

    #[test]
    fn a_host_that_lives_on_has_what_another_answered() {
        let mut unflushed = one_of_two_is_back();
        assert!(!unflushed.flushed(Some(OTHER), unflushed.mark()));
        assert!(unflushed.is_held_by(Some(SECOND)), "nothing is older than its memory");
        assert!(!unflushed.heard(CacheMemory { life: 8, ..OTHER }));
        assert!(!unflushed.is_lost());
    }

    #[test]
    fn when_all_hosts_were_away_it_is_lost() {
        let mut unflushed = one_of_two_is_back();
        assert!(unflushed.heard(CacheMemory { life: 8, ..OTHER }));
        assert!(unflushed.is_lost());
    }

    #[test]
    fn a_flush_by_a_host_that_was_away_and_nobody_else_tells_of_the_loss() {
        let mut unflushed = one_of_two_is_back();
        assert!(unflushed.flushed(Some(SECOND), unflushed.mark()));
        assert!(unflushed.is_lost());
    }

    #[test]
    fn a_host_that_joins_is_asked_after_those_that_were_there() {
        let mut unflushed = Unflushed::default();
        unflushed.heard(FIRST);
        unflushed.written();
        unflushed.heard(OTHER);
        assert!(unflushed.is_held_by(Some(FIRST)) && !unflushed.is_held_by(Some(OTHER)));
        assert!(unflushed.is_held_by(None), "a host that names no memory");
        assert!(!unflushed.flushed(Some(OTHER), unflushed.mark()), "nobody else was left");
        assert!(unflushed.is_held_by(Some(OTHER)));
    }

    #[test]
    fn hosts_are_bounded() {
        let mut unflushed = Unflushed::default();
        for host in 0..100 {
            unflushed.heard(CacheMemory { host, life: 0 });
        }
        assert_eq!(unflushed.hosts.len(), HOSTS_MAX);
    }
}
