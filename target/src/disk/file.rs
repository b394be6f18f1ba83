//! One exported file or block device: opening it safely and the facts an export needs of it.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aoe_common::frame::{FrameBuffer, SECTOR};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use nix::unistd::{AccessFlags, access};

use super::job::MEMORY_ALIGNMENT;
use super::probe::{self, DirectAlignment};
use crate::engine::operation::DiskError;

/// Tries to get the file's lock, and the pause between them. udev locks a device while it looks at it, and does so
/// right after somebody who could write to it has closed it.
const LOCK_ATTEMPTS: u32 = 8;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What to open and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// A regular file or block device.
    pub path: PathBuf,
    /// Take no writes.
    pub read_only: bool,
    /// Bypass the page cache (O_DIRECT).
    pub direct: bool,
    /// Sectors of the file to leave out at its start.
    pub offset_sectors: u64,
    /// Sectors to export; `None`: up to the end of the file, wherever that moves.
    pub length_sectors: Option<u64>,
}

/// Why a file cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct OpenError {
    /// The file asked for.
    pub path: PathBuf,
    /// What is wrong with it and what to do.
    pub problem: OpenProblem,
}

/// What is wrong with a file that cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OpenProblem {
    /// Nothing there.
    #[error("no such file; check the path, or create a disk image there with `truncate -s 10G`")]
    Missing,
    /// A directory.
    #[error("is a directory; name a file or a block device")]
    Directory,
    /// Something that holds no blocks.
    #[error("is a {0}; only regular files and block devices can be exported")]
    NotBlocks(&'static str),
    /// Nothing to export.
    #[error("holds {0} bytes, less than one sector of 512; make it larger with `truncate -s 10G`")]
    Empty(u64),
    /// No permission to read.
    #[error("permission denied; allow this user to read it (block devices: group `disk`)")]
    Unreadable,
    /// Readable, but not writable.
    #[error("cannot be written by this user; make it writable or export it `read-only`")]
    NotWritable,
    /// The range asked for is not in the file.
    #[error("offset {offset} + length {length} sectors is outside of its {sectors} sectors; choose a range inside")]
    OutsideRange {
        /// Sectors left out at the start.
        offset: u64,
        /// Sectors asked for, at least 1.
        length: u64,
        /// Whole sectors the file has.
        sectors: u64,
    },
    /// No O_DIRECT here.
    #[error("its file system does not support direct I/O; leave out `direct`")]
    DirectUnsupported,
    /// O_DIRECT in blocks larger than a sector.
    #[error("direct I/O works in blocks of {0} bytes here, but `direct` needs 512; leave it out (buffered)")]
    DirectTooCoarse(u32),
    /// Somebody holds the lock.
    #[error("another process (or another export) is using it; stop that, or export it `read-only` in both")]
    Locked,
    /// The kernel itself holds the device.
    #[error("the device is mounted or part of a volume, or another process holds it; free it or export it `read-only`")]
    InUse,
    /// Anything else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Tells whether two paths are the same file or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileIdentity {
    /// A regular file.
    File {
        /// The file system's device number.
        device: u64,
        /// The file's number there.
        inode: u64,
    },
    /// A block device.
    Device(
        /// Its device number.
        u64,
    ),
}

impl FileIdentity {
    /// What is at this path now.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::File { device: metadata.dev(), inode: metadata.ino() }
        }
    }
}

/// An open, locked file or block device and the range of it that is exported.
///
/// One opened for writing is locked (flock) against every other such opening, one opened read-only against those
/// for writing.
#[derive(Debug)]
pub struct DiskFile {
    file: Flock<File>,
    /// The same file, opened once more for [`Self::check`]. Only for one opened for writing.
    witness: Option<File>,
    options: DiskOptions,
    identity: FileIdentity,
    size: u64,
    tail: u64,
    physical_sector: u32,
    rotational: Option<bool>,
    can_unmap: bool,
    bounce: bool,
    is_local: bool,
    deleted: bool,
}

impl DiskFile {
    /// Opens and examines a file.
    pub fn open(options: &DiskOptions) -> Result<Self, OpenError> {
        Self::open_any(options).map_err(|problem| OpenError { path: options.path.clone(), problem })
    }

