//! Disk images for the namespace tests: reproducible content, and comparisons that say where two images differ.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::net::tool;

/// Bytes compared or written at a time.
const CHUNK: usize = 1 << 20;

/// Writes a file of `bytes` bytes that has no repeating block, the same for the same `seed`.
pub fn random_file(path: &Path, bytes: u64, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut chunk = vec![0; CHUNK];
    rng.fill(&mut chunk);
    let mut file = BufWriter::new(File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    let mut left = bytes;
    while left > 0 {
        // A fresh number in each 512-byte sector makes all sectors differ at little cost, so a misplaced one is seen.
        for sector in chunk.chunks_exact_mut(512) {
            sector[..8].copy_from_slice(&rng.u64(..).to_le_bytes());
        }
        let now = left.min(CHUNK as u64) as usize;
        file.write_all(&chunk[..now]).expect("disk space for a test image");
        left -= now as u64;
    }
    file.flush().expect("disk space for a test image");
}

/// Makes an ext4 image of `mebibytes` MiB holding a few random files, a quarter of its size together.
pub fn ext4_image(path: &Path, mebibytes: u64, seed: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file_bytes = (mebibytes << 20) / 16;
    for number in 0..4 {
        random_file(&folder.path().join(format!("file{number}")), file_bytes + number * 13, seed + number);
    }
    let output = tool("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(folder.path())
        .arg(path)
        .arg(format!("{mebibytes}M"))
        .output()
        .expect("mke2fs");
    assert!(output.status.success(), "mke2fs: {}", String::from_utf8_lossy(&output.stderr));
}

/// Panics unless the ext4 filesystem in the image is clean.
pub fn assert_clean_ext4(path: &Path) {
    let output = tool("e2fsck").args(["-f", "-n"]).arg(path).output().expect("e2fsck");
    assert!(output.status.success(), "{} is not clean:\n{}", path.display(), String::from_utf8_lossy(&output.stdout));
}

/// Panics with the first differing sector unless both files hold the same bytes.
pub fn assert_same(left: &Path, right: &Path) {
    let open = |path: &Path| File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (left_file, right_file) = (open(left), open(right));
    let lengths = [&left_file, &right_file].map(|file| file.metadata().expect("metadata of an open file").len());
    assert_eq!(lengths[0], lengths[1], "lengths of {} and {} in bytes", left.display(), right.display());
    let (mut left_file, mut right_file) = (BufReader::new(left_file), BufReader::new(right_file));
    let (mut left_chunk, mut right_chunk) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut offset = 0;
    while offset < lengths[0] {
        let now = (lengths[0] - offset).min(CHUNK as u64) as usize;
        left_file.read_exact(&mut left_chunk[..now]).expect("reading a test image");
        right_file.read_exact(&mut right_chunk[..now]).expect("reading a test image");
        if left_chunk[..now] != right_chunk[..now] {
            let at = (0..now).find(|&i| left_chunk[i] != right_chunk[i]).expect("the chunks differ");
            let sector = (offset + at as u64) / 512;
            panic!("{} and {} differ, first in sector {sector}", left.display(), right.display());
        }
        offset += now as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_content_and_no_two_sectors_alike() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, other] = ["one", "two", "other"].map(|name| folder.path().join(name));
        random_file(&one, 3 * CHUNK as u64 + 512, 7);
        random_file(&two, 3 * CHUNK as u64 + 512, 7);
        random_file(&other, 3 * CHUNK as u64 + 512, 8);
        assert_same(&one, &two);
        assert_ne!(std::fs::read(&one).unwrap(), std::fs::read(&other).unwrap());
        let content = std::fs::read(&one).unwrap();
        let mut sectors: Vec<&[u8]> = content.chunks(512).collect();
        sectors.sort();
        sectors.dedup();
        assert_eq!(sectors.len() * 512, content.len());
    }

    #[test]
    #[should_panic(expected = "first in sector 2049")]
    fn a_difference_is_found_and_located() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        random_file(&one, 2 * CHUNK as u64, 1);
        let mut content = std::fs::read(&one).unwrap();
        content[2049 * 512 + 511] ^= 1;
        std::fs::write(&two, content).unwrap();
        assert_same(&one, &two);
    }
}
