//! What `aoe-target` is told to do, whoever says it: the command line of `export`, or the configuration file of `serve`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aoe_common::addr::Address;
use aoe_common::scrape::Endpoint;
use aoe_common::wire::MacAddr;
use glob::Pattern;

use crate::control::{DEFAULT_SOCKET, SOCKET_VARIABLE};
use crate::disk::EngineChoice;
use crate::engine::durability::CacheMode;
use crate::engine::editors::EditPolicy;

/// Everything, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Names of interfaces, or patterns of such with `*`, `?` and `[...]`; none: every Ethernet interface.
    pub interfaces: Vec<String>,
    /// Serving threads, 1 to 64.
    pub threads: u16,
    /// How disks are reached.
    pub io: EngineChoice,
    /// Microseconds a worker looks out for requests before it sleeps, 0 to 1000.
    pub poll: u16,
    /// Whether writes wait after a restart.
    pub hold: bool,
    /// Whether one frame may change settings of many exports, or write to them.
    pub wildcard_edits: bool,
    /// Whether threads are confined to what they need.
    pub sandbox: bool,
    /// Where settings made by clients are kept. `None`: the default.
    pub state_directory: Option<PathBuf>,
    /// The control socket. `None`: the default place.
    pub control: Option<PathBuf>,
    /// Where figures are given out, if they are.
    pub metrics: Option<Endpoint>,
    /// The configuration file these were read from. With one, the process is a daemon: interfaces that are not there yet are
    /// waited for, and exports may come and go. `None`: a command line said all there is.
    pub file: Option<PathBuf>,
    /// What holds for exports that are added later, unless they say otherwise.
    pub defaults: Defaults,
    /// The exports, in the order in which they were named; each address once.
    pub exports: Vec<ExportSettings>,
    /// In which line of the file each of them is named, from 1.
    pub lines: BTreeMap<Address, usize>,
    /// Families of which no file was found.
    pub missing_families: Vec<MissingFamily>,
}

impl Settings {
    /// Where the control socket is to be. A command line that names none gets none, so that several can run on a host.
    pub fn control_socket(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let usual = || variable().unwrap_or_else(|| DEFAULT_SOCKET.into());
        self.control.clone().or_else(|| self.file.is_some().then(usual))
    }

    /// Where the configuration file names an export, to begin a message with; empty without a file.
    pub fn place(&self, address: Address) -> String {
        match (&self.file, self.lines.get(&address)) {
            (Some(file), Some(line)) => format!("{}:{line}: ", file.display()),
            _ => String::new(),
        }
    }
}

/// A family of files of which none is there. The file is right; what it names may be there later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFamily {
    /// Its shelf.
    pub shelf: u16,
    /// The folder, and a pattern as the last part.
    pub path: PathBuf,
    /// Where the file names it, why nothing was found and what to do.
    pub reason: String,
}

impl MissingFamily {
    /// Whether an export is one of the family.
    pub fn has(&self, export: &ExportSettings) -> bool {
        let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let fits = || Some(Pattern::new(&name(&self.path)?).ok()?.matches(&name(&export.path)?));
        export.address.shelf == self.shelf && export.path.parent() == self.path.parent() && fits().unwrap_or(false)
    }
}

/// One export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// Its address; no wildcard.
    pub address: Address,
    /// The file or block device.
    pub path: PathBuf,
    /// Takes no writes.
    pub read_only: bool,
    /// When writes are acknowledged.
    pub cache: CacheMode,
    /// Goes around the page cache.
    pub direct: bool,
    /// Requests it says it can queue, 2 to 1024.
    pub buffers: u16,
    /// 512-byte sectors left out at the start of the file.
    pub offset: u64,
    /// 512-byte sectors; `None`: all, and more as the file grows.
    pub length: Option<u64>,
    /// Stations that may use it; empty means all.
    pub allow: Vec<MacAddr>,
    /// Serial number, up to 20 characters. `None`: made from address and path.
    pub serial: Option<String>,
    /// Model, up to 40 characters.
    pub model: String,
    /// Who may edit what clients can set.
    pub edits: EditPolicy,
    /// Data was lost below, and the operator has looked: take writes again.
    pub clear_error: bool,
}

impl ExportSettings {
    /// The whole of a file, with what is said of all exports.
    pub fn new(address: Address, path: PathBuf, defaults: Defaults) -> Self {
        let Defaults { read_only, cache, direct, buffers, allow, model, edits } = defaults;
        Self {
            address,
            path,
            read_only,
            cache,
            direct,
            buffers,
            offset: 0,
            length: None,
            allow,
            serial: None,
            model,
            edits,
            clear_error: false,
        }
    }
}

/// Exports of a target at the most. Each has two open files, and a save under way at times.
pub const EXPORTS_MAX: usize = 4096;

/// Requests an export says it can queue, unless told otherwise.
pub const BUFFERS: u16 = 64;

/// Model of a disk, unless told otherwise.
pub const MODEL: &str = "AoE toolkit disk";

/// Microseconds a worker looks out for requests, unless told otherwise.
pub const POLL: u16 = 50;

/// What exports have in common unless they say otherwise. The fields are those of [`ExportSettings`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields have their description where they end up")]
pub struct Defaults {
    pub read_only: bool,
    pub cache: CacheMode,
    pub direct: bool,
    pub buffers: u16,
    pub allow: Vec<MacAddr>,
    pub model: String,
    pub edits: EditPolicy,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            read_only: false,
            cache: CacheMode::Auto,
            direct: false,
            buffers: BUFFERS,
            allow: Vec::new(),
            model: MODEL.to_owned(),
            edits: EditPolicy::default(),
        }
    }
}

/// The address of one station.
pub fn station(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|_| "write it like 02:00:00:00:00:0a".to_owned())?;
    if mac.0 & 1 != 0 || mac == MacAddr::zero() {
        return Err("it is no address of a single station".to_owned());
    }
    Ok(mac)
}

/// A text for IDENTIFY.
pub fn ata_text<const MAX: usize>(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !printable || text.trim().is_empty() || text.len() > MAX {
        return Err(format!("1 to {MAX} plain ASCII characters fit"));
    }
    Ok(text.to_owned())
}
