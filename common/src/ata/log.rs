//! Pages of READ LOG EXT: the log directory and the IDENTIFY DEVICE data log.
//!
//! The logs exist to say what IDENTIFY itself has no bit for: that ZERO EXT is supported. One more log is
//! written by initiators: ATA leaves 80h-9Fh to hosts, and in 90h a host says who it is, so that a target knows
//! it again under another MAC address.

use super::Identify;

/// Log address of the directory.
pub const LOG_DIRECTORY: u8 = 0x00;
/// Log address of the IDENTIFY DEVICE data log.
pub const LOG_IDENTIFY_DEVICE_DATA: u8 = 0x30;

/// Log address of the station's identity: 16 bytes, then zeros. See `WRITE LOG EXT`.
pub const LOG_STATION_IDENTITY: u8 = 0x90;

const PAGE_LIST: u8 = 0x00;
const PAGE_COPY: u8 = 0x01;
const PAGE_SUPPORTED_CAPABILITIES: u8 = 0x03;

const VALID: u64 = 1 << 63;
const ZERO_EXT_SUPPORTED: u64 = 1 << 48;

/// The 512 bytes of page `page` of the log `log`; `None` when there is no such log or page.
pub fn log_page(log: u8, page: u16, identify: &Identify) -> Option<[u8; 512]> {
    let mut out = [0; 512];
    match (log, u8::try_from(page).ok()?) {
        (LOG_DIRECTORY, 0) => {
            out[0..2].copy_from_slice(&1u16.to_le_bytes());
            // Pages in the log, at the word with the log's address.
            let at = usize::from(LOG_IDENTIFY_DEVICE_DATA) * 2;
            out[at..at + 2].copy_from_slice(&4u16.to_le_bytes());
            let at = usize::from(LOG_STATION_IDENTITY) * 2;
            out[at..at + 2].copy_from_slice(&1u16.to_le_bytes());
        }
        (LOG_IDENTIFY_DEVICE_DATA, page @ PAGE_LIST) => {
            out[0..8].copy_from_slice(&page_header(page).to_le_bytes());
            let pages = [PAGE_LIST, PAGE_COPY, PAGE_SUPPORTED_CAPABILITIES];
            out[8] = pages.len() as u8;
            out[9..9 + pages.len()].copy_from_slice(&pages);
        }
        (LOG_IDENTIFY_DEVICE_DATA, PAGE_COPY) => out = identify.emit(),
        (LOG_IDENTIFY_DEVICE_DATA, page @ PAGE_SUPPORTED_CAPABILITIES) => {
            out[0..8].copy_from_slice(&page_header(page).to_le_bytes());
            let zero_ext = if identify.read_only { 0 } else { ZERO_EXT_SUPPORTED };
            out[8..16].copy_from_slice(&(VALID | zero_ext).to_le_bytes());
        }
        _ => return None,
    }
    Some(out)
}

/// Valid bit, page number in bits 16-23, revision 1.
fn page_header(page: u8) -> u64 {
    VALID | u64::from(page) << 16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_the_identify_log() {
        let page = log_page(LOG_DIRECTORY, 0, &Identify::default()).unwrap();
        assert_eq!(page[..4], [1, 0, 0, 0]);
        assert_eq!(page[0x60..0x62], [4, 0]);
        assert_eq!(page[0x120..0x122], [1, 0]);
    }

    #[test]
    fn zero_ext_is_bit_48_of_page_3() {
        let page = log_page(LOG_IDENTIFY_DEVICE_DATA, 3, &Identify::default()).unwrap();
        assert_eq!(page[..16], [1, 0, 3, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 1, 0x80]);
        assert!(page[16..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_copy_is_identify_itself() {
        let identify = Identify { sectors: 77, ..Identify::default() };
        assert_eq!(log_page(LOG_IDENTIFY_DEVICE_DATA, 1, &identify), Some(identify.emit()));
    }

    #[test]
    fn what_is_not_there() {
        for (log, page) in [(0x00, 1), (0x30, 2), (0x30, 4), (0x30, 0x103), (0x10, 0)] {
            assert_eq!(log_page(log, page, &Identify::default()), None);
        }
    }
}
