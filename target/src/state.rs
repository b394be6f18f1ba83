//! What a restart must not lose: what clients set (config string, mask list, reservation), and that data was lost below,
//! one file per export.
//!
//! A file is written whole beside the old one, synced and renamed over it, so that a crash leaves the old settings
//! or the new ones. Settings belong to a disk, not only to an address: a file that was written for another image is
//! set aside, and so is one that cannot be read. Neither is a reason not to serve.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use aoe_common::addr::Address;
use aoe_common::wire::{CONFIG_STRING_MAX, MacAddr};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::engine::access::{MASK_MAX, RESERVATION_MAX};
use crate::engine::export::StoredState;
use crate::sandbox::{Role, Sandbox};

/// Where settings are kept when nothing else is said.
const DEFAULT_DIRECTORY: &str = "/var/lib/aoe-target";
/// Names another one.
const DIRECTORY_VARIABLE: &str = "AOE_STATE_DIR";

const FORMAT_VERSION: u32 = 1;

/// The longest file read, in bytes; full lists take some 10 KiB.
const FILE_MAX: u64 = 64 << 10;

/// Marks text written as hexadecimal digits, because it is no printable text or starts like this itself.
const HEX: &str = "hex:";

/// The directory that holds the settings.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

/// Settings as they lie in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    /// The image they belong to.
    path: String,
    #[serde(default)]
    config_string: String,
    #[serde(default)]
    mask: Vec<String>,
    #[serde(default)]
    reservation: Vec<String>,
    /// The errno with which data was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<i32>,
    /// How often that was cleared.
    #[serde(default)]
    cleared: u32,
}

