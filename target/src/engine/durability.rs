//! When a write may be acknowledged: the cache modes, and what a failed write-back means.
//!
//! * write-through: every write is durable before its answer;
//! * write-back: a write is answered from the cache below, and durable after a FLUSH;
//! * auto: write-through for a client until it has shown, by a successful FLUSH, that it knows how to ask
//!   for durability. aoe.ko, iPXE and WinAoE never flush, so their fsync means something only this way.
//!
//! When the file or device below loses data it had taken (a failed sync), what was acknowledged may be
//! gone, and asking again would only hide it: the export is poisoned and refuses writes and flushes until an
//! operator clears the error. A write that was refused loses nothing and does not poison.

use aoe_common::planted::{Fault, planted};
use aoe_common::wire::MacAddr;
use serde::Deserialize;

/// Clients known to flush, per export. One forgotten is served write-through again: slower, never wrong.
pub const FLUSHERS_MAX: usize = 64;

/// `--cache`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Write-through for a client until it flushes, then write-back.
    #[default]
    Auto,
    /// Answer from the cache below.
    Writeback,
    /// Answer when durable.
    Writethrough,
}

impl CacheMode {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Writeback => "writeback",
            Self::Writethrough => "writethrough",
        }
    }
}

/// Who writes: a station, and which of its two kinds of clients. Both can be on one host, and only one of them flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    station: MacAddr,
    /// A kernel's driver keeps bit 31 of its tags clear. Programs set it, so that aoe.ko leaves their answers alone.
    is_program: bool,
}

impl Writer {
    /// Who sent a request with this tag.
    pub fn new(station: MacAddr, tag: u32) -> Self {
        Self { station, is_program: tag >> 31 == 1 }
    }
}

/// The durability state of one export.
#[derive(Clone, Debug)]
pub struct Durability {
    mode: CacheMode,
    /// SET FEATURES turned the cache off.
    cache_off: bool,
    /// Writers that flush, the latest last.
    flushers: Vec<Writer>,
    /// The errno of the first loss.
    poisoned: Option<i32>,
    /// Whether a restart would know of it.
    poison_is_stored: bool,
}

impl Durability {
    /// The state of a new export.
    pub fn new(mode: CacheMode) -> Self {
        Self { mode, cache_off: false, flushers: Vec::new(), poisoned: None, poison_is_stored: false }
    }

    /// From now on writes are acknowledged by these rules. Who is known to flush stays known.
    pub fn set_mode(&mut self, mode: CacheMode) {
        self.mode = mode;
    }

    /// Whether what it writes must be durable before the answer.
    pub fn write_is_durable(&self, writer: Writer) -> bool {
        if planted(Fault::DurableForgotten) {
            return false;
        }
        self.cache_off
            || match self.mode {
                CacheMode::Writeback => false,
                CacheMode::Writethrough => true,
                CacheMode::Auto => !self.flushers.contains(&writer) && !planted(Fault::AutoTrusts),
            }
    }

    /// Whether IDENTIFY says that a volatile cache is on.
    pub fn cache_is_on(&self) -> bool {
        self.mode != CacheMode::Writethrough && !self.cache_off
    }

    /// SET FEATURES: cache on. Refused where the operator wants write-through.
    pub fn turn_cache_on(&mut self) -> bool {
        let allowed = self.mode != CacheMode::Writethrough;
        if allowed {
            self.cache_off = false;
        }
        allowed
    }

    /// SET FEATURES: cache off.
    pub fn turn_cache_off(&mut self) {
        self.cache_off = true;
    }

    /// A FLUSH succeeded.
    pub fn flushed(&mut self, writer: Writer) {
        if self.flushers.last() == Some(&writer) {
            return;
        }
        self.flushers.retain(|known| *known != writer);
        if self.flushers.len() == FLUSHERS_MAX {
            self.flushers.remove(0);
        }
        self.flushers.push(writer);
    }

    /// Data was lost below, with this errno. Returns whether this is news.
    pub fn poison(&mut self, errno: i32) -> bool {
        let news = self.poisoned.is_none();
        self.poisoned.get_or_insert(errno);
        news
    }

    /// Why writes and flushes are refused, if they are: the errno of the first loss.
    pub fn poisoned(&self) -> Option<i32> {
        self.poisoned.filter(|_| !planted(Fault::PoisonForgotten))
    }

    /// A restart will know of the loss.
    pub fn poison_is_stored(&mut self) {
        self.poison_is_stored = true;
    }

    /// Whether a restart would know of the loss.
    pub fn is_poison_stored(&self) -> bool {
        self.poison_is_stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Writer = Writer { station: MacAddr(2, 0, 0, 0, 0, 0xa), is_program: true };
    const B: Writer = Writer { station: MacAddr(2, 0, 0, 0, 0, 0xb), is_program: true };

    #[test]
    fn auto_trusts_a_station_after_its_flush() {
        let mut durability = Durability::new(CacheMode::Auto);
        assert!(durability.write_is_durable(A));
        durability.flushed(A);
        assert!(!durability.write_is_durable(A));
        assert!(durability.write_is_durable(B));
        durability.turn_cache_off();
        assert!(durability.write_is_durable(A) && !durability.cache_is_on());
        assert!(durability.turn_cache_on());
        assert!(!durability.write_is_durable(A));
    }

    #[test]
    fn the_operators_word_stands() {
        assert!(!Durability::new(CacheMode::Writeback).write_is_durable(A));
        let mut durability = Durability::new(CacheMode::Writethrough);
        durability.flushed(A);
        assert!(durability.write_is_durable(A) && !durability.cache_is_on());
        assert!(!durability.turn_cache_on());
    }

    #[test]
    fn the_table_of_flushers_is_bounded() {
        let mut durability = Durability::new(CacheMode::Auto);
        durability.flushed(A);
        for n in 0..FLUSHERS_MAX {
            durability.flushed(Writer::new(MacAddr(2, 0, 0, 0, 1, n as u8), 0));
        }
        assert_eq!(durability.flushers.len(), FLUSHERS_MAX);
        assert!(durability.write_is_durable(A), "the one longest silent is forgotten");
    }

    #[test]
    fn the_first_failure_is_kept() {
        let mut durability = Durability::new(CacheMode::Auto);
        assert!(durability.poison(5));
        assert!(!durability.poison(28));
        assert_eq!(durability.poisoned(), Some(5));
    }
}