    fn open_any(options: &DiskOptions) -> Result<Self, OpenProblem> {
        // Looked at before it is opened: opening a fifo would wait for its other end, and opening a tape or a
        // terminal does things to it.
        let kind = std::fs::metadata(&options.path).map_err(problem_of)?.file_type();
        refuse_unfit(kind)?;
        let file = lock(open_raw(options, kind)?, options.read_only)?;
        let metadata = file.metadata()?;
        if metadata.file_type() != kind {
            return Err(io::Error::other("was replaced while being opened; try again").into());
        }

        let total = (&*file).seek(SeekFrom::End(0))?;
        let sectors = total / SECTOR as u64;
        if sectors == 0 {
            return Err(OpenProblem::Empty(total));
        }
        let (offset, length) = (options.offset_sectors, options.length_sectors.unwrap_or(1));
        if length == 0 || offset.checked_add(length).is_none_or(|end| end > sectors) {
            return Err(OpenProblem::OutsideRange { offset, length, sectors });
        }

        let is_local = kind.is_block_device() || is_local(&file);
        let witness = (!options.read_only).then(|| open_again(&file)).transpose()?;
        let bounce = options.direct && direct_needs_bounce(&file, kind)?;
        let identity = FileIdentity::from(&metadata);
        let mut disk = Self {
            physical_sector: physical_sector(&file, &metadata),
            rotational: queue_attribute(&metadata, "rotational").map(|value| value != 0),
            can_unmap: !options.read_only && can_unmap(&file, &metadata, total),
            file,
            witness,
            options: options.clone(),
            identity,
            size: 0,
            tail: 0,
            bounce,
            is_local,
            deleted: false,
        };
        disk.set_size(total);
        Ok(disk)
    }

    /// Whether the kernel has lost data of the file since this was last asked. Does no I/O.
    ///
    /// The kernel tells each opening of a file once of a failed write-back. When syncs run at the same time, one of
    /// them hears of it, and the others succeed though it is their data that is gone. This opening is used by nothing
    /// else, so it hears of each, and is never late: an error is known here before any sync can have missed it.
    pub fn check(&self) -> Result<(), DiskError> {
        let Some(witness) = &self.witness else { return Ok(()) };
        probe::writeback_error(witness).map_err(|errno| DiskError::Lost(errno as i32))
    }

    /// Reads the file's size again. True when that changed the size of the export.
    ///
    /// An export of fixed length shrinks with its file and grows back up to that length.
    pub fn refresh_size(&mut self) -> io::Result<bool> {
        let before = self.size;
        let total = (&*self.file).seek(SeekFrom::End(0))?;
        self.set_size(total);
        Ok(self.size != before)
    }

    /// Exports this many 512-byte sectors of the file from now on, or all of them. [`Self::refresh_size`] makes it so.
    pub fn set_length(&mut self, length: Option<u64>) -> Result<(), OpenProblem> {
        let total = (&*self.file).seek(SeekFrom::End(0))?;
        let (offset, sectors) = (self.options.offset_sectors, total / SECTOR as u64);
        if let Some(length) = length
            && (length == 0 || offset.checked_add(length).is_none_or(|end| end > sectors))
        {
            return Err(OpenProblem::OutsideRange { offset, length, sectors });
        }
        self.options.length_sectors = length;
        Ok(())
    }

