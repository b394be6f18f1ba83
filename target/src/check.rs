//! What would be served, and what would fail at the start: looked at without locking or writing anything, so that it can be
//! asked beside a target that serves.

use std::fmt;
use std::path::PathBuf;

use aoe_common::addr::Address;
use aoe_common::link::ethernet_interfaces;
use aoe_common::text::{size, table};
use serde::Serialize;

use crate::disk::{DiskOptions, examine};
use crate::serve::Choice;
use crate::settings::{ExportSettings, Settings};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Names of interfaces, and patterns; none: all.
    pub interfaces: Vec<String>,
    /// By address.
    pub exports: Vec<Found>,
    /// What would fail, or be waited for, in a line each.
    pub warnings: Vec<String>,
}

/// An export that would be served.
#[derive(Debug, Serialize)]
pub struct Found {
    /// Its address.
    pub device: Address,
    /// The file or block device.
    pub path: PathBuf,
    /// Its size; `None` when it cannot be served.
    pub size_bytes: Option<u64>,
    /// Takes no writes.
    pub read_only: bool,
    /// When writes are acknowledged.
    pub cache: String,
    /// Goes around the page cache.
    pub direct: bool,
    /// Requests it says it can queue.
    pub buffers: u16,
    /// Stations it is for; none: all.
    pub allow: Vec<String>,
}

impl Report {
    /// Looks at what the settings name.
    pub fn of(settings: &Settings) -> Self {
        let mut warnings = Vec::new();
        match ethernet_interfaces() {
            Ok(all) => {
                let missing = |name: &String| {
                    Choice::of_patterns(std::slice::from_ref(name)).and_then(|one| one.check(&all)).err()
                };
                warnings.extend(settings.interfaces.iter().filter_map(missing).map(|error| error.to_string()));
                if all.is_empty() && settings.interfaces.is_empty() {
                    warnings.push("there is no Ethernet interface; add one".into());
                }
            }
            Err(error) => warnings.push(format!("cannot list the interfaces: {error}")),
        }
        let found = |export| Found::of(export, &settings.place(export.address), &mut warnings);
        let mut exports: Vec<_> = settings.exports.iter().map(found).collect();
        warnings.extend(settings.missing_families.iter().map(|family| family.reason.clone()));
        exports.sort_by_key(|found| found.device);
        Self { file: settings.file.clone(), interfaces: settings.interfaces.clone(), exports, warnings }
    }
}

impl Found {
    fn of(export: &ExportSettings, place: &str, warnings: &mut Vec<String>) -> Self {
        let size = examine(&DiskOptions {
            path: export.path.clone(),
            read_only: export.read_only,
            direct: export.direct,
            offset_sectors: export.offset,
            length_sectors: export.length,
        });
        if let Err(error) = &size {
            warnings.push(format!("{place}{}: {error}", export.address));
        }
        Self {
            device: export.address,
            path: export.path.clone(),
            size_bytes: size.ok(),
            read_only: export.read_only,
            cache: export.cache.name().to_owned(),
            direct: export.direct,
            buffers: export.buffers,
            allow: export.allow.iter().map(ToString::to_string).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on =
            if self.interfaces.is_empty() { "every Ethernet interface".to_owned() } else { self.interfaces.join(", ") };
        if self.exports.is_empty() {
            return writeln!(f, "no exports yet, on {on}");
        }
        let row = |found: &Found| {
            let Found { device, path, size_bytes, read_only, cache, direct, allow, .. } = found;
            vec![
                device.to_string(),
                size_bytes.map_or("-".to_owned(), size),
                if *read_only { "read-only" } else { "read-write" }.to_owned(),
                if *direct { format!("{cache}, direct") } else { cache.clone() },
                match &allow[..] {
                    [] => "everybody".to_owned(),
                    [one] => one.clone(),
                    more => format!("{} stations", more.len()),
                },
                path.display().to_string(),
            ]
        };
        let header = ["device", "size", "access", "cache", "for", "path"];
        let plural = if self.exports.len() == 1 { "" } else { "s" };
        let table = table(&header, self.exports.iter().map(row));
        writeln!(f, "{table}\n\n{} export{plural} on {on}", self.exports.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_would_fail_is_told_for_each_export() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["good.img", "other.img"] {
            std::fs::write(path(name), [0; 4096]).unwrap();
        }
        std::fs::write(path("small.img"), [0; 100]).unwrap();
        std::fs::create_dir(path("folder.img")).unwrap();
        let mut text = "interfaces = [\"no-such-*\"]\n".to_owned();
        for (slot, (name, more)) in [
            ("good.img", "offset = 2\nallow = [\"02:00:00:00:00:0a\"]"),
            ("other.img", "read-only = true\nlength = 9"),
            ("small.img", ""),
            ("folder.img", ""),
            ("missing.img", ""),
        ]
        .into_iter()
        .enumerate()
        {
            text += &format!("[[export]]\nshelf = 3\nslot = {slot}\npath = \"{name}\"\n{more}\n");
        }
        std::fs::write(path("target.toml"), text).unwrap();
        let report = Report::of(&config::load(&path("target.toml")).unwrap());
        let sizes: Vec<_> = report.exports.iter().map(|found| found.size_bytes).collect();
        assert_eq!(sizes, [Some(3072), None, None, None, None]);
        for (warning, part) in report.warnings.iter().zip([
            "no-such-*: no such Ethernet interface",
            "offset 0 + length 9 sectors is outside of its 8 sectors",
            "holds 100 bytes, less than one sector",
            "is a directory",
            "no such file",
        ]) {
            assert!(warning.contains(part), "{warning}");
        }
        assert_eq!(report.warnings.len(), 5, "{:?}", report.warnings);
        let text = report.to_string();
        assert!(text.contains("e3.0    3.0 KiB  read-write  auto   02:00:00:00:00:0a"), "{text}");
        assert!(text.ends_with("5 exports on no-such-*\n"), "{text}");
        // Nobody's lock was taken, and a lock is no reason to complain.
        let options = DiskOptions { path: path("good.img"), ..DiskOptions::default() };
        let served = crate::disk::DiskFile::open(&options).unwrap();
        assert_eq!(examine(&options).unwrap(), served.size_bytes());
    }
}
