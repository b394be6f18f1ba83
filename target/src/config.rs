//! The configuration file of `aoe-target serve`: TOML that becomes [`Settings`].
//!
//! Every mistake is told in one line with file, line and column, and says what to write instead; a key that is not known is
//! a mistake. Reading it opens nothing of what it names: whether disks are there and fit is found out when they are opened.
//! That a family finds no file is no mistake of the file either. [`KEYS`] is the whole of the language.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aoe_common::addr::Address;
use aoe_common::config_file::{self, ReadError, line_and_column, nearest};
use aoe_common::frame::SECTOR;
use aoe_common::scrape::{Endpoint, EndpointError};
use aoe_common::wire::MacAddr;
pub use glob::Pattern;
use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config_keys::{KEYS, Key, Place};
use crate::disk::EngineChoice;
use crate::engine::durability::CacheMode;
use crate::engine::editors::{EditPolicy, Editors};
use crate::settings::{Defaults, EXPORTS_MAX, ExportSettings, MissingFamily, POLL, Settings, ata_text, station};

/// Where the file is unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/aoe/target.toml";

/// Names in a folder that are looked at for a pattern.
const NAMES_MAX: usize = 65_536;

/// Sectors that a file can have.
const SECTORS_MAX: u64 = i64::MAX as u64 / SECTOR as u64;

/// The last slot of a shelf.
const LAST_SLOT: u8 = Address::ANY_SLOT - 1;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {problem}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// Something in it is wrong.
    #[error("{}:{line}:{column}: {mistake}", file.display())]
    Mistake {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong.
        mistake: Mistake,
    },
}

/// What is wrong in a file, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// No such key at all, and perhaps the one that was meant.
    #[error(
        "unknown key {}; {}",
        shown(key),
        near.map_or("see aoe-target.toml(5)".into(), |near| format!("did you mean {near}?"))
    )]
    UnknownKey {
        /// What stands there.
        key: String,
        /// A similar one.
        near: Option<&'static str>,
    },
    /// The key belongs elsewhere.
    #[error("{key} does not belong here; it stands {}", place.name())]
    Misplaced {
        /// The key.
        key: &'static str,
        /// Its place.
        place: Place,
    },
    /// A value of the wrong kind.
    #[error("{key} takes {kind}, not {found}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it takes.
        kind: &'static str,
        /// What stands there.
        found: String,
    },
    /// A value that is not good.
    #[error("{key}: {found}: {reason}")]
    Unfit {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that every export needs.
    #[error("an export needs {key}: {about}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        about: &'static str,
    },
    /// Neither or both of slot and slot-from.
    #[error("an export needs either slot = NUMBER or, for a family of files, slot-from = NUMBER")]
    OneOfSlots,
    /// A pattern with `slot`.
    #[error("the path is a pattern; write slot-from instead of slot, or name one file")]
    PatternNeedsSlotFrom,
    /// `slot-from` without a pattern.
    #[error("slot-from is for a path whose last part has *, ? or [...]; write slot for a single file")]
    SlotFromNeedsPattern,
    /// Not a pattern that can be matched.
    #[error("{0}: only the last part of the path can be a pattern; name the folder")]
    FolderPattern(String),
    /// More files than slots.
    #[error(
        "{files} files fit, but there are only slots {from} to {LAST_SLOT} on a shelf; choose a narrower pattern or more shelves"
    )]
    TooManyFit {
        /// How many.
        files: usize,
        /// The first slot.
        from: u8,
    },
    /// One serial number for several disks.
    #[error("serial is for one disk, and this is a family; leave it out")]
    SerialOfFamily,
    /// Two exports under one address.
    #[error("{address} is named twice, first in line {first}; give each export a shelf and slot of its own")]
    Twice {
        /// The address.
        address: Address,
        /// Where it was named before.
        first: usize,
    },
    /// Two exports of one file of which one could write.
    #[error("{path} is {other} already (line {first}); set read-only = true in both, or leave one out")]
    TwoUsers {
        /// The file.
        path: String,
        /// The other export.
        other: Address,
        /// Where it is.
        first: usize,
    },
    /// Too many.
    #[error("these are more than {EXPORTS_MAX} exports; start another aoe-target for the rest")]
    TooManyExports,
}

/// What the file says about files: asked for families, and to recognise one file under two names.
pub trait Files {
    /// The names of regular files and block devices in a folder that fit the pattern.
    fn names(&self, folder: &Path, pattern: &Pattern) -> io::Result<Vec<String>>;

    /// The path without symbolic links, where it can be told.
    fn real(&self, path: &Path) -> Option<PathBuf>;
}

/// Those of this host.
#[derive(Clone, Copy, Debug)]
pub struct HostFiles;