    /// Whether the last name of the file was taken away since this was last asked: its content is gone when it is
    /// closed. A device stays.
    pub fn is_deleted_now(&mut self) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        let deleted = metadata.is_file() && metadata.nlink() == 0;
        Ok(deleted && !std::mem::replace(&mut self.deleted, deleted))
    }

    /// A path by which the file can still be read once it is deleted.
    pub fn open_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    fn set_size(&mut self, total: u64) {
        let after_start = total.saturating_sub(self.start());
        (self.size, self.tail) = match self.options.length_sectors {
            Some(length) => (after_start.min(length.saturating_mul(SECTOR as u64)), 0),
            None => (after_start, after_start % SECTOR as u64),
        };
        self.size -= self.size % SECTOR as u64;
    }

    /// Bytes exported; whole sectors.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Bytes at the end of the file that are not exported because they do not fill a sector.
    pub fn tail_bytes(&self) -> u64 {
        self.tail
    }

    /// The unit, in bytes, in which the file or device is best written.
    pub fn physical_sector(&self) -> u32 {
        self.physical_sector
    }

    /// Whether the disk below spins, if that is known.
    pub fn rotational(&self) -> Option<bool> {
        self.rotational
    }

    /// Whether zeroed space can be given back.
    pub fn can_unmap(&self) -> bool {
        self.can_unmap
    }

    /// Whether it was opened for reading only.
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// Which file this is, by whatever path.
    pub fn id(&self) -> FileIdentity {
        self.identity
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes from the start of the file to the start of the export.
    pub(super) fn start(&self) -> u64 {
        // It was inside the file when that was opened, so it does not overflow.
        self.options.offset_sectors * SECTOR as u64
    }

    /// Whether it goes around the page cache.
    pub fn is_direct(&self) -> bool {
        self.options.direct
    }

    /// Whether the kernel alone takes a buffered write, without a network or another process that may not answer.
    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// Acts as if the device wanted page-aligned memory.
    #[cfg(test)]
    pub(super) fn bounce_from_now_on(&mut self) {
        self.bounce = true;
    }

    /// Whether the device wants memory more aligned than a frame buffer is.
    pub(super) fn needs_bounce(&self) -> bool {
        self.bounce
    }
}

/// Looks at what [`DiskFile::open`] would open, and tells how many bytes it would export. Takes no lock, so that it does not
/// disturb who serves it, and opens it for reading only.
pub fn examine(options: &DiskOptions) -> Result<u64, OpenError> {
    examine_any(options).map_err(|problem| OpenError { path: options.path.clone(), problem })
}

fn examine_any(options: &DiskOptions) -> Result<u64, OpenProblem> {
    let kind = std::fs::metadata(&options.path).map_err(problem_of)?.file_type();
    refuse_unfit(kind)?;
    let mut file = open_raw(&DiskOptions { read_only: true, ..options.clone() }, kind)?;
    let total = file.seek(SeekFrom::End(0))?;
    let sectors = total / SECTOR as u64;
    if sectors == 0 {
        return Err(OpenProblem::Empty(total));
    }
    let (offset, length) = (options.offset_sectors, options.length_sectors.unwrap_or(1));
    if length == 0 || offset.checked_add(length).is_none_or(|end| end > sectors) {
        return Err(OpenProblem::OutsideRange { offset, length, sectors });
    }
    if options.direct {
        direct_needs_bounce(&file, kind)?;
    }
    if !options.read_only && access(&options.path, AccessFlags::W_OK).is_err() {
        return Err(OpenProblem::NotWritable);
    }
    Ok(options.length_sectors.unwrap_or(sectors - offset) * SECTOR as u64)
}

/// What an error of the path itself means.
fn problem_of(error: io::Error) -> OpenProblem {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OpenProblem::Missing,
        io::ErrorKind::PermissionDenied => OpenProblem::Unreadable,
        _ => OpenProblem::Io(error),
    }
}

fn refuse_unfit(kind: FileType) -> Result<(), OpenProblem> {
    match kind {
        _ if kind.is_file() || kind.is_block_device() => Ok(()),
        _ if kind.is_dir() => Err(OpenProblem::Directory),
        _ if kind.is_fifo() => Err(OpenProblem::NotBlocks("fifo")),
        _ if kind.is_socket() => Err(OpenProblem::NotBlocks("socket")),
        _ if kind.is_char_device() => Err(OpenProblem::NotBlocks("character device")),
        _ => Err(OpenProblem::NotBlocks("special file")),
    }
}

