//! What `aoe-target` is told to do, whoever says it: the command line of `export` or a configuration file.

use std::path::PathBuf;

use aoe_common::addr::Address;
use aoe_common::wire::MacAddr;

use crate::disk::EngineChoice;
use crate::engine::durability::CacheMode;

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
    /// The exports, in the order in which they were named; each address once.
    pub exports: Vec<ExportSettings>,
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
    /// Data was lost below, and the operator has looked: take writes again.
    pub clear_error: bool,
}
