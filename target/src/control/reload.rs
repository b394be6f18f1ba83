//! What a configuration file says otherwise than what runs.

use std::collections::BTreeMap;

use anyhow::Result;
use aoe_common::addr::Address;
use serde::Serialize;

use super::roster::Member;
use crate::settings::{ExportSettings, Settings};

/// What has to be done to make the file true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Exports that are not in the file, and those that make room for another; and what more there is to say.
    pub leave: Vec<(Address, &'static str)>,
    /// Exports that are to be otherwise.
    pub alter: Vec<(ExportSettings, &'static str)>,
    /// Exports that are not served.
    pub join: Vec<ExportSettings>,
    /// The interfaces, if others are named.
    pub interfaces: Option<Vec<String>>,
    /// Keys whose new values count from the next start on.
    pub restart: Vec<&'static str>,
}

const BY_HAND: &str = " (ctl had made it so; the file says otherwise)";

/// Compares what runs with what a file says.
pub(super) fn difference(running: &Settings, members: &BTreeMap<Address, Member>, file: &Settings) -> Difference {
    let mut difference = Difference::default();
    let wanted: BTreeMap<_, _> = file.exports.iter().map(|export| (export.address, export)).collect();
    let why = |member: &Member| if member.by_hand { BY_HAND } else { "" };
    for (address, member) in members {
        let Some(to) = wanted.get(address) else {
            // A folder that shows no file is no word to end what is served from there.
            if file.missing_families.iter().any(|family| family.has(&member.settings)) {
                continue;
            }
            difference.leave.push((*address, why(member)));
            continue;
        };
        if **to == member.settings {
            continue;
        }
        // A file that another export still holds is free only when all that leave have left.
        let holds = |other: &Member| other.settings.path == to.path && other.settings.address != *address;
        if to.path != member.settings.path && members.values().any(holds) {
            difference.leave.push((*address, why(member)));
            difference.join.push((*to).clone());
        } else {
            difference.alter.push(((*to).clone(), why(member)));
        }
    }
    let new = wanted.iter().filter(|(address, _)| !members.contains_key(address));
    difference.join.extend(new.map(|(_, export)| (*export).clone()));
    difference.interfaces = (running.interfaces != file.interfaces).then(|| file.interfaces.clone());
    let keys = [
        ("threads", running.threads != file.threads),
        ("io", running.io != file.io),
        ("poll", running.poll != file.poll),
        ("hold", running.hold != file.hold),
        ("wildcard-edits", running.wildcard_edits != file.wildcard_edits),
        ("state-directory", running.state_directory != file.state_directory),
        // A file that names none may be started with one on the command line.
        ("control", file.control.is_some() && running.control != file.control),
        ("metrics", running.metrics != file.metrics),
        ("sandbox", running.sandbox != file.sandbox),
    ];
    difference.restart = keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
    difference
}

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// What was changed.
    pub done: Vec<String>,
    /// What could not be.
    pub failed: Vec<String>,
    /// Keys whose new values count from the next start on.
    pub restart: Vec<&'static str>,
}

impl Report {
    pub(super) fn note(&mut self, address: Address, result: Result<String>) {
        match result {
            Ok(line) => self.done.push(line),
            Err(error) => self.failed.push(format!("{address}: {error:#}")),
        }
    }

    pub(super) fn log(&self) {
        self.done.iter().for_each(|line| tracing::info!("reload: {line}"));
        self.failed.iter().for_each(|line| tracing::error!("reload: {line}"));
        if !self.restart.is_empty() {
            tracing::warn!("reload: {} count from the next start on", self.restart.join(", "));
        }
        let Self { done, failed, .. } = self;
        tracing::info!("reload: {} changes, {} failed; everything else goes on", done.len(), failed.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, HostFiles};
    use std::path::Path;

    fn file(text: &str) -> Settings {
        config::parse(text, Path::new("/etc/aoe/target.toml"), &HostFiles).unwrap()
    }

    fn export(slot: u8, path: &str, more: &str) -> String {
        format!("[[export]]\nshelf = 0\nslot = {slot}\npath = \"{path}\"\n{more}\n")
    }

    fn members(settings: &Settings) -> BTreeMap<Address, Member> {
        settings.exports.iter().map(|export| (export.address, Member::of(export))).collect()
    }

    fn addresses(exports: &[(ExportSettings, &str)]) -> Vec<String> {
        exports.iter().map(|(export, _)| export.address.to_string()).collect()
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let text = format!("threads = 2\ninterfaces = [\"eth1\"]\n{}{}", export(1, "/a", ""), export(2, "/b", ""));
        let running = file(&text);
        assert_eq!(difference(&running, &members(&running), &file(&text)), Difference::default());
    }

    #[test]
    fn exports_that_are_new_gone_or_otherwise_are_told_apart() {
        let running = file(&[export(1, "/a", ""), export(2, "/b", ""), export(3, "/c", "")].concat());
        let text = [export(2, "/b", "cache = \"writeback\""), export(3, "/c", ""), export(4, "/d", "")].concat();
        let mut members = members(&running);
        members.get_mut(&Address::new(0, 1)).unwrap().by_hand = true;
        let Difference { leave, alter, join, interfaces, restart } = difference(&running, &members, &file(&text));
        assert_eq!(leave, [(Address::new(0, 1), BY_HAND)]);
        assert_eq!((addresses(&alter), alter[0].1), (vec!["e0.2".to_owned()], ""));
        assert_eq!(join.iter().map(|export| export.address).collect::<Vec<_>>(), [Address::new(0, 4)]);
        assert_eq!((interfaces, restart), (None, vec![]));
    }

    #[test]
    fn a_family_that_finds_no_file_ends_nothing_that_is_served() {
        let running = file(&[export(1, "/nowhere/a.img", ""), export(2, "/nowhere/b.raw", "")].concat());
        let wanted = file("[[export]]\nshelf = 0\nslot-from = 1\npath = \"/nowhere/*.img\"\n");
        let Difference { leave, alter, join, .. } = difference(&running, &members(&running), &wanted);
        assert_eq!(leave, [(Address::new(0, 2), "")]);
        assert!(alter.is_empty() && join.is_empty());
    }

    #[test]
    fn files_that_change_places_leave_before_they_join() {
        let running = file(&[export(1, "/a", ""), export(2, "/b", ""), export(3, "/c", "")].concat());
        let text = [export(1, "/b", ""), export(2, "/a", ""), export(3, "/d", "")].concat();
        let Difference { leave, alter, join, .. } = difference(&running, &members(&running), &file(&text));
        assert_eq!((leave.len(), join.len()), (2, 2));
        assert_eq!(addresses(&alter), ["e0.3"], "nobody has its new file");
    }

    #[test]
    fn what_counts_from_the_next_start_on_is_named() {
        let running = file("threads = 2\n");
        let wanted =
            file("threads = 3\nio = \"sync\"\nhold = false\ninterfaces = [\"eth1\"]\nmetrics = \"127.0.0.1:9655\"\n");
        let Difference { interfaces, restart, .. } = difference(&running, &BTreeMap::new(), &wanted);
        assert_eq!(interfaces, Some(vec!["eth1".to_owned()]));
        assert_eq!(restart, ["threads", "io", "hold", "metrics"]);
    }
}
