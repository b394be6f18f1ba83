//! The ranges of DATA SET MANAGEMENT / TRIM: 64 little-endian entries of 8 bytes in each 512-byte sector.

/// Entries in one sector of ranges.
pub const TRIM_ENTRIES_PER_SECTOR: usize = 64;

/// Sectors that one entry can name.
const ENTRY_SECTORS_MAX: u64 = 0xffff;

/// One range to trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimRange {
    /// First sector.
    pub lba: u64,
    /// Sectors, never 0.
    pub sectors: u16,
}

/// The ranges in `data`, in order; unused entries (length 0) are left out.
pub fn trim_ranges(data: &[u8]) -> impl Iterator<Item = TrimRange> + Clone + '_ {
    data.as_chunks::<8>().0.iter().filter_map(|entry| {
        let entry = u64::from_le_bytes(*entry);
        let sectors = (entry >> 48) as u16;
        (sectors != 0).then_some(TrimRange { lba: entry & 0xffff_ffff_ffff, sectors })
    })
}

/// Fills `data` (a multiple of 512 bytes) with entries for `sectors` sectors from `lba` on; unused entries
/// become zero. Returns how many sectors found room.
pub fn encode_trim(lba: u64, sectors: u64, data: &mut [u8]) -> u64 {
    let mut done = 0;
    for entry in data.as_chunks_mut::<8>().0 {
        let count = (sectors - done).min(ENTRY_SECTORS_MAX);
        let value = if count == 0 { 0 } else { count << 48 | (lba + done) };
        *entry = value.to_le_bytes();
        done += count;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_of_one_entry() {
        let mut data = [0xa5; 512];
        assert_eq!(encode_trim(0x0102_0304_0506, 8, &mut data), 8);
        assert_eq!(data[..16], [6, 5, 4, 3, 2, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(trim_ranges(&data).collect::<Vec<_>>(), [TrimRange { lba: 0x0102_0304_0506, sectors: 8 }]);
    }

    proptest! {
        #[test]
        fn ranges_cover_what_was_encoded(lba in 0u64..1 << 40, sectors in 1u64..10_000_000) {
            let mut data = [0xa5; 1024];
            let done = encode_trim(lba, sectors, &mut data);
            prop_assert_eq!(done, sectors.min(128 * 0xffff));
            let mut next = lba;
            for range in trim_ranges(&data) {
                prop_assert_eq!(range.lba, next);
                next += u64::from(range.sectors);
            }
            prop_assert_eq!(next, lba + done);
        }
    }
}
