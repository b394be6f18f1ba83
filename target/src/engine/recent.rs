//! Records of the recent past, in the order they came, that are found by a key too.
//!
//! Dense, since there are many: a record costs its own size, and five to ten bytes in an index that holds its number.
//! Keys are compared whole, never by their hash alone. Several records may have one key: it leads to the newest.
//! Whoever keeps records says when the oldest goes.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};

use aoe_common::hash::FastHash;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// What is kept.
pub trait Record {
    /// What it is found by.
    type Key: Eq + Hash;

    /// Its key; it never changes.
    fn key(&self) -> Self::Key;
}

/// Names a record for as long as it is kept. Numbers wrap around long after that.
pub type Number = u32;

/// Records from which on there is room for all there may ever be: to move many more than this takes milliseconds, in
/// which frames are lost.
const FEW: usize = 1 << 15;

/// See the [module](self).
#[derive(Debug)]
pub struct Recent<R> {
    max: usize,
    records: VecDeque<R>,
    /// The number of the oldest.
    first: Number,
    index: HashTable<Number>,
    hasher: FastHash,
}

impl<R: Record> Recent<R> {
    /// For so many records at the most.
    pub fn new(max: usize) -> Self {
        Self { max, records: VecDeque::new(), first: 0, index: HashTable::new(), hasher: FastHash::default() }
    }

    /// The newest record with this key.
    pub fn find(&self, key: &R::Key) -> Option<Number> {
        let leads_to = |number: &Number| self.records[number.wrapping_sub(self.first) as usize].key() == *key;
        self.index.find(self.hasher.hash_one(key), leads_to).copied()
    }

    /// A record, if it is still kept.
    pub fn get(&self, number: Number) -> Option<&R> {
        self.records.get(number.wrapping_sub(self.first) as usize)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, number: Number) -> Option<&mut R> {
        self.records.get_mut(number.wrapping_sub(self.first) as usize)
    }

    /// A number that leads to nothing, now and later.
    pub fn nothing(&self) -> Number {
        self.first.wrapping_sub(1)
    }

    /// Adds a record. Returns its number, and that of the record its key led to before.
    pub fn push(&mut self, record: R) -> (Number, Option<Number>) {
        assert!(self.records.len() < self.max, "the oldest goes before there are too many");
        let Self { max, records, first, index, hasher } = self;
        if records.len() == FEW {
            records.reserve(*max - FEW);
        }
        let at = |number: Number| records[number.wrapping_sub(*first) as usize].key();
        let key = record.key();
        let new = first.wrapping_add(records.len() as u32);
        if index.len() == FEW {
            index.reserve(*max - FEW, |number| hasher.hash_one(at(*number)));
        }
        let entry =
            index.entry(hasher.hash_one(&key), |number| at(*number) == key, |number| hasher.hash_one(at(*number)));
        let before = match entry {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), new)),
            Entry::Vacant(entry) => {
                entry.insert(new);
                None
            }
        };
        self.records.push_back(record);
        (new, before)
    }

    /// The oldest record.
    pub fn oldest(&self) -> Option<&R> {
        self.records.front()
    }

    /// Takes the oldest record out.
    pub fn take_oldest(&mut self) -> Option<R> {
        let record = self.records.pop_front()?;
        let oldest = self.first;
        self.first = oldest.wrapping_add(1);
        // Its key may lead to a newer one by now.
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(record.key()), |number| *number == oldest) {
            entry.remove();
        }
        Some(record)
    }

    /// Records kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Keys that lead to a record.
    #[cfg(test)]
    pub fn keys(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Word(u8, &'static str);

    impl Record for Word {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    #[test]
    fn a_key_leads_to_its_newest_record_until_that_goes() {
        let mut recent = Recent::new(3);
        let (one, none) = recent.push(Word(1, "one"));
        let (two, _) = recent.push(Word(2, "two"));
        let (again, before) = recent.push(Word(1, "again"));
        assert_eq!((none, before), (None, Some(one)));
        assert_eq!((recent.find(&1), recent.find(&2), recent.find(&3)), (Some(again), Some(two), None));
        assert_eq!(recent.get(one), Some(&Word(1, "one")));
        assert_eq!((recent.len(), recent.keys()), (3, 2));

        assert_eq!(recent.take_oldest(), Some(Word(1, "one")));
        assert_eq!((recent.get(one), recent.find(&1)), (None, Some(again)));
        assert_eq!(recent.take_oldest(), Some(Word(2, "two")));
        assert_eq!(recent.take_oldest(), Some(Word(1, "again")));
        assert_eq!((recent.take_oldest(), recent.find(&1), recent.keys()), (None, None, 0));
    }

    #[test]
    fn numbers_wrap_around() {
        let mut recent = Recent { first: Number::MAX - 1, ..Recent::new(4) };
        let numbers: Vec<_> = (0..4).map(|key| recent.push(Word(key, "")).0).collect();
        assert_eq!(numbers, [Number::MAX - 1, Number::MAX, 0, 1]);
        recent.take_oldest();
        recent.take_oldest();
        assert_eq!(numbers.iter().filter(|number| recent.get(**number).is_some()).count(), 2);
        assert_eq!((recent.find(&1), recent.find(&3)), (None, Some(1)));
    }
}