impl Files for HostFiles {
    fn names(&self, folder: &Path, pattern: &Pattern) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for (count, entry) in fs::read_dir(folder)?.enumerate() {
            if count == NAMES_MAX {
                return Err(io::Error::other(format!("holds more than {NAMES_MAX} names")));
            }
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.') && pattern.matches(name)) else {
                continue;
            };
            // Follows links, and leaves out those to nothing.
            let serves = fs::metadata(folder.join(name)).is_ok_and(|file| {
                use std::os::unix::fs::FileTypeExt;
                file.is_file() || file.file_type().is_block_device()
            });
            if serves {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn real(&self, path: &Path) -> Option<PathBuf> {
        path.canonicalize().ok()
    }
}

/// Reads a file.
pub fn load(file: &Path) -> Result<Settings, ConfigError> {
    let text = config_file::read(file).map_err(|error| match error {
        ReadError::Unreadable(problem) => ConfigError::Unreadable { file: file.to_owned(), problem },
        ReadError::NoText { line, column } => {
            ConfigError::Mistake { file: file.to_owned(), line, column, mistake: Mistake::Syntax(error.to_string()) }
        }
    })?;
    parse(&text, file, &HostFiles)
}

/// Reads the text of a file. `file` is its name for messages, and its folder is where relative paths start.
pub fn parse(text: &str, file: &Path, files: &impl Files) -> Result<Settings, ConfigError> {
    let fail = |at: usize, mistake: Mistake| {
        let (line, column) = line_and_column(text, at);
        ConfigError::Mistake { file: file.to_owned(), line, column, mistake }
    };
    let syntax = |error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        fail(at, Mistake::Syntax(error.message().split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    let document = DeTable::parse(text).map_err(syntax)?;
    let document = document.get_ref();
    if let Some((at, key, place)) = strange_key(document, Place::Top) {
        return Err(fail(at, unknown(key, place)));
    }
    let written: Written = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        match value_at(document, at) {
            Some((key, span)) => fail(span.start, unfit(key, excerpt(text, &span), error.message())),
            None => syntax(error),
        }
    })?;
    let root = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = root.parent().unwrap_or(Path::new("/"));
    let mut reader = Reader { text, document, folder, files, addresses: BTreeMap::new(), uses: BTreeMap::new() };
    let defaults = written.defaults.over(&Defaults::default());
    let (mut exports, mut lines, mut missing_families) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (index, entry) in written.export.iter().enumerate() {
        let named = reader.exports(index, entry, &defaults).map_err(|(at, mistake)| fail(at, mistake))?;
        let line = line_and_column(text, reader.at(index, "path")).0;
        match named {
            Named::Exports(more) => {
                lines.extend(more.iter().map(|export| (export.address, line)));
                exports.extend(more);
            }
            Named::Nothing { shelf, path, reason } => {
                let reason = format!("{}:{line}: {reason}", root.display());
                missing_families.push(MissingFamily { shelf, path, reason });
            }
        }
        if exports.len() + missing_families.len() > EXPORTS_MAX {
            return Err(fail(reader.at(index, "shelf"), Mistake::TooManyExports));
        }
    }
    Ok(Settings {
        interfaces: written.interfaces.into_iter().map(|interface| interface.0).collect(),
        threads: written.threads.map_or(1, |threads| threads.0 as u16),
        io: written.io.unwrap_or_default(),
        poll: written.poll.map_or(POLL, |poll| poll.0 as u16),
        hold: written.hold.unwrap_or(true),
        wildcard_edits: written.wildcard_edits.unwrap_or(false),
        state_directory: written.state_directory.map(|path| folder.join(path)),
        control: written.control.map(|path| folder.join(path)),
        metrics: written.metrics.map(|metrics| metrics.0),
        sandbox: written.sandbox.unwrap_or(true),
        file: Some(root.clone()),
        defaults,
        exports,
        lines,
        missing_families,
    })
}

// ---- What is written ---------------------------------------------------------------------------------------------

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    #[serde(default)]
    interfaces: Vec<InterfaceName>,
    threads: Option<Number<1, 64>>,
    io: Option<EngineChoice>,
    poll: Option<Number<0, 1000>>,
    hold: Option<bool>,
    wildcard_edits: Option<bool>,
    state_directory: Option<PathBuf>,
    control: Option<PathBuf>,
    metrics: Option<Metrics>,
    sandbox: Option<bool>,
    #[serde(default)]
    defaults: Entry,
    #[serde(default)]
    export: Vec<Entry>,
}

/// An export as it is written: in the file, where it may be a family, or in a request to add one. `[defaults]` is one in which
/// only keys of [`Place::Each`] may stand.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    shelf: Option<Number<0, { Address::ANY_SHELF as u64 - 1 }>>,
    slot: Option<Number<0, { LAST_SLOT as u64 }>>,
    slot_from: Option<Number<0, { LAST_SLOT as u64 }>>,
    path: Option<PathBuf>,
    cache: Option<CacheMode>,
    direct: Option<bool>,
    read_only: Option<bool>,
    allow: Option<Vec<Station>>,
    buffers: Option<Number<2, 1024>>,
    model: Option<Text<40>>,
    edits: Option<Edits>,
    serial: Option<Text<20>>,
    offset: Option<Number<0, SECTORS_MAX>>,
    length: Option<Number<1, SECTORS_MAX>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edits {
    config: Option<WhoEdits>,
    mask: Option<WhoEdits>,
    reservation: Option<WhoEdits>,
}

impl Edits {
    fn over(&self, policy: &EditPolicy) -> EditPolicy {
        let or = |who: &Option<WhoEdits>, editors: &Editors| {
            who.as_ref().map_or_else(|| editors.clone(), |who| who.0.clone())
        };
        EditPolicy {
            config: or(&self.config, &policy.config),
            mask: or(&self.mask, &policy.mask),
            reservation: or(&self.reservation, &policy.reservation),
        }
    }
}

impl Entry {
    /// The one export this is, where a family would make no sense.
    pub fn single(&self, defaults: &Defaults) -> Result<ExportSettings, String> {
        if self.slot_from.is_some() {
            return Err("slot-from is for families; give slot".into());
        }
        let (Some(shelf), Some(slot)) = (&self.shelf, &self.slot) else {
            return Err("shelf and slot must be given".into());
        };
        match &self.path {
            Some(path) if path.is_absolute() => {
                Ok(self.export(Address::new(shelf.0 as u16, slot.0 as u8), path.clone(), defaults))
            }
            _ => Err("path must be given, and start with /".into()),
        }
    }