fn open_raw(options: &DiskOptions, kind: FileType) -> Result<File, OpenProblem> {
    let mut flags = if options.direct { libc::O_DIRECT } else { 0 };
    // On a block device this refuses what is mounted or otherwise claimed.
    if kind.is_block_device() && !options.read_only {
        flags |= libc::O_EXCL;
    }
    let open = |write: bool| OpenOptions::new().read(true).write(write).custom_flags(flags).open(&options.path);
    let error = match open(!options.read_only) {
        Ok(file) => return Ok(file),
        Err(error) => error,
    };
    Err(match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if !options.read_only && open(false).is_ok() => {
            OpenProblem::NotWritable
        }
        Some(libc::EINVAL) if options.direct => OpenProblem::DirectUnsupported,
        Some(libc::EBUSY) => OpenProblem::InUse,
        _ => problem_of(error),
    })
}

/// Whether the file is on one of the file systems that are known to be in the kernel altogether.
fn is_local(file: &File) -> bool {
    let known = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, OVERLAYFS_SUPER_MAGIC];
    fstatfs(file).is_ok_and(|answer| known.contains(&answer.filesystem_type()))
}

/// Opens an open file once more, for reading. Its path may lead elsewhere by now.
fn open_again(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn lock(mut file: File, read_only: bool) -> Result<Flock<File>, OpenProblem> {
    let how = if read_only { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
    for _ in 0..LOCK_ATTEMPTS {
        file = match Flock::lock(file, how) {
            Ok(locked) => return Ok(locked),
            Err((file, Errno::EAGAIN)) => file,
            Err((_, errno)) => return Err(io::Error::from(errno).into()),
        };
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(OpenProblem::Locked)
}

/// Whether direct I/O takes memory aligned to more than a frame buffer's payload is. An error when it takes no
/// single sectors.
fn direct_needs_bounce(file: &File, kind: FileType) -> Result<bool, OpenProblem> {
    let alignment = match probe::direct_alignment(file) {
        Some(alignment) => alignment,
        None if kind.is_block_device() => {
            let bytes = probe::logical_sector(file).map_err(io::Error::from)?;
            DirectAlignment { memory: bytes, offset: bytes }
        }
        None => {
            return match file.read_at(FrameBuffer::new(1).payload_mut(SECTOR), 0) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(OpenProblem::DirectUnsupported),
                _ => Ok(false),
            };
        }
    };
    fit_direct(alignment)
}

fn fit_direct(alignment: DirectAlignment) -> Result<bool, OpenProblem> {
    let DirectAlignment { memory, offset } = alignment;
    if offset == 0 || memory as usize > MEMORY_ALIGNMENT {
        return Err(OpenProblem::DirectUnsupported);
    }
    if offset as usize > SECTOR {
        return Err(OpenProblem::DirectTooCoarse(offset));
    }
    Ok(memory as usize > SECTOR)
}

fn physical_sector(file: &File, metadata: &Metadata) -> u32 {
    let bytes = if metadata.file_type().is_block_device() {
        probe::physical_sector(file).unwrap_or(SECTOR as u32)
    } else {
        u32::try_from(metadata.blksize()).unwrap_or(u32::MAX).min(4096)
    };
    if bytes.is_power_of_two() { bytes.max(SECTOR as u32) } else { SECTOR as u32 }
}

/// A number from the request queue of the device, or of the device that holds the file. A partition has no queue of
/// its own but its disk's.
fn queue_attribute(metadata: &Metadata, name: &str) -> Option<u64> {
    let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let directory = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{directory}/{queue}/{name}")).ok()?.trim().parse().ok())
}

fn can_unmap(file: &File, metadata: &Metadata, size: u64) -> bool {
    if metadata.file_type().is_block_device() {
        return queue_attribute(metadata, "discard_max_bytes").is_some_and(|bytes| bytes > 0);
    }
    // Behind the end of the file there is nothing to lose.
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let behind = size.next_multiple_of(4096);
    i64::try_from(behind).is_ok_and(|behind| fallocate(file, punch, behind, 4096).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use nix::unistd::{Uid, mkfifo, setfsuid};

    use super::*;

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            Self(tempfile::tempdir_in("/var/tmp").unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, bytes: u64) -> PathBuf {
            let path = self.path(name);
            File::create(&path).unwrap().set_len(bytes).unwrap();
            path
        }
    }

    fn options(path: PathBuf) -> DiskOptions {
        DiskOptions { path, ..DiskOptions::default() }
    }

    /// The text behind the path of the error of opening.
    fn refusal(options: &DiskOptions) -> String {
        let text = DiskFile::open(options).expect_err("it opened").to_string();
        assert!(!text.contains('\n'));
        text.strip_prefix(&format!("{}: ", options.path.display())).unwrap().to_owned()
    }

    #[test]
    fn a_file_is_exported_in_whole_sectors() {
        let scratch = Scratch::new();
        let path = scratch.file("disk", 10 * 512 + 100);
        let disk = DiskFile::open(&options(path.clone())).unwrap();
        assert_eq!((disk.size_bytes(), disk.tail_bytes()), (5120, 100));
        assert_eq!(disk.physical_sector(), 4096);
        assert!(disk.can_unmap() && !disk.read_only());
        assert_eq!(disk.path(), path);
        drop(disk);

        let range = DiskOptions { offset_sectors: 4, length_sectors: Some(3), ..options(path.clone()) };
        let disk = DiskFile::open(&range).unwrap();
        assert_eq!((disk.size_bytes(), disk.tail_bytes(), disk.start()), (3 * 512, 0, 4 * 512));
        drop(disk);

        let rest = DiskOptions { offset_sectors: 4, read_only: true, ..options(path) };
        let disk = DiskFile::open(&rest).unwrap();
        assert_eq!((disk.size_bytes(), disk.tail_bytes()), (6 * 512, 100));
        assert!(!disk.can_unmap() && disk.read_only());
    }

    #[test]
    fn the_size_follows_the_file() {
        let scratch = Scratch::new();
        let path = scratch.file("disk", 100 * 512);
        let resize = |bytes| File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        let range = DiskOptions { offset_sectors: 10, length_sectors: Some(50), ..options(path.clone()) };
        let mut disk = DiskFile::open(&range).unwrap();
        assert!(!disk.refresh_size().unwrap());
        for (bytes, size) in [(20 * 512 + 7, 10 * 512), (512, 0), (200 * 512, 50 * 512)] {
            resize(bytes);
            assert!(disk.refresh_size().unwrap());
            assert_eq!((disk.size_bytes(), disk.tail_bytes()), (size, 0));
        }
        drop(disk);
        let mut disk = DiskFile::open(&options(path.clone())).unwrap();
        resize(300 * 512 + 9);
        assert!(disk.refresh_size().unwrap());
        assert_eq!((disk.size_bytes(), disk.tail_bytes()), (300 * 512, 9));
    }

    #[test]
    fn a_file_that_loses_its_last_name_is_deleted_and_can_still_be_read() {
        let scratch = Scratch::new();
        let [path, other] = ["disk.img", "other.img"].map(|name| scratch.path(name));
        scratch.file("disk.img", 4096);
        std::fs::hard_link(&path, &other).unwrap();
        let mut disk = DiskFile::open(&options(path.clone())).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!disk.is_deleted_now().unwrap(), "it has another name");
        std::fs::remove_file(&other).unwrap();
        assert!(disk.is_deleted_now().unwrap());
        assert!(!disk.is_deleted_now().unwrap(), "told once");
        assert_eq!(std::fs::read(disk.open_path()).unwrap(), [0; 4096]);
    }

    #[test]
    fn what_cannot_be_exported_says_what_to_do() {
        let scratch = Scratch::new();
        let refused = |path| refusal(&options(path));
        assert_eq!(
            refused(scratch.path("nothing")),
            "no such file; check the path, or create a disk image there with `truncate -s 10G`"
        );
        assert!(refused(scratch.file("file", 512).join("below")).starts_with("no such file"));
        assert_eq!(refused(scratch.path("")), "is a directory; name a file or a block device");
        mkfifo(&scratch.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refused(scratch.path("fifo")), "is a fifo; only regular files and block devices can be exported");
        let _listener = UnixListener::bind(scratch.path("socket")).unwrap();
        assert!(refused(scratch.path("socket")).starts_with("is a socket;"));
        assert!(refused(PathBuf::from("/dev/null")).starts_with("is a character device;"));
        for bytes in [0, 511] {
            assert_eq!(
                refused(scratch.file("small", bytes)),
                format!("holds {bytes} bytes, less than one sector of 512; make it larger with `truncate -s 10G`")
            );
        }
    }

    #[test]
    fn a_range_outside_the_file_is_refused_with_its_numbers() {
        let scratch = Scratch::new();
        let path = scratch.file("disk", 100 * 512);
        for (offset_sectors, length_sectors, numbers) in [
            (100, None, "offset 100 + length 1 sectors is outside of its 100 sectors"),
            (90, Some(11), "offset 90 + length 11 sectors is outside of its 100 sectors"),
            (0, Some(0), "offset 0 + length 0 sectors is outside of its 100 sectors"),
            (u64::MAX, Some(2), "offset 18446744073709551615 + length 2 sectors is outside of its 100 sectors"),
        ] {
            let range = DiskOptions { offset_sectors, length_sectors, ..options(path.clone()) };
            assert_eq!(refusal(&range), format!("{numbers}; choose a range inside"));
        }
    }

    #[test]
    fn permissions_are_told_apart() {
        let scratch = Scratch::new();
        std::fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        let readable = scratch.file("readable", 512);
        std::fs::set_permissions(&readable, PermissionsExt::from_mode(0o444)).unwrap();
        let secret = scratch.file("secret", 512);
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
        // A thread whose file accesses are nobody's; root may do anything.
        let nobody = move || {
            setfsuid(Uid::from_raw(65534));
            assert_eq!(
                refusal(&options(readable.clone())),
                "cannot be written by this user; make it writable or export it `read-only`"
            );
            assert!(DiskFile::open(&DiskOptions { read_only: true, ..options(readable) }).is_ok());
            let unreadable = "permission denied; allow this user to read it (block devices: group `disk`)";
            assert_eq!(refusal(&options(secret.clone())), unreadable);
            assert_eq!(refusal(&DiskOptions { read_only: true, ..options(secret) }), unreadable);
        };
        std::thread::spawn(nobody).join().unwrap();
    }

    #[test]
    fn a_writer_excludes_others_and_readers_share() {
        let scratch = Scratch::new();
        let writable = options(scratch.file("disk", 512));
        let read_only = DiskOptions { read_only: true, ..writable.clone() };
        let locked = "another process (or another export) is using it; stop that, or export it `read-only` in both";
        let writer = DiskFile::open(&writable).unwrap();
        assert_eq!(refusal(&writable), locked);
        assert_eq!(refusal(&read_only), locked);
        drop(writer);
        let readers = [DiskFile::open(&read_only).unwrap(), DiskFile::open(&read_only).unwrap()];
        assert_eq!(readers[0].id(), readers[1].id());
        assert_eq!(refusal(&writable), locked);
    }

    #[test]
    fn a_lock_held_for_a_moment_is_waited_for() {
        let scratch = Scratch::new();
        let path = scratch.file("disk", 512);
        let passing = Flock::lock(File::open(&path).unwrap(), FlockArg::LockShared).unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(LOCK_PAUSE * 2);
            drop(passing);
        });
        assert!(DiskFile::open(&options(path)).is_ok());
        release.join().unwrap();
    }

    #[test]
    fn one_file_by_two_names_is_known() {
        let scratch = Scratch::new();
        let path = scratch.file("disk", 512);
        std::os::unix::fs::symlink(&path, scratch.path("link")).unwrap();
        let open = |path| DiskFile::open(&DiskOptions { read_only: true, ..options(path) }).unwrap();
        assert_eq!(open(path.clone()).id(), open(scratch.path("link")).id());
        assert_ne!(open(path).id(), open(scratch.file("other", 512)).id());
    }

    #[test]
    fn direct_alignment_decides() {
        let decide = |memory, offset| fit_direct(DirectAlignment { memory, offset }).map_err(|e| e.to_string());
        assert_eq!(decide(4, 512), Ok(false));
        assert_eq!(decide(512, 512), Ok(false));
        assert_eq!(decide(4096, 512), Ok(true));
        assert!(decide(512, 4096).unwrap_err().contains("in blocks of 4096 bytes"));
        assert_eq!(decide(0, 0).unwrap_err(), "its file system does not support direct I/O; leave out `direct`");
    }
}
