//! Texts that people and earlier runs wrote: stored settings, addresses, the words of a command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use aoe_common::addr::{Address, parse_shelf, parse_slot};
use aoe_target::cli::{Args, Command};
use aoe_target::config::{self, ConfigError, Files, Pattern};
use aoe_target::settings::EXPORTS_MAX;
use aoe_target::settings::Settings;
use aoe_target::{lives, state};

/// Reads the input as each of them.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        settings(text);
        lives(text);
        text.lines().for_each(address);
        configuration(text);
    }
    command_line(data);
}

/// Settings that can be read are stored and read again as they were.
fn settings(text: &str) {
    let Ok((image, settings)) = state::parse(text) else { return };
    let stored = state::emit(&image, &settings);
    assert_eq!(state::parse(&stored), Ok((image, settings)), "{stored}");
}

/// So are the lives of exports.
fn lives(text: &str) {
    let Ok(lives) = lives::parse(text) else { return };
    assert_eq!(lives::parse(&lives::emit(&lives)), Ok(lives), "{text}");
}

/// A folder of many names that fit many patterns.
struct Folder;

impl Files for Folder {
    fn names(&self, _: &Path, pattern: &Pattern) -> io::Result<Vec<String>> {
        Ok((0..300).map(|number| format!("disk-{number}")).filter(|name| pattern.matches(name)).collect())
    }

    fn real(&self, path: &Path) -> Option<PathBuf> {
        path.as_os_str().len().is_multiple_of(2).then(|| path.to_owned())
    }
}

/// Any text is a configuration that can be served, or has a mistake with a place in it.
fn configuration(text: &str) {
    let file = Path::new("/etc/aoe/target.toml");
    let settings = match config::parse(text, file, &Folder) {
        Ok(settings) => settings,
        Err(ConfigError::Mistake { line, column, mistake, .. }) => {
            // A mistake at the end of the file may be on the line after the last.
            assert!((1..=text.lines().count() + 1).contains(&line), "line {line} of {text:?}");
            let length = text.lines().nth(line - 1).map_or(0, |line| line.chars().count());
            assert!((1..=length + 2).contains(&column), "column {column} of {line} of {text:?}");
            let message = mistake.to_string();
            assert!(!message.is_empty() && message.lines().count() == 1, "{message:?}");
            return;
        }
        Err(error) => panic!("{error}: nothing was to be read"),
    };
    assert!((1..=64).contains(&settings.threads) && settings.poll <= 1000 && settings.exports.len() <= EXPORTS_MAX);
    assert!(settings.interfaces.iter().all(|name| Pattern::new(name).is_ok()), "patterns are looked at");
    let addresses: BTreeSet<_> = settings.exports.iter().map(|export| export.address).collect();
    assert_eq!(addresses.len(), settings.exports.len(), "an address is given once");
    let writable: Vec<_> =
        settings.exports.iter().filter(|export| !export.read_only).map(|export| &export.path).collect();
    assert_eq!(writable.iter().collect::<BTreeSet<_>>().len(), writable.len(), "a file has one writer");
    for export in &settings.exports {
        assert!(!export.address.is_wildcard() && export.path.is_absolute() && (2..=1024).contains(&export.buffers));
        assert!(export.allow.iter().all(|mac| mac.0 & 1 == 0), "only single stations are allowed by name");
        assert!(export.length != Some(0) && export.model.len() <= 40);
        assert!(export.serial.as_ref().is_none_or(|serial| (1..=20).contains(&serial.len())));
        assert!(
            export.offset.checked_add(export.length.unwrap_or(0)).is_some_and(|end| end.checked_mul(512).is_some())
        );
    }
}

fn address(text: &str) {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
        let json = serde_json::to_string(&address).expect("an address is a text");
        assert_eq!(serde_json::from_str::<Address>(&json).expect("and reads as one"), address);
    }
    assert!(parse_shelf(text).is_ok_and(|shelf| shelf != Address::ANY_SHELF) || parse_shelf(text).is_err());
    assert!(parse_slot(text).is_ok_and(|slot| slot != Address::ANY_SLOT) || parse_slot(text).is_err());
}

/// Every byte 0 ends a word. Help and the version are left out: they are printed.
fn command_line(data: &[u8]) {
    let words = data.split(|byte| *byte == 0).take(64);
    let asks = |word: &&[u8]| {
        let short = word.starts_with(b"-") && !word.starts_with(b"--");
        matches!(*word, b"--help" | b"--version" | b"help") || short && word.iter().any(|byte| b"hV".contains(byte))
    };
    let words = words.filter(|word| !asks(word)).map(|word| OsString::from_vec(word.to_vec()));
    let line = ["aoe-target".into(), "export".into()].into_iter().chain(words);
    let Ok(Some(Args { command: Command::Export(export), .. })) = Args::read(line) else { return };
    let Ok(Settings { exports: places, .. }) = export.settings() else { return };
    assert!(!places.is_empty() && places.len() <= 12, "five words make an export");
    for (index, place) in places.iter().enumerate() {
        assert!(!place.address.is_wildcard() && !place.path.as_os_str().is_empty());
        assert!(places[..index].iter().all(|other| other.address != place.address), "an address is given once");
    }
    assert!((2..=1024).contains(&export.buffers) && (1..=64).contains(&export.threads));
    assert!(export.allow.iter().all(|mac| mac.0 & 1 == 0), "only single stations are allowed by name");
}
