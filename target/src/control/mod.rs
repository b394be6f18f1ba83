//! The control side of a target that serves: who may ask for what over the control socket, and what comes of it.
//!
//! A request is a line of JSON, so is its answer, and several may follow one another:
//!
//! ```text
//! {"command":"status"}                                                     {"ok":{"version":...,"exports":[...]}}
//! {"command":"add","export":{"shelf":0,"slot":3,"path":"/srv/disk.img"}}   {"ok":{"done":["e0.3 ..."]}}
//! {"command":"remove","device":"e0.9"}                                     {"error":"e0.9 is not served here; ..."}
//! ```
//!
//! An answer `ok` tells what has happened: the export is served, the file is closed and unlocked, the edit is stored and
//! nobody it shuts out has a write running. Changes are made one after the other; questions wait for none.

mod reload;
pub(crate) mod roster;
pub(crate) mod socket;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use aoe_common::addr::Address;
use aoe_common::wire::{CONFIG_STRING_MAX, MacAddr};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Value, json};

use self::roster::Roster;
use crate::config::Entry;
use crate::engine::changes::OperatorEdit;
use crate::log::{self, Level};
use crate::settings::station;

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/aoe-target/control.sock";

/// Names another one.
pub const SOCKET_VARIABLE: &str = "AOE_TARGET_CONTROL";

/// What can be asked for.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    /// How it and its exports are.
    Status,
    /// Serves one more. Its keys are those of the configuration file.
    Add { export: Box<Entry> },
    /// Serves one no longer.
    Remove { device: Address },
    /// Reads the size of a file again; or exports so many 512-byte sectors of it; or all again.
    Resize {
        device: Address,
        sectors: Option<u64>,
        #[serde(default)]
        all: bool,
    },
    /// Changes settings. The keys are those of the configuration file.
    Set { device: Address, to: Box<Entry> },
    /// The mask list, after a change if one is asked for.
    Mask {
        device: Address,
        set: Option<Vec<String>>,
        #[serde(default)]
        add: Vec<String>,
        #[serde(default)]
        delete: Vec<String>,
    },
    /// Who holds the reservation, after a change if one is asked for. Nobody: it is released.
    Reservation { device: Address, set: Option<Vec<String>> },
    /// The config string, after a change if one is asked for.
    ConfigString { device: Address, set: Option<String> },
    /// Data was lost below, and the operator has looked: take writes again.
    ClearError { device: Address },
    /// Takes no new requests, for one export or all.
    Drain { device: Option<Address> },
    /// Takes them again.
    Undrain { device: Option<Address> },
    /// Makes the configuration file true.
    Reload,
    /// Logs lines of this level and those before it from now on.
    LogLevel { level: String },
}

/// Who asks, for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub uid: u32,
    pub pid: Option<i32>,
}

/// See the [module](self).
pub(crate) struct Control {
    pub roster: Arc<Roster>,
}

