//! Sizes and tables for people.

use std::io::{self, IsTerminal};

use comfy_table::{ContentArrangement, Table, presets};

/// Bytes in the largest binary unit that leaves a number of at least 1, such as `64.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A text that shows on one line whatever is in it: printable as it is, all else escaped.
pub fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Several values in one cell: below each other for eyes, on one line for programs.
pub fn list(values: &[String]) -> String {
    values.join(if io::stdout().is_terminal() { "\n" } else { ", " })
}

/// A table without borders, without a first line when there are no headings.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn nothing_odd_reaches_a_terminal() {
        assert_eq!(printable(b"backup of mail"), "backup of mail");
        assert_eq!(printable("Gerät".as_bytes()), "Gerät");
        assert_eq!(printable(b"a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(printable(b"\xff\n"), "\\xff\\n");
    }

    #[test]
    fn a_table_has_a_header_and_aligned_rows() {
        let text = table(&["device", "size"], [vec!["e0.1".into(), "1 B".into()], vec!["e10.20".into(), "2 B".into()]]);
        assert_eq!(text, "device  size\ne0.1    1 B\ne10.20  2 B");
    }
}
