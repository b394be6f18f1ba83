//! Who a run of a program is on the wire: drawn anew for each.

use std::fs::File;
use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::tag_start;

/// What targets of ours know this run by.
pub fn identity() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The first tag of a run that begins now, see [`tag_start`].
pub fn first_tag() -> u32 {
    tag_start(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_are_two() {
        assert_ne!(identity().unwrap(), identity().unwrap());
        let first = first_tag();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_ne!(first, first_tag());
    }
}