    /// An export that is served, changed as this says.
    pub fn amend(&self, export: &ExportSettings) -> Result<ExportSettings, String> {
        let place = self.shelf.is_some() || self.slot.is_some() || self.slot_from.is_some();
        if place || self.path.is_some() || self.offset.is_some() {
            return Err("shelf, slot, path and offset cannot be changed; remove the export and add it again".into());
        }
        let ExportSettings { read_only, cache, direct, buffers, allow, model, edits, .. } = export.clone();
        let now = Defaults { read_only, cache, direct, buffers, allow, model, edits };
        let amended = self.export(export.address, export.path.clone(), &now);
        Ok(ExportSettings {
            offset: export.offset,
            length: amended.length.or(export.length),
            serial: amended.serial.clone().or_else(|| export.serial.clone()),
            ..amended
        })
    }

    /// What it says about what every export has.
    fn over(&self, defaults: &Defaults) -> Defaults {
        let Defaults { read_only, cache, direct, buffers, allow, model, edits } = defaults;
        Defaults {
            read_only: self.read_only.unwrap_or(*read_only),
            cache: self.cache.unwrap_or(*cache),
            direct: self.direct.unwrap_or(*direct),
            buffers: self.buffers.as_ref().map_or(*buffers, |buffers| buffers.0 as u16),
            allow: self
                .allow
                .as_ref()
                .map_or_else(|| allow.clone(), |list| list.iter().map(|station| station.0).collect()),
            model: self.model.as_ref().map_or_else(|| model.clone(), |model| model.0.clone()),
            edits: self.edits.as_ref().map_or_else(|| edits.clone(), |own| own.over(edits)),
        }
    }

    fn export(&self, address: Address, path: PathBuf, defaults: &Defaults) -> ExportSettings {
        ExportSettings {
            offset: self.offset.as_ref().map_or(0, |offset| offset.0),
            length: self.length.as_ref().map(|length| length.0),
            serial: self.serial.as_ref().map(|serial| serial.0.clone()),
            ..ExportSettings::new(address, path, self.over(defaults))
        }
    }
}

/// A number in a range.
#[derive(Clone, Copy, Debug)]
struct Number<const LEAST: u64, const MOST: u64>(u64);

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Number<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        if !(LEAST..=MOST).contains(&number) {
            let expected = format!("a number from {LEAST} to {MOST}");
            return Err(D::Error::invalid_value(Unexpected::Unsigned(number), &expected.as_str()));
        }
        Ok(Self(number))
    }
}

/// Reads a text by a function, inside of the deserializer, which then knows where it stands.
struct ByText<T>(fn(&str) -> Result<T, String>, PhantomData<T>);

impl<T> ByText<T> {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, by: fn(&str) -> Result<T, String>) -> Result<T, D::Error> {
        deserializer.deserialize_str(Self(by, PhantomData))
    }
}

impl<T> Visitor<'_> for ByText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

#[derive(Clone, Debug)]
struct Station(MacAddr);

impl<'de> Deserialize<'de> for Station {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByText::read(deserializer, station).map(Self)
    }
}

#[derive(Clone, Debug)]
struct Text<const MAX: usize>(String);

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByText::read(deserializer, ata_text::<MAX>).map(Self)
    }
}

#[derive(Clone, Debug)]
struct Metrics(Endpoint);

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByText::read(deserializer, |text| text.parse().map_err(|error: EndpointError| error.to_string())).map(Self)
    }
}

#[derive(Clone, Debug)]
struct InterfaceName(String);

impl<'de> Deserialize<'de> for InterfaceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByText::read(deserializer, |text| match Pattern::new(text) {
            _ if text.is_empty() => Err("name an interface, or leave the list out for all".into()),
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("{} at character {}", error.msg, error.pos + 1)),
        })
    }
}

#[derive(Clone, Debug)]
struct WhoEdits(Editors);

impl<'de> Deserialize<'de> for WhoEdits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Who;

        impl<'de> Visitor<'de> for Who {
            type Value = Editors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", \"none\" or a list of MAC addresses")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Editors, E> {
                match text {
                    "all" => Ok(Editors::All),
                    "none" => Ok(Editors::None),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Editors, A::Error> {
                let mut stations = Vec::new();
                while let Some(Station(station)) = list.next_element()? {
                    stations.push(station);
                }
                Ok(Editors::These(stations))
            }
        }

        deserializer.deserialize_any(Who).map(Self)
    }
}

// ---- What it means -----------------------------------------------------------------------------------------------

/// A mistake and where it is, in bytes from the start.
type Misread = (usize, Mistake);

/// What an entry stands for.
enum Named {
    Exports(Vec<ExportSettings>),
    /// A family without a file.
    Nothing {
        shelf: u16,
        path: PathBuf,
        reason: String,
    },
}

/// Turns entries into exports, and sees to it that they do not clash.
struct Reader<'a, F> {
    text: &'a str,
    document: &'a DeTable<'a>,
    folder: &'a Path,
    files: &'a F,
    /// Where addresses are named.
    addresses: BTreeMap<Address, usize>,
    /// Files, by which export and where, and whether it only reads.
    uses: BTreeMap<PathBuf, (Address, usize, bool)>,
}

