//! What the configuration files of target and initiator have in common: how one is read, and how a mistake in it is told.
//!
//! A file is UTF-8 text of up to [`FILE_MAX`] bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a file at the most.
pub const FILE_MAX: u64 = 1 << 20;

/// Why the text of a file cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read: why, and what to do.
    #[error("{0}")]
    Unreadable(String),
    /// It is no text from this place on.
    #[error("this is no UTF-8 text; save the file as UTF-8")]
    NoText {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(match error.kind() {
            io::ErrorKind::NotFound => "no such file; name one with --config, or create it".into(),
            io::ErrorKind::PermissionDenied => "permission denied; allow this user to read it".into(),
            _ => error.to_string(),
        })
    }
}

/// The text of a file.
pub fn read(file: &Path) -> Result<String, ReadError> {
    // A pipe would be waited for without end.
    if !fs::metadata(file)?.is_file() {
        return Err(ReadError::Unreadable("is not a regular file".into()));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        let problem = format!("is larger than {} MiB; this is no configuration file", FILE_MAX >> 20);
        return Err(ReadError::Unreadable(problem));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let (line, column) = line_and_column(&String::from_utf8_lossy(error.as_bytes()), at);
        ReadError::NoText { line, column }
    })
}

/// Where a byte of a text is: both from 1, the column in characters.
pub fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Which of the known words was meant by one that is not known: the most similar, if it takes few changes.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 32;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase().replace('_', "-");
    let best = known.into_iter().min_by_key(|known| strsim::levenshtein(known, &name))?;
    (strsim::levenshtein(best, &name) <= 2.min(best.len() / 2)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_text() {
        let text = "ä = 1\nb\n";
        for (at, place) in [(0, (1, 1)), (1, (1, 1)), (2, (1, 2)), (7, (2, 1)), (9, (3, 1)), (99, (3, 1))] {
            assert_eq!(line_and_column(text, at), place, "{at}");
        }
    }

    #[test]
    fn a_similar_word_is_found_and_a_strange_one_is_not() {
        let keys = ["read-only", "path", "slot", "wait", "interfaces"];
        for (name, meant) in [
            ("readonly", Some("read-only")),
            ("Read_Only", Some("read-only")),
            ("interface", Some("interfaces")),
            ("wiat", Some("wait")),
            ("sl", Some("slot")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, keys), meant, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), keys), None);
    }

    #[test]
    fn what_is_no_file_of_text_is_refused() {
        let folder = std::env::temp_dir().join(format!("aoe-config-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let says = |name: &str, bytes: Option<&[u8]>| {
            let file = folder.join(name);
            if let Some(bytes) = bytes {
                fs::write(&file, bytes).unwrap();
            }
            read(&file).map_err(|error| error.to_string())
        };
        assert_eq!(says("good", Some(b"a = 1\n")), Ok("a = 1\n".into()));
        assert_eq!(says("latin", Some(b"a\nb\xff")), Err("this is no UTF-8 text; save the file as UTF-8".into()));
        assert_eq!(read(&folder.join("latin")), Err(ReadError::NoText { line: 2, column: 2 }));
        assert!(says("large", Some(&[b'#'; FILE_MAX as usize + 1])).unwrap_err().starts_with("is larger than 1 MiB"));
        assert!(says("missing", None).unwrap_err().starts_with("no such file"));
        assert_eq!(says(".", None), Err("is not a regular file".into()));
        fs::remove_dir_all(folder).unwrap();
    }
}