impl Control {
    /// Does what a line asks for, and says what came of it.
    async fn answer(&self, asker: Asker, line: &[u8]) -> Value {
        let request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => return refusal(&format!("no request: {error}; try {{\"command\":\"status\"}}")),
        };
        if !matches!(request, Request::Status) {
            let (uid, pid) = (asker.uid, asker.pid.unwrap_or_default());
            let text = String::from_utf8_lossy(line.trim_ascii());
            tracing::info!("user {uid}, process {pid}, asks: {text:.300}");
        }
        match self.obey(request).await {
            Ok(answer) => json!({ "ok": answer }),
            Err(error) => {
                tracing::info!("refused: {error:#}");
                refusal(&format!("{error:#}"))
            }
        }
    }

    async fn obey(&self, request: Request) -> Result<Value> {
        let roster = &self.roster;
        let done = |line: String| Ok(json!({ "done": [line] }));
        match request {
            Request::Status => Ok(serde_json::to_value(roster.status().await?)?),
            Request::Add { export } => done(roster.add(&export).await?),
            Request::Remove { device } => done(roster.remove(device).await?),
            Request::Resize { device, sectors, all } => {
                let length = match (sectors, all) {
                    (Some(_), true) => bail!("say how many sectors, or all"),
                    (Some(sectors), false) => Some(Some(sectors)),
                    (None, true) => Some(None),
                    (None, false) => None,
                };
                let sectors = roster.resize(device, length).await?;
                done(format!("{device} has {sectors} sectors"))
            }
            Request::Set { device, to } => done(roster.set(device, &to).await?),
            Request::Mask { device, set, add, delete } => {
                let edits = [
                    set.as_deref().map(stations).transpose()?.map(OperatorEdit::MaskSet),
                    Some(OperatorEdit::MaskDelete(stations(&delete)?)).filter(|_| !delete.is_empty()),
                    Some(OperatorEdit::MaskAdd(stations(&add)?)).filter(|_| !add.is_empty()),
                ];
                let mut edits = edits.into_iter().flatten();
                if let Some(edit) = edits.next() {
                    if edits.next().is_some() {
                        bail!("set, add or delete: one at a time");
                    }
                    roster.edit(device, edit).await?;
                }
                Ok(json!({ "device": device, "mask": roster.export(device).await?.mask }))
            }
            Request::Reservation { device, set } => {
                if let Some(set) = set {
                    roster.edit(device, OperatorEdit::Reservation(stations(&set)?)).await?;
                }
                Ok(json!({ "device": device, "reservation": roster.export(device).await?.reservation }))
            }
            Request::ConfigString { device, set } => {
                if let Some(set) = set {
                    if set.len() > CONFIG_STRING_MAX {
                        bail!("a config string has at most {CONFIG_STRING_MAX} bytes");
                    }
                    roster.edit(device, OperatorEdit::ConfigString(set.into_bytes())).await?;
                }
                Ok(json!({ "device": device, "config-string": roster.export(device).await?.config_string }))
            }
            Request::ClearError { device } => done(roster.clear_error(device).await?),
            Request::Drain { device } => done(roster.drain(device).await?),
            Request::Undrain { device } => done(roster.undrain(device).await?),
            Request::Reload => Ok(serde_json::to_value(roster.reload().await?)?),
            Request::LogLevel { level } => {
                let level = Level::from_str(&level, true)
                    .map_err(|_| anyhow!("a level is error, warn, info, debug or trace"))?;
                log::set_level(level);
                done(format!("the log level is {}", level.name()))
            }
        }
    }
}

fn refusal(text: &str) -> Value {
    json!({ "error": text })
}

fn stations(list: &[String]) -> Result<Vec<MacAddr>> {
    list.iter()
        .map(|text| station(text).map_err(|why| anyhow!("{text}: {why}")))
        .collect::<Result<_>>()
        .context("a station")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_they_are_typed() {
        for line in [
            r#"{"command":"status"}"#,
            r#"{"command":"add","export":{"shelf":0,"slot":3,"path":"/srv/disk.img","read-only":true}}"#,
            r#"{"command":"remove","device":"e0.3"}"#,
            r#"{"command":"resize","device":"e0.3"}"#,
            r#"{"command":"resize","device":"e0.3","sectors":2048}"#,
            r#"{"command":"set","device":"e0.3","to":{"cache":"writeback","allow":["02:00:00:00:00:0a"]}}"#,
            r#"{"command":"mask","device":"e0.3"}"#,
            r#"{"command":"mask","device":"e0.3","add":["02:00:00:00:00:0a"]}"#,
            r#"{"command":"reservation","device":"e0.3","set":[]}"#,
            r#"{"command":"config-string","device":"e0.3","set":"boot"}"#,
            r#"{"command":"clear-error","device":"e0.3"}"#,
            r#"{"command":"drain"}"#,
            r#"{"command":"undrain","device":"e0.3"}"#,
            r#"{"command":"reload"}"#,
            r#"{"command":"log-level","level":"debug"}"#,
        ] {
            let request: Result<Request, _> = serde_json::from_str(line);
            assert!(request.is_ok(), "{line}: {request:?}");
        }
        for line in [
            "",
            "status",
            r#"{"command":"format"}"#,
            r#"{"command":"remove"}"#,
            r#"{"command":"remove","device":"e0.*","force":true}"#,
            r#"{"command":"set","device":"e0.3","to":{"colour":"blue"}}"#,
            r#"{"command":"add","export":{"shelf":0,"slot":300,"path":"/srv/disk.img"}}"#,
        ] {
            assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
        }
    }
}
