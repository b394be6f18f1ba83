//! Hashing of short keys that come with every frame: addresses, tags, places on a disk.
//!
//! The hash of the standard library's maps withstands any attacker, and was a third of what a write costs in the target's
//! engine. This one is a few multiplications with secret numbers, drawn anew for each table: who chooses keys but does not
//! see the table cannot tell which of them meet. All tables that use it are bounded, so the worst is a slow look-up.

use std::collections::{HashMap, HashSet};

pub use foldhash::fast::RandomState as FastHash;

/// A map whose keys are hashed so.
pub type FastMap<K, V> = HashMap<K, V, FastHash>;
/// A set whose keys are hashed so.
pub type FastSet<K> = HashSet<K, FastHash>;
/// A map of keys that are our own, with numbers that are no secret: the same steps in every run.
pub type OwnKeyMap<K, V> = HashMap<K, V, foldhash::fast::FixedState>;
