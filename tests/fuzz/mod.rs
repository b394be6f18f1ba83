//! Fuzzing: every way in for bytes of others, as a function of those bytes.
//!
//! Each target is a plain function that panics when a promise is broken; README.md says which. libFuzzer calls it
//! with inputs it invents (`tests/fuzz/run`), and the test below with those that were worth keeping.

mod bytes;
pub mod frames;
pub mod initiator_engine;
pub mod initiator_tools;
pub mod nbd_negotiation;
pub mod nbd_session;
mod nbd_stream;
pub mod target_engine;
pub mod texts;

use bytes::Bytes;

/// What is done with an input.
pub type Run = fn(&[u8]);

/// The targets, by name.
pub const TARGETS: [(&str, Run); 7] = [
    ("frames", frames::run),
    ("target_engine", target_engine::run),
    ("initiator_engine", initiator_engine::run),
    ("initiator_tools", initiator_tools::run),
    ("nbd_negotiation", nbd_negotiation::run),
    ("nbd_session", nbd_session::run),
    ("texts", texts::run),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::panic::catch_unwind;
    use std::path::Path;

    /// Replays all inputs of one target.
    fn replay(name: &str, run: super::Run) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files: BTreeSet<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 10, "{} holds a corpus", folder.display());
        for file in files {
            let data = fs::read(&file).unwrap();
            assert!(catch_unwind(|| run(&data)).is_ok(), "{} breaks a promise, see above", file.display());
        }
    }

    #[test]
    fn the_corpora_keep_all_promises() {
        for (name, run) in super::TARGETS {
            replay(name, run);
        }
    }

    #[test]
    fn every_target_has_its_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for (name, _) in super::TARGETS {
            assert!(manifest.contains(&format!("\"{name}\"")), "{name} is in Cargo.toml");
            let program = fs::read_to_string(folder.join(format!("programs/{name}.rs"))).unwrap();
            assert!(program.contains(&format!("aoe_tests::fuzz::{name}::run")), "{name} runs itself");
        }
    }
}
