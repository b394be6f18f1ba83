//! Rules of the tree that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder is in the tree")
}

/// All Rust files below a folder (or the file itself), with their text.
fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut to_visit = vec![root().join(below)];
    while let Some(path) = to_visit.pop() {
        if path.is_dir() {
            to_visit.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "{below} holds Rust files");
    found
}

#[test]
fn engines_and_wire_touch_nothing() {
    let values = [
        "common/src/wire",
        "common/src/ata",
        "common/src/addr.rs",
        "common/src/frame.rs",
        "common/src/ordering.rs",
        "common/src/port.rs",
        "common/src/time.rs",
        "target/src/engine",
        "initiator/src/engine",
        "initiator/src/nbd",
    ];
    let forbidden = [
        "std::net",
        "std::fs",
        "std::os",
        "std::io::Read",
        "std::thread",
        "std::process",
        "std::env",
        "std::sync",
        "Instant::now",
        "SystemTime",
        "libc::",
        "nix::",
        "tokio::",
        "tracing::",
        "unsafe ",
    ];
    let engines = values.into_iter().flat_map(sources).filter(|(path, _)| !path.iter().any(|part| part == "tests"));
    for (path, text) in engines {
        for word in forbidden {
            assert!(!text.contains(word), "{} names {word}: engines are values", path.display());
        }
    }
}

fn opens_unsafe_block(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).any(|pair| pair[0].ends_with("unsafe") && pair[1].starts_with('{'))
}

#[test]
fn unsafe_code_stays_where_it_is_expected() {
    let expected = ["common/src/link/", "common/src/netlink/", "target/src/disk/"];
    for (path, text) in ["common", "target", "initiator", "tests"].into_iter().flat_map(sources) {
        let place = path.strip_prefix(root()).unwrap().display().to_string();
        let block = text.lines().any(opens_unsafe_block);
        let known = expected.iter().any(|folder| place.starts_with(folder)) || EXCEPTIONS.contains(&place.as_str());
        assert!(!block || known, "{place} has unsafe code");
    }
}

/// Files outside those folders with an unsafe block of their own, each with its reason there.
const EXCEPTIONS: [&str; 1] = ["tests/vm/accelerator.rs"];

#[test]
fn builds_do_not_land_in_the_source_folder() {
    for name in ["debug", "release", "nextest", ".rustc_info.json"] {
        let path = root().join("target").join(name);
        assert!(!path.exists(), "{} is build output in a source folder: run cargo from the root", path.display());
    }
}

/// rustfmt keeps code within 120 columns where it can; this is for what it leaves alone.
#[test]
fn lines_fit_a_screen() {
    for (path, text) in ["common", "target", "initiator", "tests"].into_iter().flat_map(sources) {
        let long = text.lines().position(|line| line.chars().count() > 130);
        assert!(long.is_none(), "{}:{} is wider than 130 columns", path.display(), long.unwrap_or_default() + 1);
    }
}
