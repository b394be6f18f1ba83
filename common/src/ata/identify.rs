//! IDENTIFY DEVICE data: 512 bytes, 256 little-endian words.
//!
//! `emit` states what our target is; `parse` reads what any target says, and trusts a feature bit only when
//! the word that holds it is marked valid, as Linux' libata does. Capacity is the exception: targets that
//! forget the validity bits exist, and Linux and iPXE accept them.

use super::super::frame::SECTOR;
use super::cache::CacheMemory;

const WORDS: usize = 256;
const LBA28_SECTORS_MAX: u64 = 0x0fff_ffff;

/// Two words in the vendor's range say that the target is of this kind; a third holds what it promises, three more name
/// its cache.
const VENDOR_SIGNATURE_WORD: usize = 129;
const VENDOR_SIGNATURE: [u16; 2] = [0x4f41, 0x2145];
const VENDOR_PROMISES_WORD: usize = 131;
const PROMISE_EXACTLY_ONCE: u16 = 1 << 0;
const PROMISE_CACHE_MEMORY: u16 = 1 << 1;
const VENDOR_CACHE_WORDS: std::ops::Range<usize> = 132..135;

/// What IDENTIFY DEVICE says about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identify {
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Serial number: at most 20 printable ASCII characters.
    pub serial: String,
    /// Firmware revision: at most 8 printable ASCII characters.
    pub firmware: String,
    /// Model: at most 40 printable ASCII characters.
    pub model: String,
    /// World wide name, 0 when there is none.
    pub wwn: u64,
    /// Whether 48-bit commands work.
    pub lba48: bool,
    /// Logical 512-byte sectors in a physical one, as a power of two (3 = 4 KiB).
    pub physical_sector_exponent: u8,
    /// Whether the medium rotates, where that is known.
    pub rotational: Option<bool>,
    /// The device has a volatile write cache and it is on.
    pub write_cache: bool,
    /// FLUSH CACHE works.
    pub flush: bool,
    /// FLUSH CACHE EXT works.
    pub flush_ext: bool,
    /// WRITE DMA FUA EXT works.
    pub fua: bool,
    /// Sectors of ranges one TRIM command may carry; 0 = no TRIM.
    pub trim_sectors_max: u16,
    /// Trimmed sectors read as zero, always.
    pub trim_zeroes: bool,
    /// READ LOG EXT works.
    pub logs: bool,
    /// Takes no writes. IDENTIFY cannot say this; it only turns off what makes no sense then.
    pub read_only: bool,
    /// The target runs a request that arrives repeatedly under one tag from one station only once.
    pub exactly_once: bool,
    /// Where it keeps writes that are not durable, if it says so. Read only with `exactly_once`.
    pub cache_memory: Option<CacheMemory>,
}

impl Default for Identify {
    fn default() -> Self {
        Self {
            sectors: 0,
            serial: String::new(),
            firmware: String::new(),
            model: String::new(),
            wwn: 0,
            lba48: true,
            physical_sector_exponent: 0,
            rotational: None,
            write_cache: false,
            flush: false,
            flush_ext: false,
            fua: false,
            trim_sectors_max: 0,
            trim_zeroes: false,
            logs: false,
            read_only: false,
            exactly_once: false,
            cache_memory: None,
        }
    }
}

/// Why IDENTIFY data cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Fewer than 512 bytes.
    #[error("IDENTIFY data is cut short")]
    Short,
    /// Its checksum is wrong.
    #[error("IDENTIFY data has a wrong checksum")]
    Checksum,
    /// It names no capacity, or one beyond 48 bits.
    #[error("IDENTIFY data names no usable capacity")]
    Capacity,
}