impl<F: Files> Reader<'_, F> {
    fn exports(&mut self, index: usize, entry: &Entry, defaults: &Defaults) -> Result<Named, Misread> {
        let missing = |key| (self.at(index, ""), Mistake::Missing { key, about: about(key) });
        let shelf = entry.shelf.as_ref().ok_or_else(|| missing("shelf"))?.0 as u16;
        let path = entry.path.as_ref().ok_or_else(|| missing("path"))?;
        if path.as_os_str().is_empty() {
            return Err((self.at(index, "path"), Mistake::Missing { key: "path", about: about("path") }));
        }
        let is_pattern = path.to_str().is_some_and(|path| path.contains(['*', '?']));
        let places = match (&entry.slot, &entry.slot_from) {
            (Some(_), None) if is_pattern => return Err((self.at(index, "path"), Mistake::PatternNeedsSlotFrom)),
            (Some(slot), None) => vec![(slot.0 as u8, self.folder.join(path))],
            (None, Some(_)) if entry.serial.is_some() => {
                return Err((self.at(index, "serial"), Mistake::SerialOfFamily));
            }
            (None, Some(from)) => {
                let found = self.family(path, from.0 as u8).map_err(|mistake| (self.at(index, "path"), mistake))?;
                match found {
                    Ok(places) => places,
                    Err(reason) => return Ok(Named::Nothing { shelf, path: self.folder.join(path), reason }),
                }
            }
            (None, None) | (Some(_), Some(_)) => return Err((self.at(index, "slot-from"), Mistake::OneOfSlots)),
        };
        let mut exports = Vec::with_capacity(places.len());
        for (slot, path) in places {
            let export = entry.export(Address::new(shelf, slot), path, defaults);
            self.clash(index, &export)?;
            exports.push(export);
        }
        Ok(Named::Exports(exports))
    }

    /// The files that fit a pattern, and their slots; or why there are none.
    fn family(&self, path: &Path, from: u8) -> Result<Result<Vec<(u8, PathBuf)>, String>, Mistake> {
        let shown = path.display().to_string();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(Mistake::SlotFromNeedsPattern)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.to_str().is_some_and(|parent| parent.contains(['*', '?'])) {
            return Err(Mistake::FolderPattern(shown));
        }
        if !name.contains(['*', '?', '[']) {
            return Err(Mistake::SlotFromNeedsPattern);
        }
        let pattern = Pattern::new(name).map_err(|error| Mistake::Unfit {
            key: "path",
            found: shown.clone(),
            reason: error.msg.to_owned(),
        })?;
        let folder = self.folder.join(parent);
        let mut names = match self.files.names(&folder, &pattern) {
            Ok(names) if names.is_empty() => {
                return Ok(Err(format!("no file fits {shown}; create one, or leave the export out")));
            }
            Ok(names) => names,
            Err(error) => return Ok(Err(format!("{}: {error}; check the path", folder.display()))),
        };
        if names.len() > usize::from(LAST_SLOT - from) + 1 {
            return Err(Mistake::TooManyFit { files: names.len(), from });
        }
        names.sort_unstable();
        Ok(Ok((from..=LAST_SLOT).zip(names.into_iter().map(|name| folder.join(name))).collect()))
    }

    /// Whether an export clashes with one before.
    fn clash(&mut self, index: usize, export: &ExportSettings) -> Result<(), Misread> {
        let address = export.address;
        let (at_slot, at_path) = (self.at(index, "slot"), self.at(index, "path"));
        if let Some(first) = self.addresses.insert(address, at_slot) {
            let first = line_and_column(self.text, first).0;
            return Err((at_slot, Mistake::Twice { address, first }));
        }
        let real = self.files.real(&export.path).unwrap_or_else(|| export.path.clone());
        let before = self.uses.insert(real, (address, at_path, export.read_only));
        if let Some((other, first, read_only)) = before
            && !(read_only && export.read_only)
        {
            let first = line_and_column(self.text, first).0;
            return Err((at_path, Mistake::TwoUsers { path: export.path.display().to_string(), other, first }));
        }
        Ok(())
    }

    /// Where the value of a key of an export stands; without one, where the export begins.
    fn at(&self, index: usize, key: &str) -> usize {
        let entry = self.document.get("export").and_then(|exports| exports.get_ref().get(index));
        let slots = ["slot", "slot-from"];
        let keys = if slots.contains(&key) { &slots[..] } else { &[key] };
        let value = entry.and_then(|entry| keys.iter().find_map(|key| entry.get_ref().get(*key)));
        value.or(entry).map_or(0, |found| found.span().start)
    }
}

/// The first key that is not known where it stands: where that is, the key, and the place it stands in.
fn strange_key<'a>(table: &'a DeTable<'_>, place: Place) -> Option<(usize, &'a str, Place)> {
    let judged = table.iter().filter_map(|(name, value)| {
        let (at, name) = (name.span().start, name.get_ref().as_ref());
        let here = KEYS.iter().find(|key| key.name == name && key.place.is_in(place));
        let Some(key) = here else { return Some((at, name, place)) };
        let inner = match (key.place, key.name) {
            (Place::Top, "defaults") => Place::Each,
            (Place::Top, "export") => Place::Export,
            (_, "edits") => Place::Edits,
            _ => return None,
        };
        tables(value).filter_map(|table| strange_key(table, inner)).min_by_key(|(at, ..)| *at)
    });
    judged.min_by_key(|(at, ..)| *at)
}

/// The table that a value is, or those in the list that it is.
fn tables<'a>(value: &'a Spanned<DeValue<'a>>) -> impl Iterator<Item = &'a DeTable<'a>> {
    let value = value.get_ref();
    let listed = value.as_array().into_iter().flat_map(|list| list.iter());
    value.as_table().into_iter().chain(listed.filter_map(|item| item.get_ref().as_table()))
}

