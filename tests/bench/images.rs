//! The disks that are served: files of random bytes on a real filesystem.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statfs::{self, TMPFS_MAGIC, statfs};
use tempfile::TempDir;

/// Bytes of all disks of a set together: more than a processor's caches hold, and little enough for any page cache.
pub const SET_BYTES: u64 = 256 << 20;

/// Bytes written at a time.
const PAGE: usize = 4096;

/// Bytes read at a time to bring a file into the page cache.
const CHUNK: usize = 1 << 20;

/// The folder with all disks; it goes with this value.
pub struct Images {
    folder: TempDir,
}

/// Whether the page cache of the server's host is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// The file is in the page cache.
    Cached,
    /// It is gone around (O_DIRECT).
    Direct,
}

impl Images {
    /// Makes the folder, where TMPDIR says.
    pub fn new() -> Result<Images> {
        let folder = tempfile::Builder::new().prefix("aoe-bench-").tempdir().context("a temporary folder")?;
        let kind = statfs(folder.path()).context("the filesystem of the temporary folder")?.filesystem_type();
        ensure!(kind != TMPFS_MAGIC, "the temporary folder is in memory; set TMPDIR to a folder on a disk");
        Ok(Images { folder })
    }

    /// What kind of filesystem the disks are on.
    pub fn filesystem(&self) -> String {
        match statfs(self.folder.path()).map(|found| found.filesystem_type()) {
            Ok(statfs::EXT4_SUPER_MAGIC) => "ext4".to_owned(),
            Ok(statfs::XFS_SUPER_MAGIC) => "xfs".to_owned(),
            Ok(statfs::BTRFS_SUPER_MAGIC) => "btrfs".to_owned(),
            Ok(statfs::OVERLAYFS_SUPER_MAGIC) => "overlayfs".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// The files of a set of so many disks, which are made at the first call. Those that are used without the page cache
    /// are not those that are used with it: a direct write would throw the file out of it.
    pub fn set(&self, disks: u32, caching: Caching) -> Vec<PathBuf> {
        let folder = self.folder.path().join(format!("{caching:?}-{disks}"));
        let files: Vec<_> = (0..disks).map(|number| folder.join(format!("{number}.img"))).collect();
        if !folder.exists() {
            fs::create_dir(&folder).expect("a folder in a folder of ours");
            for (file, seed) in files.iter().zip(0..) {
                fill(file, SET_BYTES / u64::from(disks), seed).expect("space for the disks");
            }
            // What the kernel still had to write would disturb what is measured.
            settle(&files);
            if caching == Caching::Direct {
                files.iter().for_each(|file| leave_cache(file));
            }
        }
        files
    }
}

/// Waits until what was written to the files is on the disk.
pub fn settle(files: &[PathBuf]) {
    for file in files {
        File::open(file).and_then(|file| file.sync_all()).expect("a disk that works");
    }
}

/// Brings files into the page cache. With `dirty` every page is marked as written: the first write of a clean page costs
/// several times as much as those after it, and how many of a run were first ones would depend on its length.
pub fn warm(files: &[PathBuf], dirty: bool) {
    let mut chunk = vec![0; CHUNK];
    for path in files {
        let file = OpenOptions::new().read(true).write(dirty).open(path).expect("a file of ours");
        let mut place = 0;
        loop {
            let length = file.read_at(&mut chunk, place).expect("a disk that works");
            if length == 0 {
                break;
            }
            if dirty {
                file.write_all_at(&chunk[..length], place).expect("a disk that works");
            }
            place += length as u64;
        }
    }
}

/// Writes random bytes, in pieces of a page. What is written in large pieces ext4 keeps in large folios, and a later small
/// write looks at every block of its folio: that would cost many times as much as what is to be measured.
fn fill(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    let (mut file, mut rng, mut page) = (File::create(path)?, Rng::with_seed(seed), [0; PAGE]);
    for _ in 0..bytes / PAGE as u64 {
        rng.fill(&mut page);
        file.write_all(&page)?;
    }
    Ok(())
}

fn leave_cache(file: &Path) {
    let file = File::open(file).expect("a file of ours");
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice on a file");
}