impl StateDirectory {
    /// The directory asked for, or the usual one. `None`: the usual one cannot be written and nobody asked for it.
    pub fn open(asked: Option<PathBuf>) -> io::Result<Option<Self>> {
        let variable = || std::env::var_os(DIRECTORY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        match asked.or_else(variable) {
            Some(path) => Self::at(path).map(Some),
            None => Self::at(DEFAULT_DIRECTORY.into()).map(Some).or_else(|error| {
                tracing::warn!(
                    "{DEFAULT_DIRECTORY}: {error}; what clients set, and errors, are forgotten at the end, and late copies of \
                     writes are not recognised after a restart; name a directory with --state-dir"
                );
                Ok(None)
            }),
        }
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        fs::create_dir_all(&path).map_err(told)?;
        access(&path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| told(errno.into()))?;
        Ok(Self { path })
    }

    /// The settings of an export whose image has this name; the defaults if it has none.
    pub fn load(&self, address: Address, image: &Path) -> StoredState {
        let file = self.file(address);
        let text = match read_bounded(&file, FILE_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return StoredState::default(),
            Err(error) => return self.set_aside(address, "damaged", &error.to_string()),
        };
        match parse(&text) {
            Ok((owner, state)) if owner == image => state,
            Ok((owner, _)) => {
                let why = format!("they belong to {}, not to {}", owner.display(), image.display());
                self.set_aside(address, "other-disk", &why)
            }
            Err(why) => self.set_aside(address, "damaged", &why),
        }
    }

    /// Stores the settings of an export; when this returns they survive a power cut.
    pub fn save(&self, address: Address, image: &Path, state: &StoredState) -> io::Result<()> {
        let file = format!("{address}.toml");
        if *state == StoredState::default() {
            return self.remove(&file);
        }
        self.replace(&file, &emit(image, state))
    }

    /// Makes this the text of a file; when this returns it survives a power cut, and before that the old one does.
    pub(crate) fn replace(&self, file: &str, text: &str) -> io::Result<()> {
        let new = self.path.join(format!(".{file}.new"));
        let mut out = File::create(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, self.path.join(file))?;
        self.sync()
    }

    /// Removes a file, if it is there, for good.
    pub(crate) fn remove(&self, file: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    /// Gives a file that cannot be used another name, which is returned.
    pub(crate) fn put_aside(&self, file: &str, suffix: &str) -> io::Result<PathBuf> {
        let aside = self.path.join(format!("{file}.{suffix}"));
        fs::rename(self.path.join(file), &aside).map(|()| aside)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, address: Address) -> PathBuf {
        self.path.join(format!("{address}.toml"))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn set_aside(&self, address: Address, suffix: &str, why: &str) -> StoredState {
        let file = self.file(address);
        match self.put_aside(&format!("{address}.toml"), suffix) {
            Ok(aside) => tracing::warn!(
                "{address}: stored settings are not used: {why}; they are now in {}, check the mask list and for `lost`",
                aside.display()
            ),
            Err(error) => tracing::warn!(
                "{address}: stored settings in {} are not used: {why}; and they cannot be renamed: {error}",
                file.display()
            ),
        }
        StoredState::default()
    }
}

/// The name by which an image is known across restarts: its real path, but the path as given for a device, since a
/// link such as /dev/disk/by-id/x is what stays when devices are numbered anew.
pub fn image_name(path: &Path) -> io::Result<PathBuf> {
    if fs::metadata(path)?.file_type().is_block_device() { std::path::absolute(path) } else { fs::canonicalize(path) }
}

/// A loss below, as people know its errno.
pub fn reason(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// What clients set, in a line for people.
pub fn summary(state: &StoredState) -> String {
    let stations = |count| if count == 1 { "1 station".to_owned() } else { format!("{count} stations") };
    format!(
        "config string \"{}\", {} on the mask list, {} in the reservation",
        state.config_string.escape_ascii(),
        stations(state.mask.len()),
        stations(state.reservation.len())
    )
}

/// The text of a file that has no more than so many bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other("the file is too long"));
    }
    Ok(text)
}

/// What the text of a file says: the image it belongs to and its settings, or why it is unusable.
pub fn parse(text: &str) -> Result<(PathBuf, StoredState), String> {
    let file: StateFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    if file.version != FORMAT_VERSION {
        return Err(format!("they are of version {}, this program knows {FORMAT_VERSION}", file.version));
    }
    let bytes = |text: &str| decode(text).ok_or_else(|| format!("{text:?} is no text in hexadecimal digits"));
    let path = PathBuf::from(OsString::from_vec(bytes(&file.path)?));
    let stations = |list: &[String]| {
        let station = |text: &String| text.parse().map_err(|_| format!("{text:?} is no MAC address"));
        list.iter().map(station).collect::<Result<Vec<MacAddr>, _>>()
    };
    let state = StoredState {
        config_string: bytes(&file.config_string)?,
        mask: stations(&file.mask)?,
        reservation: stations(&file.reservation)?,
        lost: file.lost,
        cleared: file.cleared,
    };
    if state.config_string.len() > CONFIG_STRING_MAX
        || state.mask.len() > MASK_MAX
        || state.reservation.len() > RESERVATION_MAX
    {
        return Err("a list or text is longer than the protocol allows".to_owned());
    }
    Ok((path, state))
}

/// The text of a file; [`parse`] reads it.
pub fn emit(image: &Path, state: &StoredState) -> String {
    let texts = |list: &[MacAddr]| list.iter().map(MacAddr::to_string).collect();
    let file = StateFile {
        version: FORMAT_VERSION,
        path: encode(image.as_os_str().as_bytes()),
        config_string: encode(&state.config_string),
        mask: texts(&state.mask),
        reservation: texts(&state.reservation),
        lost: state.lost,
        cleared: state.cleared,
    };
    toml::to_string(&file).expect("numbers, texts and lists of texts always fit TOML")
}

fn encode(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) && !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.iter().fold(HEX.to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix(HEX) else { return Some(text.as_bytes().to_vec()) };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect())?
}

/// Settings to store, and whom to tell when that is done.
pub struct Save {
    /// The export.
    pub address: Address,
    /// Its image, as [`image_name`] names it.
    pub image: PathBuf,
    /// All its settings.
    pub state: StoredState,
    /// Called with whether they are safe now.
    pub done: Box<dyn FnOnce(bool) + Send>,
}

/// The way to the thread that stores settings, so that serving threads never wait for a sync.
#[derive(Clone, Debug)]
pub struct Store {
    queue: mpsc::Sender<Save>,
}

impl Store {
    /// Starts the thread. It ends when the last `Store` is gone and all that was queued is done.
    pub(crate) fn start(directory: StateDirectory, sandbox: Sandbox) -> io::Result<(Self, JoinHandle<()>)> {
        // Each export has one save under way at the most, so the queue is no longer than there are exports.
        let (queue, saves) = mpsc::channel();
        let thread = std::thread::Builder::new().name("aoe-state".to_owned()).spawn(move || {
            sandbox.confine(Role::Store(&directory.path));
            for Save { address, image, state, done } in saves {
                let result = directory.save(address, &image, &state);
                if let Err(error) = &result {
                    tracing::error!("{address}: {}: cannot store settings: {error}", directory.path.display());
                }
                done(result.is_ok());
            }
        })?;
        Ok((Self { queue }, thread))
    }

    /// Queues a save.
    ///
    /// # Panics
    /// When the thread has ended, which it does not while there is a `Store`.
    pub fn save(&self, save: Save) {
        assert!(self.queue.send(save).is_ok(), "the store is there as long as somebody can save");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ADDRESS: Address = Address::new(0, 1);

    fn settings() -> StoredState {
        StoredState {
            config_string: b"host=\xff\0 blue".to_vec(),
            mask: vec![MacAddr(2, 0, 0, 0, 0, 0xa)],
            reservation: vec![MacAddr(2, 0, 0, 0, 0, 0xb), MacAddr(2, 0, 0, 0, 0, 0xc)],
            lost: Some(5),
            cleared: 2,
        }
    }

    fn directory() -> (tempfile::TempDir, StateDirectory) {
        let temporary = tempfile::tempdir().unwrap();
        let directory = StateDirectory::at(temporary.path().join("made/on/demand")).unwrap();
        (temporary, directory)
    }

    fn names(directory: &StateDirectory) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&directory.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_temporary, directory) = directory();
        let image = Path::new("/images/disk.img");
        assert_eq!(directory.load(ADDRESS, image), StoredState::default());
        directory.save(ADDRESS, image, &settings()).unwrap();
        assert_eq!(directory.load(ADDRESS, image), settings());
        assert_eq!(names(&directory), ["e0.1.toml"]);
    }

