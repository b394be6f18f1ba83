//! Holding writes after a restart.
//!
//! A target that starts knows nothing of what the process before it has run. A copy of a write that one answered may
//! still be in the network, and come after a newer write to the same place; that of an edit of the mask list or the
//! reservation likewise. So for as long as a frame lives after the last process served an export, the new one runs no
//! write to it and no such edit; clients send theirs again.
//!
//! aoe.ko sends again under new tags, and may have done so while nobody served: which of its attempts is the newest cannot
//! be told before it has sent some more. So no write of such clients is run for as long after the start either.
//!
//! How it knows: while writes may run, the time of a file of the export in the state directory is kept fresh, by a
//! thread of its own, since a directory can be slow. A host that lost power may have lost a newer time of that file; so
//! the export counts as served until the host started, at least.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aoe_common::addr::Address;
use aoe_common::link::monotonic_now;
use aoe_common::time::{Duration, Instant};

use crate::engine::export::Hold;
use crate::engine::stale::LIFE;
use crate::sandbox::{Role, Sandbox};

/// How often the time of the files is set.
const REFRESH_EVERY: Duration = Duration::from_millis(500);

/// How old the time of a file is at the most while its export is served.
const LAG: Duration = Duration::from_secs(1);

/// The file that tells when writes to an export could last run.
#[derive(Debug)]
pub(crate) struct Marker {
    path: PathBuf,
    file: File,
    /// When it is to be kept fresh: not while writes are held, so that one restart after the other does not hold them
    /// for ever.
    from: Instant,
    failed: AtomicBool,
}

impl Marker {
    /// Opens or makes the file. Tells too until when writes have to be held, if at all.
    pub(crate) fn open(path: &Path, now: Instant, may_hold: bool) -> io::Result<(Self, Option<Hold>)> {
        let served = match fs::metadata(path) {
            Ok(metadata) => Some(metadata.modified()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        if served.is_none() {
            File::open(path.parent().expect("a file is in a directory"))?.sync_all()?;
        }
        let hold = served.filter(|_| may_hold).map(|served| hold(now, SystemTime::now(), served));
        let from = hold.map_or(now, |hold| now.max(hold.anybody - LAG));
        Ok((Self { path: path.to_owned(), file, from, failed: AtomicBool::new(false) }, hold))
    }

    fn refresh(&self, now: Instant) {
        if now < self.from {
            return;
        }
        let result = self.file.set_modified(SystemTime::now());
        if let Err(error) = &result
            && !self.failed.load(Relaxed)
        {
            let path = self.path.display();
            tracing::warn!("{path}: {error}; a restart will not hold writes as it should, check the state directory");
        }
        self.failed.store(result.is_err(), Relaxed);
    }
}

/// The markers of what is served, one for each export.
#[derive(Clone, Debug, Default)]
pub(crate) struct Markers {
    by_address: Arc<Mutex<BTreeMap<Address, Arc<Marker>>>>,
}

impl Markers {
    /// An export is served from now on. Its file is fresh when this returns, if writes may run: they may before the
    /// thread comes to it.
    pub(crate) fn add(&self, address: Address, marker: Marker) {
        marker.refresh(monotonic_now());
        self.list().insert(address, Arc::new(marker));
    }

    /// It is not any more.
    pub(crate) fn remove(&self, address: Address) {
        self.list().remove(&address);
    }

    /// Keeps the files fresh until the program ends.
    pub(crate) fn keep_fresh(&self, sandbox: Sandbox) -> io::Result<()> {
        let markers = self.clone();
        let refresh = move || {
            sandbox.confine(Role::Marker);
            loop {
                // A directory can be slow: nobody waits for the list meanwhile.
                let list: Vec<_> = markers.list().values().map(Arc::clone).collect();
                let now = monotonic_now();
                list.iter().for_each(|marker| marker.refresh(now));
                std::thread::sleep(REFRESH_EVERY);
            }
        };
        std::thread::Builder::new().name("aoe-marker".to_owned()).spawn(refresh).map(drop)
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<Address, Arc<Marker>>> {
        // Each change of the list is whole.
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when to hold writes of an export that was last seen served at this time. `now` counts from the host's start.
fn hold(now: Instant, clock: SystemTime, served: SystemTime) -> Hold {
    // A time in the future tells that the clock was set; then it may have been just now.
    let ago = clock.duration_since(served).unwrap_or_default().min(now.since(Instant::ZERO));
    let left = (LIFE + LAG).saturating_sub(ago);
    Hold { anybody: now + left, retagged: now + LIFE }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP_FOR: Duration = Duration::from_secs(100);

    fn held(served_ago: i64, up_for: Duration) -> u64 {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = Duration::from_secs(served_ago.unsigned_abs());
        let served = if served_ago < 0 { clock + ago } else { clock - ago };
        let now = Instant::ZERO + up_for;
        let hold = hold(now, clock, served);
        assert_eq!(hold.retagged, now + LIFE, "attempts sent while nobody served");
        hold.anybody.since(now).as_secs()
    }

    #[test]
    fn writes_are_held_until_no_frame_from_before_lives() {
        assert_eq!(held(0, UP_FOR), 11);
        assert_eq!(held(4, UP_FOR), 7);
        assert_eq!(held(11, UP_FOR), 0);
        assert_eq!(held(1_000_000, UP_FOR), 0);
    }

    #[test]
    fn a_clock_that_was_set_back_and_a_host_that_just_started_count_as_now() {
        assert_eq!(held(-3600, UP_FOR), 11);
        assert_eq!(held(3600, Duration::from_secs(2)), 9);
        assert_eq!(held(3600, Duration::from_secs(20)), 0);
    }

    #[test]
    fn a_marker_is_made_once_and_tells_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e0.1.served");
        let now = monotonic_now();
        let (marker, first) = Marker::open(&path, now, true).unwrap();
        assert_eq!((first, marker.from), (None, now), "never served before");
        let (marker, second) = Marker::open(&path, now, true).unwrap();
        let until = second.expect("served just now").anybody;
        assert!(until > now + LIFE && until <= now + LIFE + LAG);
        assert_eq!(marker.from, until - LAG, "fresh before the first write runs, and not long before");
        let (marker, none) = Marker::open(&path, now, false).unwrap();
        assert_eq!((none, marker.from), (None, now));
    }

    #[test]
    fn a_marker_is_fresh_only_while_writes_may_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e0.1.served");
        let long_ago = SystemTime::now() - Duration::from_secs(5);
        let (marker, _) = Marker::open(&path, monotonic_now(), true).unwrap();
        marker.file.set_modified(long_ago).unwrap();
        let (held, until) = Marker::open(&path, monotonic_now(), true).unwrap();
        held.refresh(monotonic_now());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
        held.refresh(until.unwrap().anybody);
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago);
        marker.refresh(monotonic_now());
        assert!(!marker.failed.load(Relaxed));
    }

    #[test]
    fn what_is_served_no_longer_is_not_marked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e0.1.served");
        let markers = Markers::default();
        let (marker, _) = Marker::open(&path, monotonic_now(), true).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(5);
        marker.file.set_modified(long_ago).unwrap();
        markers.add(Address::new(0, 1), marker);
        assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago, "before the first write");
        markers.remove(Address::new(0, 1));
        assert!(markers.list().is_empty());
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Marker::open(&folder.path().join("no/e0.1.served"), monotonic_now(), true).is_err());
    }
}
