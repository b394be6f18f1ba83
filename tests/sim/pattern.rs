//! Sector contents that tell who wrote them, and whether all of a sector comes from one write.

use aoe_common::frame::SECTOR;

/// A write, by number; 0 is a sector of zeros.
pub type Stamp = u64;

/// Stands for bytes that are no pattern.
const GARBAGE: u64 = u64::MAX;

/// Fills one sector with a write's stamp. Every 8 bytes carry the stamp mixed with the sector's number, so that
/// a sector that ends up elsewhere is noticed too.
pub fn fill(sector: &mut [u8], stamp: Stamp, lba: u64) {
    repeat(if stamp == 0 { 0 } else { stamp << 20 | lba }, sector);
}

/// Fills bytes with one word.
pub fn repeat(word: u64, out: &mut [u8]) {
    for bytes in out.as_chunks_mut::<8>().0 {
        *bytes = word.to_le_bytes();
    }
}

/// The word that bytes consist of.
pub fn word(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0;
    if words.iter().all(|other| *other == words[0]) { u64::from_le_bytes(words[0]) } else { GARBAGE }
}

/// The write a word belongs to.
pub fn stamp(word: u64) -> Stamp {
    word >> 20
}

/// Which write a sector's contents come from. `Err` when they come from several, or from another sector.
pub fn read(sector: &[u8], lba: u64) -> Result<Stamp, String> {
    assert_eq!(sector.len(), SECTOR, "patterns fill sectors");
    let words = sector.as_chunks::<8>().0;
    let word = u64::from_le_bytes(words[0]);
    if let Some(torn) = words.iter().position(|other| *other != words[0]) {
        let other = stamp(u64::from_le_bytes(words[torn]));
        return Err(format!("sector {lba} is torn: write {} up to byte {}, then write {other}", stamp(word), torn * 8));
    }
    if word != 0 && word & 0xf_ffff != lba {
        return Err(format!("sector {lba} holds what was written to sector {}", word & 0xf_ffff));
    }
    Ok(stamp(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_come_back_and_damage_is_seen() {
        let mut sector = [0; SECTOR];
        assert_eq!(read(&sector, 5), Ok(0));
        fill(&mut sector, 77, 5);
        assert_eq!(read(&sector, 5), Ok(77));
        assert_eq!(stamp(word(&sector)), 77);
        assert!(read(&sector, 6).unwrap_err().contains("written to sector 5"));
        fill(&mut sector[256..], 78, 5);
        assert!(read(&sector, 5).unwrap_err().contains("torn"));
        assert_eq!(word(&sector), GARBAGE);
    }
}
