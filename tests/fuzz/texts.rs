//! Texts that people and earlier runs wrote: stored settings, addresses, the words of a command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use aoe_common::addr::{Address, parse_shelf, parse_slot};
use aoe_target::cli::{Args, Command};
use aoe_target::settings::Settings;
use aoe_target::state;

/// Reads the input as each of them.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        settings(text);
        text.lines().for_each(address);
    }
    command_line(data);
}

/// Settings that can be read are stored and read again as they were.
fn settings(text: &str) {
    let Ok((image, settings)) = state::parse(text) else { return };
    let stored = state::emit(&image, &settings);
    assert_eq!(state::parse(&stored), Ok((image, settings)), "{stored}");
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