fn unknown(name: &str, place: Place) -> Mistake {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Mistake::Misplaced { key: key.name, place: key.place };
    }
    let here = KEYS.iter().filter(|key| key.place.is_in(place)).map(|key| key.name);
    Mistake::UnknownKey { key: name.to_owned(), near: nearest(name, here) }
}

/// The innermost key whose value stands at this place, and where its part does.
fn value_at(table: &DeTable<'_>, at: usize) -> Option<(&'static Key, Range<usize>)> {
    table.iter().find_map(|(name, value)| {
        if let Some(inner) = tables(value).find_map(|table| value_at(table, at)) {
            return Some(inner);
        }
        let span = value.span();
        let key = KEYS.iter().find(|key| key.name == name.get_ref().as_ref())?;
        let item = || {
            let items = value.get_ref().as_array()?;
            items.iter().map(Spanned::span).find(|span| span.contains(&at))
        };
        span.contains(&at).then(|| (key, item().unwrap_or(span)))
    })
}

/// What serde says about a value, in our words.
fn unfit(key: &'static Key, found: String, message: &str) -> Mistake {
    let generic = ["invalid type", "invalid value", "invalid length", "unknown ", "missing field", "duplicate field"];
    let of_serde = generic.iter().any(|words| message.starts_with(words));
    match of_serde {
        true => Mistake::Value { key: key.name, kind: key.kind, found },
        false => {
            Mistake::Unfit { key: key.name, found, reason: message.split_whitespace().collect::<Vec<_>>().join(" ") }
        }
    }
}

fn about(name: &str) -> &'static str {
    KEYS.iter().find(|key| key.name == name).expect("a key of the table").kind
}

/// A part of the text that fits into a line.
fn excerpt(text: &str, span: &Range<usize>) -> String {
    let part = text.get(span.clone()).unwrap_or_default();
    shown(part)
}

