//! The life of the memory in which an export's writes are that are not durable yet, and how it goes on over a reboot.
//!
//! A target names that memory ([`CacheMemory`]): while the name stays the same, all that was answered under it is in memory or
//! on the disk, and the next flush makes it durable. Another name says that it may be gone. The name is made of a life, which
//!
//! * goes on while the host runs, whoever serves: the page cache outlives a process, however that ended;
//! * goes on over a reboot if the export was closed before: synced after the last write that was answered. Then the name
//!   promises nothing that is not on the disk;
//! * ends in every other case, with the power for example. Life numbers are random, so none ever comes back.
//!
//! One file in the state directory, `lives.toml`, has that of every export: its life, the boot in which it was last served
//! and whether it was closed since. The exports are told apart, so nothing has to be known of the others: one that a
//! killed process had, and that nobody serves now, stays open, as does one whose last sync failed, or that is poisoned. It errs
//! to one side: whatever is not noted, or cannot be read, begins a new life, and a flush may fail for nothing.
//!
//! * **Opened before it is served.** The note says "open" on stable storage before anything is answered. If that cannot be
//!   written the file is removed, so that no old "closed" is left to be believed; if not even that is possible, nothing is
//!   served.
//! * **Closed after the last sync**, when nothing can be answered any more. This may be lost with the power. A stop
//!   that is cut short leaves the note open.
//! * **Several processes** may share the directory. Each change is made under a lock of the directory, and who closes an
//!   export compares when it was opened: another process may have it since.
//! * **Direct exports are never closed.** Two hosts may share such a disk, and clients take a host whose life goes on to have
//!   all that the other has answered meanwhile. That is true while it runs, not while it boots.
//! * Opened for reading only, an export is named by what is noted, and the note stays.
//!
//! Without a state directory the boot's number is the life. Who serves an export from several state directories in turn, or
//! without one in between, has notes that know nothing of each other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use aoe_common::addr::Address;
use aoe_common::ata::{CacheMemory, fnv1a};
use aoe_common::link::monotonic_now;
use aoe_common::planted::{Fault, planted};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::state::{StateDirectory, read_bounded};

const FILE: &str = "lives.toml";
const FORMAT_VERSION: u32 = 1;

/// The longest file read, in bytes; one of [`LIVES_MAX`] exports takes 1.7 MiB.
const FILE_MAX: u64 = 4 << 20;

/// Exports that are noted. Of further ones those are forgotten that nobody serves.
pub const LIVES_MAX: usize = 8192;

/// The longest number of a life or boot, in bytes.
const NUMBER_MAX: usize = 64;

/// How long the directory may be locked by others, who hold it for a few syncs at a time.
const LOCK_TIME: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What is noted of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Life {
    /// A hash of its image's name: another image has another life.
    image: String,
    /// The life's number.
    life: String,
    /// The number of the boot in which it was opened last.
    boot: String,
    /// When that was, in nanoseconds since the boot.
    opened: u64,
    /// It was synced after its last write.
    closed: bool,
}

/// What is noted of all exports. A value without files and clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives(BTreeMap<Address, Life>);

/// An export that is to be served.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Its address.
    pub address: Address,
    /// Its image's name.
    pub image: &'a Path,
    /// Its file is open for writing.
    pub is_written: bool,
    /// It goes around the page cache.
    pub is_direct: bool,
}

/// The life that an export is served under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    address: Address,
    life: String,
    /// When it was noted that it is open. `None`: there is nothing to close.
    noted: Option<u64>,
}

impl Lease {
    /// How the memory is named: by its host and its life. An operator who has cleared an error ends a life, too, since
    /// something was lost.
    pub fn memory(&self, host: &[u8], cleared: u32) -> CacheMemory {
        CacheMemory::of(host, &[self.life.as_bytes(), &cleared.to_le_bytes()].concat())
    }
}

