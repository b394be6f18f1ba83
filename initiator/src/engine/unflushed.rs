//! Whether writes that were answered and not flushed are still there.
//!
//! A target may answer a write from memory that its host loses with the power. When the host is back, flushes succeed
//! again, and none of them brings the write back. So targets of ours name that memory (`CacheMemory`), and here it is
//! kept which of them holds writes of ours that no flush has made durable. When such a host turns up with another
//! memory, they are lost, and from then on every flush has to fail: nobody may be told that they are durable. That
//! ends with the device: whoever uses it has to look at what is left and attach it anew.
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
    /// The number of the last write that may be in no other place than this memory.
    last_write: Option<u64>,
}

/// Writes that no flush has covered.
#[derive(Debug, Default)]
pub struct Unflushed {
    hosts: Vec<Host>,
    writes: u64,
    lost: bool,
}

impl Unflushed {
    /// A host says which memory it has. Returns whether that is news of a loss.
    pub fn heard(&mut self, memory: CacheMemory) -> bool {
        let Some(host) = self.hosts.iter_mut().find(|host| host.memory.host == memory.host) else {
            if self.hosts.len() < HOSTS_MAX {
                self.hosts.push(Host { memory, last_write: None });
            }
            return false;
        };
        if host.memory == memory {
            return false;
        }
        host.memory = memory;
        let news = host.last_write.take().is_some() && !self.lost;
        self.lost |= news;
        news
    }

    /// A write that need not be durable was answered by a host that had this memory when it was last heard.
    pub fn written(&mut self, memory: CacheMemory) {
        self.writes += 1;
        if let Some(host) = self.hosts.iter_mut().find(|host| host.memory.host == memory.host) {
            host.last_write = Some(self.writes);
        }
    }

    /// What a flush that is asked for now has to cover: the writes up to this number.
    pub fn mark(&self) -> u64 {
        self.writes
    }

    /// A flush with this mark succeeded. Several hosts of one device share its disk below, so it is for all of them.
    pub fn flushed(&mut self, mark: u64) {
        for host in &mut self.hosts {
            host.last_write = host.last_write.filter(|last| *last > mark);
        }
    }

    /// Whether writes were lost that no flush had covered.
    pub fn is_lost(&self) -> bool {
        self.lost && !planted(Fault::LossIgnored)
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
            unflushed.written(FIRST);
            if flushed {
                unflushed.flushed(unflushed.mark());
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
        unflushed.written(FIRST);
        let mark = unflushed.mark();
        unflushed.written(FIRST);
        unflushed.flushed(mark);
        assert!(unflushed.heard(SECOND));
    }

    #[test]
    fn hosts_are_told_apart() {
        let mut unflushed = Unflushed::default();
        unflushed.heard(FIRST);
        unflushed.heard(OTHER);
        unflushed.written(OTHER);
        assert!(!unflushed.heard(SECOND), "that one held nothing");
        assert!(unflushed.heard(CacheMemory { life: 8, ..OTHER }));
        for host in 0..100 {
            unflushed.heard(CacheMemory { host, life: 0 });
        }
        assert_eq!(unflushed.hosts.len(), HOSTS_MAX);
    }
}