/// A text from the file in a message: not too long, and on one line.
fn shown(text: &str) -> String {
    const MAX: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    let mut shown: String =
        line.chars().take(MAX).map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with these files. Links lead to what they name.
    #[derive(Default)]
    struct Host {
        files: Vec<&'static str>,
        links: Vec<(&'static str, &'static str)>,
    }

    impl Files for Host {
        fn names(&self, folder: &Path, pattern: &Pattern) -> io::Result<Vec<String>> {
            let inside = self.files.iter().filter_map(|file| Path::new(file).strip_prefix(folder).ok()?.to_str());
            // In no useful order, as in a folder.
            let names: Vec<_> = inside.filter(|name| pattern.matches(name)).map(str::to_owned).rev().collect();
            Ok(names)
        }

        fn real(&self, path: &Path) -> Option<PathBuf> {
            Some(self.links.iter().find(|(from, _)| Path::new(from) == path)?.1.into())
        }
    }

    fn read(text: &str) -> Settings {
        parse(text, Path::new("/etc/aoe/target.toml"), &Host::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    const EXPORT: &str = "[[export]]\nshelf = 7\nslot = 1\npath = \"/dev/sdb\"\n";

    #[test]
    fn an_empty_file_is_all_defaults() {
        let settings = read("");
        let Settings { interfaces, threads, io, poll, hold, wildcard_edits, sandbox, exports, .. } = &settings;
        assert_eq!((interfaces.len(), exports.len(), *threads, *io, *poll), (0, 0, 1, EngineChoice::Auto, 50));
        assert_eq!((*hold, *wildcard_edits, *sandbox), (true, false, true));
        assert_eq!((settings.state_directory, settings.control, settings.metrics), (None, None, None));
        assert_eq!(settings.file.as_deref(), Some(Path::new("/etc/aoe/target.toml")));
        assert_eq!(settings.defaults, Defaults::default());
    }

    #[test]
    fn everything_said() {
        let settings = read(
            r#"
            interfaces = ["eth1", "storage*"]
            threads = 4
            io = "io_uring"
            poll = 0
            hold = false
            wildcard-edits = true
            state-directory = "/srv/state"
            control = "control.sock"
            metrics = "unix:/run/metrics.sock"
            sandbox = false

            [defaults]
            cache = "writethrough"
            direct = true
            allow = ["02:00:00:00:00:0a"]
            edits = { mask = "none", reservation = ["02:00:00:00:00:0b"] }

            [[export]]
            shelf = 65534
            slot = 254
            path = "/dev/disk/by-id/disk"
            direct = false
            allow = []
            model = "Disk"
            serial = "S1"
            offset = 8
            length = 16
            buffers = 16
            edits = { mask = "all" }

            [[export]]
            shelf = 1
            slot = 2
            path = "images/a[1].img"
            read-only = true
            "#,
        );
        assert_eq!(settings.interfaces, ["eth1", "storage*"]);
        assert_eq!((settings.threads, settings.io, settings.poll), (4, EngineChoice::Uring, 0));
        assert_eq!((settings.hold, settings.wildcard_edits, settings.sandbox), (false, true, false));
        assert_eq!(settings.state_directory, Some("/srv/state".into()));
        assert_eq!(settings.control, Some("/etc/aoe/control.sock".into()));
        assert_eq!(settings.metrics, Some(Endpoint::Unix("/run/metrics.sock".into())));
        let b = MacAddr(2, 0, 0, 0, 0, 0xb);
        let edits = EditPolicy { config: Editors::All, mask: Editors::None, reservation: Editors::These(vec![b]) };
        let [first, second] = &settings.exports[..] else { panic!("two exports") };
        assert_eq!(
            *first,
            ExportSettings {
                address: Address::new(65534, 254),
                path: "/dev/disk/by-id/disk".into(),
                read_only: false,
                cache: CacheMode::Writethrough,
                direct: false,
                buffers: 16,
                offset: 8,
                length: Some(16),
                allow: vec![],
                serial: Some("S1".into()),
                model: "Disk".into(),
                edits: EditPolicy { mask: Editors::All, ..edits.clone() },
                clear_error: false,
            }
        );
        assert_eq!((&second.path, second.read_only, second.direct), (&"/etc/aoe/images/a[1].img".into(), true, true));
        assert_eq!((&second.allow, &second.edits), (&vec![MacAddr(2, 0, 0, 0, 0, 0xa)], &edits));
    }

    #[test]
    fn a_family_has_consecutive_slots_in_the_order_of_names() {
        let host =
            Host { files: vec!["/srv/aoe/a.img", "/srv/aoe/b.img", "/srv/aoe/c.img", "/srv/aoe/d"], links: vec![] };
        let text = "[[export]]\nshelf = 1\nslot-from = 10\npath = \"/srv/aoe/*.img\"\nread-only = true\n";
        let settings = parse(text, Path::new("/x"), &host).unwrap();
        let places: Vec<_> =
            settings.exports.iter().map(|export| format!("{} {}", export.address, export.path.display())).collect();
        assert_eq!(places, ["e1.10 /srv/aoe/a.img", "e1.11 /srv/aoe/b.img", "e1.12 /srv/aoe/c.img"]);
        assert!(settings.exports.iter().all(|export| export.read_only));
        let late = text.replace("10", "253");
        let error = parse(&late, Path::new("/x"), &host).unwrap_err().to_string();
        assert_eq!(
            error,
            "/x:4:8: 3 files fit, but there are only slots 253 to 254 on a shelf; choose a narrower pattern or more shelves"
        );
    }

    #[test]
    fn each_mistake_has_its_line_and_column() {
        let more = |lines: &str| format!("{EXPORT}{lines}");
        let second = |lines: &str| format!("{EXPORT}\n[[export]]\n{lines}");
        for (text, expected) in [
            ("threads = ", "1:11: string values must be quoted"),
            ("threads = 2\nthreads = 3", "2:1: duplicate key"),
            ("[export", "1:8: unclosed table, expected `]`"),
            ("thread = 2", "1:1: unknown key thread; did you mean threads?"),
            ("\nwildcard_edits = true", "2:1: unknown key wildcard_edits; did you mean wildcard-edits?"),
            ("colour = \"red\"", "1:1: unknown key colour; see aoe-target.toml(5)"),
            ("[exports]", "1:2: unknown key exports; did you mean export?"),
            ("[defaults]\nthreads = 2", "2:1: threads does not belong here; it stands at the top of the file, above"),
            ("[defaults]\nserial = \"A\"", "2:1: serial does not belong here; it stands in an [[export]]"),
            ("[defaults]\nedits = { masks = \"all\" }", "2:11: unknown key masks; did you mean mask?"),
            ("threads = 0", "1:11: threads takes a number from 1 to 64, not 0"),
            ("threads = -1", "1:11: threads takes a number from 1 to 64, not -1"),
            ("threads = 99999999999999999999999", "1:11: threads takes a number from 1 to 64, not 9999"),
            ("threads = \"2\"", "1:11: threads takes a number from 1 to 64, not \"2\""),
            ("io = \"fast\"", "1:6: io takes \"auto\", \"io_uring\" or \"sync\", not \"fast\""),
            ("hold = 1", "1:8: hold takes true or false, not 1"),
            ("interfaces = \"eth0\"", "1:14: interfaces takes a list of names of interfaces"),
            ("interfaces = [\n  \"eth0\",\n  \"eth[\",\n]", "3:3: interfaces: \"eth[\": invalid range pattern at"),
            ("interfaces = [\"\"]", "1:15: interfaces: \"\": name an interface, or leave the list out for all"),
            ("metrics = \"9655\"", "1:11: metrics: \"9655\": \"9655\" is no address for metrics: write unix:/PATH"),
            ("defaults = 3", "1:12: defaults takes a table: [defaults], not 3"),
            ("[export]\nshelf = 1", "1:1: export takes tables: [[export]]"),
            (&more("bufers = 3"), "5:1: unknown key bufers; did you mean buffers?"),
            (&more("buffers = 1"), "5:11: buffers takes a number from 2 to 1024, not 1"),
            (&more("buffers = 1025"), "5:11: buffers takes a number from 2 to 1024, not 1025"),
            (&more("cache = \"fast\""), "5:9: cache takes \"auto\", \"writeback\" or \"writethrough\", not \"fast\""),
            (
                &more("allow = [\n  \"02:00:00:00:00:0a\",\n  \"02:00\",\n]"),
                "7:3: allow: \"02:00\": write it like 02:00:00:00:00:0a",
            ),
            (
                &more("allow = [\"ff:ff:ff:ff:ff:ff\"]"),
                "5:10: allow: \"ff:ff:ff:ff:ff:ff\": it is no address of a single",
            ),
            (
                &more("edits = { mask = \"some\" }"),
                "5:18: mask takes \"all\", \"none\" or a list of MAC addresses, not \"some",
            ),
            (&more("edits = { mask = [\"x\"] }"), "5:19: mask: \"x\": write it like"),
            (&more("edits = \"none\""), "5:9: edits takes a table, such as"),
            (
                &more("serial = \"123456789012345678901\""),
                "5:10: serial: \"123456789012345678901\": 1 to 20 plain ASCII",
            ),
            (&more("length = 0"), "5:10: length takes a number of 512-byte sectors, at least 1, not 0"),
            (&more("slot-from = 3"), "3:8: an export needs either slot = NUMBER or"),
            (
                &second("shelf = 7\nslot = 1\npath = \"/b\""),
                "8:8: e7.1 is named twice, first in line 3; give each export",
            ),
            (
                &second("shelf = 7\nslot = 2\npath = \"/dev/sdb\""),
                "9:8: /dev/sdb is e7.1 already (line 4); set read-only = true in both, or leave one out",
            ),
            (&second("slot = 2\npath = \"/b\""), "6:1: an export needs shelf: a number from 0 to 65534"),
            (&second("shelf = 2\nslot = 2"), "6:1: an export needs path: a path"),
            (&second("shelf = 2\nslot = 2\npath = \"\""), "9:8: an export needs path: a path"),
            (&second("shelf = 2\npath = \"/b\""), "6:1: an export needs either slot = NUMBER or"),
            (&second("shelf = 65535\nslot = 2\npath = \"/b\""), "7:9: shelf takes a number from 0 to 65534, not 65535"),
            (&second("shelf = 2\nslot = 255\npath = \"/b\""), "8:8: slot takes a number from 0 to 254, not 255"),
            (&second("shelf = 2\nslot = 2\npath = \"/b/*\""), "9:8: the path is a pattern; write slot-from"),
            (&second("shelf = 2\nslot-from = 2\npath = \"/b\""), "9:8: slot-from is for a path whose last part"),
            (&second("shelf = 2\nslot-from = 2\npath = \"/*/b*\""), "9:8: /*/b*: only the last part of the path"),
            (&second("shelf = 2\nslot-from = 2\npath = \"/b/[.img\""), "9:8: path: /b/[.img: invalid range pattern"),
            (
                &second("shelf = 2\nslot-from = 2\npath = \"/b/*\"\nserial = \"A\""),
                "10:10: serial is for one disk, and this is a family; leave it out",
            ),
        ] {
            let message = match parse(text, Path::new("f"), &Host::default()) {
                Err(error) => error.to_string(),
                Ok(settings) => panic!("{text} is taken for {settings:?}"),
            };
            assert!(message.starts_with(&format!("f:{expected}")), "{text}\ngives: {message}\nnot: f:{expected}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_file_under_two_names_is_one() {
        let host = Host { files: vec![], links: vec![("/dev/disk/by-id/b", "/dev/sdb"), ("/dev/sdb", "/dev/sdb")] };
        let two =
            |extra: &str| format!("{EXPORT}[[export]]\nshelf = 7\nslot = 2\npath = \"/dev/disk/by-id/b\"\n{extra}");
        let error = parse(&two(""), Path::new("f"), &host).unwrap_err().to_string();
        assert!(error.starts_with("f:8:8: /dev/disk/by-id/b is e7.1 already (line 4)"), "{error}");
        assert!(parse(&two("read-only = true"), Path::new("f"), &host).is_err(), "the other can write");
        let both = format!("[defaults]\nread-only = true\n{}", two(""));
        let settings = parse(&both, Path::new("f"), &host).unwrap();
        assert_eq!(settings.exports[1].path, Path::new("/dev/disk/by-id/b"), "kept as it is written");
    }

    #[test]
    fn no_more_exports_than_an_engine_bears() {
        let names: Vec<_> = (0..255).map(|n| &*format!("/b/{n:03}").leak()).collect();
        let host = Host { files: names, links: vec![] };
        let family =
            |shelf: usize| format!("[[export]]\nshelf = {shelf}\nslot-from = 0\npath = \"/b/*\"\nread-only = true\n");
        let text: String = (0..16).map(family).collect();
        assert_eq!(parse(&text, Path::new("f"), &host).unwrap().exports.len(), 16 * 255);
        let error = parse(&(text + &family(16)), Path::new("f"), &host).unwrap_err().to_string();
        assert!(error.starts_with("f:82:9: these are more than 4096 exports"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("target.toml");
        let says = |part: &str| {
            let error = load(&file).unwrap_err().to_string();
            assert!(error.starts_with(file.to_str().unwrap()) && error.contains(part), "{error}");
        };
        says("no such file; name one with --config");
        fs::write(&file, b"# first\n# \xe9\n").unwrap();
        says(":2:3: this is no UTF-8 text");
    }

    #[test]
    fn families_are_of_files_that_can_be_served() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["b.img", "a.img", ".hidden.img", "c.txt"] {
            fs::write(path(name), [0; 512]).unwrap();
        }
        fs::create_dir(path("folder.img")).unwrap();
        std::os::unix::fs::symlink("nothing", path("gone.img")).unwrap();
        std::os::unix::fs::symlink("c.txt", path("link.img")).unwrap();
        let file = path("target.toml");
        fs::write(&file, "[[export]]\nshelf = 1\nslot-from = 0\npath = \"*.img\"\n").unwrap();
        let paths: Vec<_> = load(&file).unwrap().exports.into_iter().map(|export| export.path).collect();
        assert_eq!(paths, [path("a.img"), path("b.img"), path("link.img")]);
        fs::write(&file, "[[export]]\nshelf = 1\nslot-from = 0\npath = \"none/*.img\"\n").unwrap();
        let settings = load(&file).unwrap();
        let [family] = &settings.missing_families[..] else { panic!("{settings:?}") };
        let reason = &family.reason;
        assert!(reason.contains("target.toml:4: ") && reason.contains("No such file or directory"), "{reason}");
    }

    #[test]
    fn a_family_without_files_is_no_mistake() {
        let text = "[[export]]\nshelf = 2\nslot-from = 2\npath = \"b/*.img\"\n\n".to_owned() + EXPORT;
        let settings = read(&text);
        let [family] = &settings.missing_families[..] else { panic!("{settings:?}") };
        assert_eq!(family.reason, "/etc/aoe/target.toml:4: no file fits b/*.img; create one, or leave the export out");
        let [export] = &settings.exports[..] else { panic!("{settings:?}") };
        assert_eq!(settings.place(export.address), "/etc/aoe/target.toml:9: ");
        let other = |shelf: u16, path: &str| ExportSettings {
            address: Address::new(shelf, 9),
            path: path.into(),
            ..export.clone()
        };
        assert!(family.has(&other(2, "/etc/aoe/b/one.img")));
        for stranger in [other(1, "/etc/aoe/b/one.img"), other(2, "/etc/aoe/one.img"), other(2, "/etc/aoe/b/one.raw")] {
            assert!(!family.has(&stranger), "{stranger:?}");
        }
    }

    /// Keys that serde takes, from its message about one that it does not.
    fn taken<T: for<'de> Deserialize<'de> + fmt::Debug>() -> Vec<String> {
        let message = toml::from_str::<T>("zz = 0").unwrap_err().message().to_owned();
        let list = message.split_once("expected one of ").unwrap_or_else(|| panic!("{message}")).1;
        list.split(", ").map(|key| key.trim().trim_matches('`').to_owned()).collect()
    }

    #[test]
    fn the_table_of_keys_and_the_types_agree() {
        let table = |places: &[Place]| {
            let mut names: Vec<_> =
                KEYS.iter().filter(|key| places.contains(&key.place)).map(|key| key.name.to_owned()).collect();
            names.sort();
            names
        };
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(table(&[Place::Top]), sorted(taken::<Written>()));
        assert_eq!(table(&[Place::Each, Place::Export]), sorted(taken::<Entry>()));
        assert_eq!(table(&[Place::Edits]), sorted(taken::<Edits>()));
        for key in KEYS {
            assert!(key.about.ends_with('.') && !key.kind.is_empty() && !key.default.is_empty(), "{key:?}");
        }
    }

    /// The file that is installed.
    const INSTALLED: &str = include_str!("../../systemd/target.toml");

    /// A line of it that shows a key or begins a table, without the mark that makes it a comment.
    fn example(line: &str) -> Option<&str> {
        line.strip_prefix('#')
            .filter(|rest| rest.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '['))
    }

    #[test]
    fn the_installed_file_changes_nothing() {
        let settings = parse(INSTALLED, Path::new("/etc/aoe/target.toml"), &Host::default()).unwrap();
        assert_eq!(settings, read(""));
    }

    #[test]
    fn the_installed_file_has_an_example_of_every_key() {
        let host = Host { files: vec!["/srv/aoe/guests/a.img", "/srv/aoe/guests/b.img"], links: vec![] };
        let lines = INSTALLED.lines().map(|line| example(line).unwrap_or(line));
        let text = lines.collect::<Vec<_>>().join("\n");
        let settings = parse(&text, Path::new("/etc/aoe/target.toml"), &host).unwrap();
        let devices: Vec<_> = settings.exports.iter().map(|export| export.address.to_string()).collect();
        assert_eq!(devices, ["e0.1", "e0.10", "e0.11"]);
        for key in KEYS {
            let is_shown = text.lines().any(|line| match line.trim_start_matches('[').strip_prefix(key.name) {
                Some(rest) => rest.starts_with(" = ") || rest.starts_with(']'),
                None => key.place == Place::Edits && line.contains(&format!(" {} = ", key.name)),
            });
            assert!(is_shown, "{} is shown", key.name);
        }
        // What is shown as a default is one.
        let Settings { threads, poll, io, hold, wildcard_edits, sandbox, .. } = read("");
        let shown =
            (settings.threads, settings.poll, settings.io, settings.hold, settings.wildcard_edits, settings.sandbox);
        assert_eq!(shown, (threads, poll, io, hold, wildcard_edits, sandbox));
        assert_eq!(settings.defaults, Defaults { allow: settings.defaults.allow.clone(), ..Defaults::default() });
    }

    #[test]
    fn a_request_to_add_an_export_is_read_by_the_same_rules() {
        let add = |json: &str| {
            let entry: Entry = serde_json::from_str(json).map_err(|error| error.to_string())?;
            entry.single(&Defaults { read_only: true, ..Defaults::default() })
        };
        let export = add(r#"{"shelf": 1, "slot": 2, "path": "/a", "allow": ["02:00:00:00:00:0a"]}"#).unwrap();
        assert_eq!((export.address, export.read_only, export.allow.len()), (Address::new(1, 2), true, 1));
        for (json, part) in [
            (r#"{"slot": 2, "path": "/a"}"#, "shelf and slot must be given"),
            (r#"{"shelf": 1, "slot": 2, "path": "a"}"#, "start with /"),
            (r#"{"shelf": 1, "slot-from": 2, "path": "/a"}"#, "slot-from is for families"),
            (r#"{"shelf": 1, "slot": 255, "path": "/a"}"#, "expected a number from 0 to 254"),
            (r#"{"shelf": 1, "slot": 2, "path": "/a", "allow": ["x"]}"#, "write it like"),
            (r#"{"shelf": 1, "slot": 2, "path": "/a", "paths": 1}"#, "unknown field"),
        ] {
            let error = add(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
