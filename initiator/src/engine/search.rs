//! The search for the largest size that passes, by trying.

/// See the [module](self). Sizes are sectors in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    claimed: u16,
    passes: u16,
    fails: u16,
}

impl Search {
    /// From a size that is known to pass up to what both ends claim to take.
    pub fn new(passes: u8, claimed: u8) -> Self {
        let claimed = u16::from(claimed);
        Self { claimed, passes: passes.into(), fails: claimed + 1 }
    }

    /// The size to try next; `None` when it is known. First the smallest, then the largest, for most ways have no
    /// trouble.
    pub fn next(&self) -> Option<u8> {
        let size = match (self.passes, self.fails) {
            (passes, fails) if passes + 1 >= fails => return None,
            (0, _) => 1,
            (_, fails) if fails > self.claimed => self.claimed,
            (passes, fails) => passes.midpoint(fails),
        };
        Some(u8::try_from(size).expect("no more than was claimed"))
    }

    /// What became of a size that was tried.
    pub fn learn(&mut self, size: u8, passes: bool) {
        if passes { self.passes = size.into() } else { self.fails = size.into() }
    }

    /// The largest that passes, as far as it is known.
    pub fn largest(&self) -> u8 {
        u8::try_from(self.passes).expect("no more than was claimed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_passes_is_found_soon(sure: u8, claimed: u8, most: u8) {
            let (claimed, most) = (claimed.max(sure), most.max(sure));
            let mut search = Search::new(sure, claimed);
            let mut tries = 0;
            while let Some(size) = search.next() {
                prop_assert!((1..=claimed).contains(&size));
                search.learn(size, size <= most);
                tries += 1;
            }
            prop_assert_eq!(search.largest(), claimed.min(most));
            prop_assert!(tries <= 10);
        }
    }
}