    #[test]
    fn defaults_leave_no_file() {
        let (_temporary, directory) = directory();
        let image = Path::new("/images/disk.img");
        directory.save(ADDRESS, image, &StoredState::default()).unwrap();
        directory.save(ADDRESS, image, &settings()).unwrap();
        directory.save(ADDRESS, image, &StoredState::default()).unwrap();
        assert_eq!(names(&directory), [""; 0]);
    }

    #[test]
    fn settings_of_another_disk_are_set_aside() {
        let (_temporary, directory) = directory();
        directory.save(ADDRESS, Path::new("/images/old.img"), &settings()).unwrap();
        assert_eq!(directory.load(ADDRESS, Path::new("/images/new.img")), StoredState::default());
        assert_eq!(names(&directory), ["e0.1.toml.other-disk"]);
    }

    #[test]
    fn damaged_settings_are_set_aside() {
        let whole = emit(Path::new("/i"), &settings());
        let too_long = format!("{whole}\n#{}", "x".repeat(FILE_MAX as usize));
        let too_many = emit(Path::new("/i"), &StoredState { mask: vec![MacAddr(2, 0, 0, 0, 0, 1); 181], ..settings() });
        let other_version = whole.replace("version = 1", "version = 2");
        let odd_digits = whole.replace("hex:", "hex:0");
        for text in ["", "version = 1", &whole[..whole.len() / 2], &too_long, &too_many, &other_version, &odd_digits] {
            let (_temporary, directory) = directory();
            fs::write(directory.file(ADDRESS), text).unwrap();
            assert_eq!(directory.load(ADDRESS, Path::new("/i")), StoredState::default(), "{text:.80}");
            assert_eq!(names(&directory), ["e0.1.toml.damaged"], "{text:.80}");
        }
    }

    #[test]
    fn what_a_crash_leaves_behind_does_no_harm() {
        let (_temporary, directory) = directory();
        let image = Path::new("/images/disk.img");
        directory.save(ADDRESS, image, &settings()).unwrap();
        fs::write(directory.path.join(".e0.1.toml.new"), "half a fi").unwrap();
        assert_eq!(directory.load(ADDRESS, image), settings());
        let newer = StoredState { mask: vec![], ..settings() };
        directory.save(ADDRESS, image, &newer).unwrap();
        assert_eq!(directory.load(ADDRESS, image), newer);
        assert_eq!(names(&directory), ["e0.1.toml"]);
    }

    #[test]
    fn the_thread_stores_tells_and_ends() {
        let (_temporary, directory) = directory();
        let (store, thread) = Store::start(directory.clone(), Sandbox::begin(false)).unwrap();
        let (told, hears) = mpsc::channel();
        let image = PathBuf::from("/images/disk.img");
        let done = Box::new(move |stored| told.send(stored).unwrap());
        store.save(Save { address: ADDRESS, image: image.clone(), state: settings(), done });
        assert!(hears.recv().unwrap());
        drop(store);
        thread.join().unwrap();
        assert_eq!(directory.load(ADDRESS, &image), settings());
    }

    #[test]
    fn a_summary_is_one_line_of_plain_text() {
        assert_eq!(
            summary(&StoredState { config_string: b"a\n\xff".to_vec(), ..settings() }),
            r#"config string "a\n\xff", 1 station on the mask list, 2 stations in the reservation"#
        );
    }

    #[test]
    fn a_file_goes_by_its_real_path() {
        let temporary = tempfile::tempdir().unwrap();
        let real = temporary.path().canonicalize().unwrap().join("disk.img");
        fs::write(&real, [0; 512]).unwrap();
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(image_name(&link).unwrap(), real);
        assert!(image_name(&temporary.path().join("missing")).is_err());
    }

    proptest! {
        #[test]
        fn any_settings_survive(
            path in "/[^\0]{0,80}",
            config_string in proptest::collection::vec(any::<u8>(), 0..=CONFIG_STRING_MAX),
            text in "(hex:)?[ -~]{0,40}",
        ) {
            for config_string in [config_string, text.into_bytes()] {
                let state = StoredState { config_string, ..settings() };
                let (owner, loaded) = parse(&emit(Path::new(&path), &state)).unwrap();
                prop_assert_eq!(owner, Path::new(&path));
                prop_assert_eq!(loaded, state);
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
