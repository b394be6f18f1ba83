//! The five things a station can do with an export's config string (r11; answers as vblade gives them).

use aoe_common::wire::{CONFIG_STRING_MAX, ConfigCommand, ErrorCode};

/// What a config request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stay silent: the string is not the one asked about.
    Silent,
    /// Answer with the stored string.
    Answer,
    /// Store this string, then answer with it.
    Store(Vec<u8>),
    /// Refuse; a refusal shows the stored string too.
    Refuse(ErrorCode),
}

/// Judges a request with the string `asked` against the `stored` one.
pub fn judge(command: ConfigCommand, asked: &[u8], stored: &[u8]) -> Verdict {
    assert!(asked.len() <= CONFIG_STRING_MAX, "longer strings do not parse");
    match command {
        ConfigCommand::Read => Verdict::Answer,
        ConfigCommand::Test if asked == stored => Verdict::Answer,
        ConfigCommand::Prefix if stored.starts_with(asked) => Verdict::Answer,
        ConfigCommand::Test | ConfigCommand::Prefix => Verdict::Silent,
        // Setting what is already set succeeds, so that a repeated request is answered like the first.
        ConfigCommand::Set | ConfigCommand::ForceSet if asked == stored => Verdict::Answer,
        ConfigCommand::Set if !stored.is_empty() => Verdict::Refuse(ErrorCode::ConfigPresent),
        ConfigCommand::Set | ConfigCommand::ForceSet => Verdict::Store(asked.to_vec()),
        ConfigCommand::Unknown(_) => Verdict::Refuse(ErrorCode::BadArgument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_vblades_answers() {
        use ConfigCommand::*;
        let store = |text: &[u8]| Verdict::Store(text.to_vec());
        let present = Verdict::Refuse(ErrorCode::ConfigPresent);
        let cases: [(ConfigCommand, &[u8], &[u8], Verdict); 16] = [
            (Read, b"", b"abc", Verdict::Answer),
            (Test, b"abc", b"abc", Verdict::Answer),
            (Test, b"", b"", Verdict::Answer),
            (Test, b"", b"abc", Verdict::Silent),
            (Test, b"ab", b"abc", Verdict::Silent),
            (Prefix, b"ab", b"abc", Verdict::Answer),
            (Prefix, b"", b"abc", Verdict::Answer),
            (Prefix, b"abcd", b"abc", Verdict::Silent),
            (Prefix, b"b", b"abc", Verdict::Silent),
            (Set, b"abc", b"", store(b"abc")),
            (Set, b"xyz", b"abc", present.clone()),
            (Set, b"", b"abc", present),
            (Set, b"abc", b"abc", Verdict::Answer),
            (ForceSet, b"xyz", b"abc", store(b"xyz")),
            (ForceSet, b"", b"abc", store(b"")),
            (Unknown(5), b"", b"abc", Verdict::Refuse(ErrorCode::BadArgument)),
        ];
        for (command, asked, stored, verdict) in cases {
            assert_eq!(judge(command, asked, stored), verdict, "{command:?} {asked:?} on {stored:?}");
        }
    }
}