impl Lives {
    /// Exports are going to be served, in this boot and now (nanoseconds since then). Tells the life of each.
    pub fn open(
        &mut self,
        boot: &str,
        now: u64,
        exports: &[Opened<'_>],
        mut new_number: impl FnMut() -> String,
    ) -> Vec<Lease> {
        // Those that were open when their boot ended go on no more.
        self.0.retain(|_, life| life.closed || life.boot == boot || planted(Fault::LossHidden));
        let leases = exports.iter().map(|export| {
            let Opened { address, is_written, is_direct, .. } = *export;
            let image = format!("{:016x}", fnv1a(export.image.as_os_str().as_encoded_bytes()));
            let noted = self.0.get(&address).filter(|known| known.image == image);
            let goes_on = noted.filter(|known| known.boot == boot || !is_direct);
            let life = goes_on.map_or_else(&mut new_number, |known| known.life.clone());
            if is_written {
                let noted = Life { image, life: life.clone(), boot: boot.to_owned(), opened: now, closed: false };
                self.0.insert(address, noted);
            }
            Lease { address, life, noted: (is_written && !is_direct).then_some(now) }
        });
        let leases = leases.collect();
        self.bound(boot, now);
        leases
    }

    /// Exports of this boot are closed, and all that was answered is on their disks.
    pub fn close(&mut self, boot: &str, leases: &[Lease]) {
        for Lease { address, noted, .. } in leases {
            if let Some(life) = self.0.get_mut(address)
                && life.boot == boot
                && *noted == Some(life.opened)
            {
                life.closed = true;
            }
        }
    }

    /// Forgets some, but none of those that were opened just now. A life that is forgotten does not go on.
    fn bound(&mut self, boot: &str, now: u64) {
        let mut surplus = self.0.len().saturating_sub(LIVES_MAX);
        for may_go in [|life: &Life| life.closed, |_: &Life| true] {
            self.0.retain(|_, life| {
                let goes = surplus > 0 && may_go(life) && (life.boot != boot || life.opened != now);
                surplus -= usize::from(goes);
                !goes
            });
        }
    }
}

/// The text of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LivesFile {
    version: u32,
    #[serde(default)]
    export: BTreeMap<Address, Life>,
}

/// What the text of a file says, or why it is unusable.
pub fn parse(text: &str) -> Result<Lives, String> {
    let file: LivesFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    if file.version != FORMAT_VERSION {
        return Err(format!("it is of version {}, this program knows {FORMAT_VERSION}", file.version));
    }
    let too_long = |life: &Life| [&life.image, &life.life, &life.boot].iter().any(|number| number.len() > NUMBER_MAX);
    if file.export.values().any(too_long) {
        return Err("a number in it is too long".to_owned());
    }
    Ok(Lives(file.export))
}

/// The text of a file; [`parse`] reads it.
pub fn emit(lives: &Lives) -> String {
    let file = LivesFile { version: FORMAT_VERSION, export: lives.0.clone() };
    toml::to_string(&file).expect("numbers and texts always fit TOML")
}

/// The file with the lives of this host's exports, and the boot's number.
#[derive(Clone, Debug)]
pub(crate) struct LivesOnDisk {
    /// `None`: nothing is noted.
    directory: Option<StateDirectory>,
    boot: String,
}

impl LivesOnDisk {
    /// Those of this state directory.
    pub(crate) fn in_directory(directory: Option<StateDirectory>) -> Self {
        Self { directory, boot: number("boot_id") }
    }