impl Identify {
    /// The 512 bytes.
    pub fn emit(&self) -> [u8; SECTOR] {
        let mut w = [0u16; WORDS];
        w[0] = 0x0040; // fixed ATA device
        // The legacy geometry of any disk over 8 GiB; nothing today addresses by it.
        (w[1], w[3], w[6]) = (16383, 16, 63);
        put_text(&mut w[10..20], &self.serial);
        put_text(&mut w[23..27], &self.firmware);
        put_text(&mut w[27..47], &self.model);
        w[47] = 0x8000;
        w[49] = 0x0200 | 0x0100; // LBA, DMA
        w[50] = 0x4000;
        w[53] = 0x0006;
        let lba28 = self.sectors.min(LBA28_SECTORS_MAX);
        (w[60], w[61]) = (lba28 as u16, (lba28 >> 16) as u16);
        w[80] = 0x03f0; // ATA-4 to ACS-2
        w[82] = bit(5, !self.read_only);
        w[83] = 0x4000 | bit(10, self.lba48) | bit(12, self.flush) | bit(13, self.flush_ext);
        w[84] = 0x4000 | bit(5, self.logs) | bit(6, self.fua) | bit(8, self.wwn != 0);
        w[85] = bit(5, self.write_cache);
        w[86] = w[83] & !0x4000;
        w[87] = w[84];
        if self.lba48 {
            for (word, shift) in (100..104).zip([0, 16, 32, 48]) {
                w[word] = (self.sectors >> shift) as u16;
            }
        }
        let trim = self.trim_sectors_max > 0;
        w[69] = bit(14, trim && self.trim_zeroes) | bit(5, trim && self.trim_zeroes);
        w[105] = self.trim_sectors_max;
        w[169] = bit(0, trim);
        w[106] = match self.physical_sector_exponent {
            0 => 0x4000,
            exponent => 0x6000 | u16::from(exponent & 0x0f),
        };
        for (word, shift) in (108..112).zip([48, 32, 16, 0]) {
            w[word] = (self.wwn >> shift) as u16;
        }
        w[119] = 0x4000;
        w[120] = 0x4000;
        if self.exactly_once {
            w[VENDOR_SIGNATURE_WORD..VENDOR_SIGNATURE_WORD + 2].copy_from_slice(&VENDOR_SIGNATURE);
            w[VENDOR_PROMISES_WORD] = PROMISE_EXACTLY_ONCE;
            if let Some(memory) = self.cache_memory {
                w[VENDOR_PROMISES_WORD] |= PROMISE_CACHE_MEMORY;
                for (word, shift) in VENDOR_CACHE_WORDS.zip([0, 16, 32]) {
                    w[word] = (memory.bits() >> shift) as u16;
                }
            }
        }
        w[209] = 0x4000; // physical sectors begin at LBA 0
        w[217] = match self.rotational {
            None => 0,
            Some(false) => 1,
            Some(true) => 7200,
        };

        let mut out = [0; SECTOR];
        for (bytes, word) in out.as_chunks_mut::<2>().0.iter_mut().zip(w) {
            *bytes = word.to_le_bytes();
        }
        out[510] = 0xa5;
        out[511] = sum(&out[..511]).wrapping_neg();
        out
    }

    /// Reads the first 512 bytes of `data`.
    pub fn parse(data: &[u8]) -> Result<Self, IdentifyError> {
        let data: &[u8; SECTOR] = data.first_chunk().ok_or(IdentifyError::Short)?;
        if data[510] == 0xa5 && sum(data) != 0 {
            return Err(IdentifyError::Checksum);
        }
        let mut w = [0u16; WORDS];
        for (word, bytes) in w.iter_mut().zip(data.as_chunks::<2>().0) {
            *word = u16::from_le_bytes(*bytes);
        }
        let valid = |word: u16| word & 0xc000 == 0x4000;
        let has = |word: usize, bit: u16| valid(w[word]) && w[word] & 1 << bit != 0;
        // Linux looks at either word, without the validity bits; targets exist that set only one.
        let lba48 = (w[83] | w[86]) & 1 << 10 != 0;
        let lba28_sectors = (u64::from(w[61]) << 16 | u64::from(w[60])).min(LBA28_SECTORS_MAX);
        let lba48_sectors = (100..104).rev().fold(0, |sum, word| sum << 16 | u64::from(w[word]));
        let sectors = if lba48 { lba48_sectors } else { lba28_sectors };
        if sectors == 0 || sectors > 1 << 48 {
            return Err(IdentifyError::Capacity);
        }
        let trim = w[169] & 1 != 0;
        let ours = w[VENDOR_SIGNATURE_WORD..VENDOR_SIGNATURE_WORD + 2] == VENDOR_SIGNATURE;
        let promises = |promises| ours && w[VENDOR_PROMISES_WORD] & promises == promises;
        let memory = VENDOR_CACHE_WORDS.rev().fold(0, |bits, word| bits << 16 | u64::from(w[word]));
        Ok(Self {
            sectors,
            serial: get_text(&w[10..20]),
            firmware: get_text(&w[23..27]),
            model: get_text(&w[27..47]),
            wwn: if has(84, 8) { (108..112).fold(0, |sum, word| sum << 16 | u64::from(w[word])) } else { 0 },
            lba48,
            physical_sector_exponent: if valid(w[106]) && w[106] & 1 << 13 != 0 { (w[106] & 0x0f) as u8 } else { 0 },
            rotational: match w[217] {
                1 => Some(false),
                0x0401..=0xfffe => Some(true),
                _ => None,
            },
            write_cache: w[85] & 1 << 5 != 0,
            flush: has(83, 12),
            flush_ext: has(83, 13),
            fua: has(84, 6),
            // A device that trims but states no limit takes one sector of ranges.
            trim_sectors_max: if trim { w[105].max(1) } else { 0 },
            trim_zeroes: trim && w[69] & 1 << 14 != 0 && w[69] & 1 << 5 != 0,
            logs: has(84, 5),
            read_only: w[82] & 1 << 5 == 0 && ours,
            exactly_once: promises(PROMISE_EXACTLY_ONCE),
            cache_memory: promises(PROMISE_EXACTLY_ONCE | PROMISE_CACHE_MEMORY).then(|| CacheMemory::from_bits(memory)),
        })
    }
}

fn bit(number: u16, set: bool) -> u16 {
    u16::from(set) << number
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// ATA strings: two characters in a word, the first in the high byte, padded with spaces.
fn put_text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().map(|byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' });
    for word in words {
        *word = u16::from_be_bytes([bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' ')]);
    }
}

fn get_text(words: &[u16]) -> String {
    let text: String = words
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .take_while(|byte| *byte != 0)
        .map(|byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Identify {
        Identify {
            sectors: 0x1_2345_6789,
            serial: "AOE-0001".into(),
            firmware: "0.1".into(),
            model: "AoE disk".into(),
            wwn: 0x3001_0203_0405_0607,
            lba48: true,
            physical_sector_exponent: 3,
            rotational: Some(false),
            write_cache: true,
            flush: true,
            flush_ext: true,
            fua: true,
            trim_sectors_max: 2,
            trim_zeroes: true,
            logs: true,
            read_only: false,
            exactly_once: true,
            cache_memory: Some(CacheMemory { host: 0xfedcba, life: 0x012345 }),
        }
    }

    fn word(data: &[u8; 512], at: usize) -> u16 {
        u16::from_le_bytes([data[2 * at], data[2 * at + 1]])
    }

    #[test]
    fn words_that_initiators_read() {
        let data = full().emit();
        assert_eq!(word(&data, 49) & 0x0200, 0x0200);
        assert_eq!(word(&data, 83), 0x7400);
        assert_eq!(word(&data, 86), 0x3400);
        assert_eq!(word(&data, 84), 0x4160);
        assert_eq!([word(&data, 60), word(&data, 61)], [0xffff, 0x0fff]);
        assert_eq!([word(&data, 100), word(&data, 101), word(&data, 102)], [0x6789, 0x2345, 1]);
        assert_eq!(word(&data, 106), 0x6003);
        assert_eq!(word(&data, 69), 0x4020);
        assert_eq!(word(&data, 217), 1);
        assert_eq!(&data[20..28], b"OA-E0010", "text is swapped within its words");
        assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn round_trip() {
        assert_eq!(Identify::parse(&full().emit()), Ok(full()));
    }

    #[test]
    fn a_cache_is_named_only_by_who_promises_the_rest() {
        let mut data = full().emit();
        data[2 * VENDOR_PROMISES_WORD] = PROMISE_CACHE_MEMORY as u8;
        data[511] = data[511].wrapping_add(PROMISE_EXACTLY_ONCE as u8);
        let identify = Identify::parse(&data).unwrap();
        assert_eq!((identify.exactly_once, identify.cache_memory), (false, None));
    }

    #[test]
    fn vblade_minimum() {
        let mut data = [0; 512];
        for (at, value) in [
            (47, 0x8000u16),
            (49, 0x0200),
            (50, 0x4000),
            (83, 0x5400),
            (84, 0x4000),
            (86, 0x1400),
            (87, 0x4000),
            (93, 0x400b),
            (60, 2048),
            (100, 2048),
        ] {
            data[2 * at..2 * at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let identify = Identify::parse(&data).unwrap();
        assert_eq!(
            identify,
            Identify { sectors: 2048, flush: true, ..Identify::default() },
            "no FLUSH EXT, no FUA, no TRIM: vblade cannot make anything durable"
        );
    }

    #[test]
    fn lba28_only() {
        let identify = Identify { lba48: false, sectors: 4096, ..Identify::default() };
        let parsed = Identify::parse(&identify.emit()).unwrap();
        assert_eq!((parsed.sectors, parsed.lba48), (4096, false));
        // Whatever it claims: 28-bit commands reach no further.
        let mut data = identify.emit();
        data[120..124].fill(0xff);
        data[510] = 0;
        assert_eq!(Identify::parse(&data).unwrap().sectors, LBA28_SECTORS_MAX);
    }

    #[test]
    fn damaged_data() {
        let mut data = full().emit();
        data[40] ^= 1;
        assert_eq!(Identify::parse(&data), Err(IdentifyError::Checksum));
        assert_eq!(Identify::parse(&data[..511]), Err(IdentifyError::Short));
        assert_eq!(Identify::parse(&[0; 512]), Err(IdentifyError::Capacity));
        assert_eq!(Identify::parse(&[0xff; 512]), Err(IdentifyError::Capacity));
    }

    proptest! {
        #[test]
        fn any_512_bytes_parse_without_panic(bytes in proptest::collection::vec(any::<u8>(), 512)) {
            let _ = Identify::parse(&bytes);
        }
    }
}