    /// Exports are going to be served. When this returns, no reboot can be taken for an orderly one before they are closed.
    pub(crate) fn open(&self, exports: &[Opened<'_>]) -> Result<Vec<Lease>> {
        let by_boot = |export: &Opened<'_>| Lease { address: export.address, life: self.boot.clone(), noted: None };
        let Some(directory) = &self.directory else { return Ok(exports.iter().map(by_boot).collect()) };
        let path = directory.path().display();
        let lock = lock(directory.path());
        let noted = match &lock {
            Ok(_) => self.note_open(directory, exports),
            Err(Errno::EAGAIN) => {
                bail!("{path}: another process has locked it for {LOCK_TIME:?}; end that, or use another --state-dir")
            }
            Err(errno) => Err((*errno).into()),
        };
        let error = match noted {
            Ok(leases) => return Ok(leases),
            Err(error) => error,
        };
        directory.remove(FILE).with_context(|| format!("{path}: {error}; name a directory with --state-dir"))?;
        tracing::warn!(
            "{path}: {error}; when this host boots again, clients with unflushed writes will have to take them for lost: make \
             the directory writable and start again"
        );
        Ok(exports.iter().map(by_boot).collect())
    }

    fn note_open(&self, directory: &StateDirectory, exports: &[Opened<'_>]) -> io::Result<Vec<Lease>> {
        let before = read(directory)?;
        let mut lives = before.clone();
        // Under the lock, so that no two are opened at the same time.
        let leases = lives.open(&self.boot, monotonic_now().as_nanos(), exports, || number("uuid"));
        if lives != before {
            directory.replace(FILE, &emit(&lives))?;
        }
        Ok(leases)
    }

    /// Exports are closed: they were synced after the last write, and none can be answered any more.
    pub(crate) fn close(&self, leases: &[Lease]) {
        let Some(directory) = &self.directory else { return };
        if leases.iter().all(|lease| lease.noted.is_none()) {
            return;
        }
        let closed = lock(directory.path()).map_err(io::Error::from).and_then(|_lock| {
            let mut lives = read(directory)?;
            lives.close(&self.boot, leases);
            directory.replace(FILE, &emit(&lives))
        });
        if let Err(error) = closed {
            let path = directory.path().display();
            tracing::warn!(
                "{path}: {error}; if this host boots now, clients with unflushed writes take them for lost, though all is on the \
                 disks"
            );
        }
    }
}

/// A random number or the boot's, as the kernel has them. Where it has none: another one each time, so that no life goes
/// on that should not.
fn number(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/kernel/random/{name}")).unwrap_or_default();
    match text.trim() {
        "" => {
            let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("{}-{}-{}", std::process::id(), clock.as_nanos(), monotonic_now().as_nanos())
        }
        number => number.to_owned(),
    }
}

fn lock(path: &Path) -> Result<Flock<File>, Errno> {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    let mut folder = File::open(path).map_err(errno)?;
    let until = Instant::now() + LOCK_TIME;
    loop {
        folder = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((folder, Errno::EAGAIN)) if Instant::now() < until => folder,
            Err((_, errno)) => return Err(errno),
        };
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// What is noted. A damaged file is put aside, and says nothing.
fn read(directory: &StateDirectory) -> io::Result<Lives> {
    let text = match read_bounded(&directory.path().join(FILE), FILE_MAX) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lives::default()),
        // No text, or a long one.
        Err(error) if error.raw_os_error().is_none() => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    match text.and_then(|text| parse(&text)) {
        Ok(lives) => Ok(lives),
        Err(why) => {
            let aside = directory.put_aside(FILE, "damaged")?;
            tracing::warn!(
                "{}: {why}; it is now in {}, and clients with unflushed writes have to take them for lost",
                directory.path().join(FILE).display(),
                aside.display()
            );
            Ok(Lives::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Address = Address::new(0, 1);

    fn export(image: &str) -> Opened<'_> {
        Opened { address: ADDRESS, image: Path::new(image), is_written: true, is_direct: false }
    }

    /// A host that boots, and what its target keeps.
    #[derive(Default)]
    struct Host {
        lives: Lives,
        boot: u32,
        now: u64,
    }

    impl Host {
        fn boot(&mut self) {
            self.boot += 1;
        }

        fn open_all(&mut self, exports: &[Opened<'_>]) -> Vec<Lease> {
            self.now += 1;
            let now = self.now;
            self.lives.open(&self.boot.to_string(), now, exports, || format!("life {now}"))
        }

        fn open(&mut self, export: Opened<'_>) -> Lease {
            self.open_all(&[export]).remove(0)
        }

        fn close(&mut self, lease: &Lease) {
            self.lives.close(&self.boot.to_string(), std::slice::from_ref(lease));
        }
    }

    fn host() -> Host {
        Host::default()
    }

    #[test]
    fn a_life_goes_on_over_an_orderly_reboot_and_no_other() {
        for is_closed in [false, true] {
            let mut host = host();
            let first = host.open(export("/a"));
            if is_closed {
                host.close(&first);
            }
            host.boot();
            let second = host.open(export("/a"));
            assert_eq!(first.life == second.life, is_closed);
            // The first close says nothing of the second time.
            host.boot();
            assert_ne!(host.open(export("/a")).life, second.life);
        }
    }

    #[test]
    fn a_process_that_is_killed_ends_no_life_in_the_same_boot() {
        let mut host = host();
        let first = host.open(export("/a"));
        let second = host.open(export("/a"));
        assert_eq!(first.life, second.life);
        // The sync of the second covers what the first has written.
        host.close(&second);
        host.boot();
        assert_eq!(host.open(export("/a")).life, first.life);
    }

    #[test]
    fn an_export_that_nobody_serves_after_a_kill_stays_open() {
        let mut host = host();
        let other = Opened { address: Address::new(0, 2), ..export("/b") };
        let killed = host.open_all(&[export("/a"), other]);
        let next = host.open(export("/a"));
        host.close(&next);
        host.boot();
        let [one, two] = &host.open_all(&[export("/a"), other])[..] else { panic!("two leases") };
        assert_eq!(one.life, killed[0].life);
        assert_ne!(two.life, killed[1].life);
    }

    #[test]
    fn who_closes_too_late_closes_nothing() {
        let mut host = host();
        let first = host.open(export("/a"));
        let second = host.open(export("/a"));
        host.close(&first);
        host.boot();
        assert_ne!(host.open(export("/a")).life, second.life, "another process had it");
        // Nor does one that slept over a boot.
        host.close(&first);
        host.boot();
        assert_ne!(host.open(export("/a")).life, second.life);
    }

    #[test]
    fn another_image_has_another_life_and_ends_that_of_the_first() {
        let mut host = host();
        let first = host.open(export("/a"));
        host.close(&first);
        let second = host.open(export("/b"));
        assert_ne!(first.life, second.life);
        host.close(&second);
        assert_ne!(host.open(export("/a")).life, first.life, "nobody knows what was answered for it meanwhile");
    }

    #[test]
    fn direct_exports_begin_anew_with_each_boot() {
        let direct = Opened { is_direct: true, ..export("/a") };
        let mut host = host();
        let first = host.open(direct);
        host.close(&first);
        assert_eq!(host.open(export("/a")).life, first.life, "the same boot");
        host.boot();
        let second = host.open(export("/a"));
        assert_ne!(first.life, second.life);
        host.close(&second);
        host.boot();
        assert_ne!(host.open(direct).life, second.life);
    }

    #[test]
    fn reading_only_changes_no_note() {
        let reader = Opened { is_written: false, ..export("/a") };
        let mut host = host();
        host.open(reader);
        assert_eq!(host.lives, Lives::default());
        let first = host.open(export("/a"));
        host.close(&first);
        host.boot();
        let read = host.open(reader);
        assert_eq!((&read.life, read.noted), (&first.life, None));
        host.boot();
        assert_eq!(host.open(export("/a")).life, first.life, "nothing was written since it was closed");
        host.boot();
        assert_ne!(host.open(reader).life, first.life);
    }

    #[test]
    fn an_error_that_was_cleared_is_another_memory() {
        let lease = Lease { address: ADDRESS, life: "1".to_owned(), noted: None };
        assert_eq!(lease.memory(b"a", 0).host, lease.memory(b"a", 1).host);
        assert_ne!(lease.memory(b"a", 0).life, lease.memory(b"a", 1).life);
        assert_ne!(lease.memory(b"a", 0).host, lease.memory(b"b", 0).host);
    }

    #[test]
    fn notes_are_bounded_and_those_that_are_served_stay() {
        let mut host = host();
        let all = |shelves: std::ops::Range<u16>| {
            let address = |shelf| (0..250).map(move |slot| Address::new(shelf, slot));
            shelves.flat_map(address).map(|address| Opened { address, ..export("/a") }).collect::<Vec<_>>()
        };
        let old = host.open_all(&all(0..30));
        host.lives.close("0", &old);
        let new = host.open_all(&all(30..46));
        assert_eq!(host.lives.0.len(), LIVES_MAX);
        assert!(emit(&host.lives).len() as u64 <= FILE_MAX);
        host.lives.close("0", &new);
        host.boot();
        let again = host.open_all(&all(30..46));
        assert!(new.iter().zip(&again).all(|(before, after)| before.life == after.life));
        host.boot();
        host.open(export("/a"));
        assert!(host.lives.0.len() < LIVES_MAX - again.len() + 2, "those of other boots that are open are of no use");
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let mut host = host();
        host.open(export("/a"));
        let text = emit(&host.lives);
        assert_eq!(parse(&text), Ok(host.lives));
        assert_eq!(parse("version = 1"), Ok(Lives::default()));
        let long = text.replace("life 1", &"1".repeat(NUMBER_MAX + 1));
        for text in ["", "version = 2", &text[..text.len() / 2], &text.replace("e0.1", "e0"), &long] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// A state directory, and a target that uses it in this boot.
    fn on_disk(folder: &tempfile::TempDir, boot: &str) -> LivesOnDisk {
        let directory = StateDirectory::open(Some(folder.path().to_owned())).unwrap();
        LivesOnDisk { boot: boot.to_owned(), ..LivesOnDisk::in_directory(directory) }
    }

    #[test]
    fn a_file_keeps_lives_over_reboots() {
        let folder = tempfile::tempdir().unwrap();
        let first = on_disk(&folder, "1").open(&[export("/a")]).unwrap();
        assert_eq!(on_disk(&folder, "1").open(&[export("/a")]).unwrap()[0].life, first[0].life);
        let second = on_disk(&folder, "2").open(&[export("/a")]).unwrap();
        assert_ne!(first[0].life, second[0].life);
        on_disk(&folder, "2").close(&second);
        assert_eq!(on_disk(&folder, "3").open(&[export("/a")]).unwrap()[0].life, second[0].life);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn processes_that_share_a_directory_do_not_undo_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let exports: Vec<_> = (0..8).map(|slot| Opened { address: Address::new(0, slot), ..export("/a") }).collect();
        let run = |boot: &str| -> Vec<Lease> {
            std::thread::scope(|scope| {
                let one = |export| {
                    let process = on_disk(&folder, boot);
                    scope.spawn(move || {
                        let lease = process.open(&[export]).unwrap();
                        process.close(&lease);
                        lease
                    })
                };
                let all: Vec<_> = exports.iter().copied().map(one).collect();
                all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            })
        };
        let lives = |leases: Vec<Lease>| leases.into_iter().map(|lease| lease.life).collect::<Vec<_>>();
        assert_eq!(lives(run("1")), lives(run("2")));
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_begins_new_lives() {
        let folder = tempfile::tempdir().unwrap();
        let before = on_disk(&folder, "1").open(&[export("/a")]).unwrap();
        on_disk(&folder, "1").close(&before);
        let file = folder.path().join(FILE);
        for damage in [&b"version = 1\nexport"[..], b"\xff\xfe", &vec![b'#'; FILE_MAX as usize + 1]] {
            fs::write(&file, damage).unwrap();
            let after = on_disk(&folder, "2").open(&[export("/a")]).unwrap();
            assert_ne!(after[0].life, before[0].life);
            assert_eq!(fs::read(folder.path().join("lives.toml.damaged")).unwrap(), damage);
            assert!(parse(&fs::read_to_string(&file).unwrap()).is_ok());
        }
    }

    #[test]
    fn what_cannot_be_noted_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let closed = on_disk(&folder, "1").open(&[export("/a")]).unwrap();
        on_disk(&folder, "1").close(&closed);
        // A directory is where the new file would be written.
        let in_the_way = folder.path().join(".lives.toml.new");
        fs::create_dir(&in_the_way).unwrap();
        let second = on_disk(&folder, "2").open(&[export("/a")]).unwrap();
        assert_eq!((&*second[0].life, second[0].noted), ("2", None));
        on_disk(&folder, "2").close(&second);
        fs::remove_dir(in_the_way).unwrap();
        let third = on_disk(&folder, "3").open(&[export("/a")]).unwrap();
        assert!(third[0].life != closed[0].life && third[0].life != "2" && third[0].life != "3");
    }

    #[test]
    fn without_a_directory_the_boot_is_the_life() {
        let lives = LivesOnDisk { boot: "5".to_owned(), ..LivesOnDisk::in_directory(None) };
        let leases = lives.open(&[export("/a")]).unwrap();
        assert_eq!(leases, [Lease { address: ADDRESS, life: "5".to_owned(), noted: None }]);
        lives.close(&leases);
        assert_eq!(LivesOnDisk::in_directory(None).boot, LivesOnDisk::in_directory(None).boot);
        assert_ne!(number("uuid"), number("uuid"));
        assert_ne!(number("none"), number("none"));
    }
}
