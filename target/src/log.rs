//! Where log lines go and how many: to stderr, or to the journal when stderr is that; by a level that can be changed while
//! the program runs.
//!
//! In the journal a line about an export carries its address in fields, AOE_SHELF and AOE_SLOT, to select it by. On
//! stderr the address is in the text.

use std::io::{self, IsTerminal};
use std::os::linux::fs::MetadataExt;
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Which lines are logged: those of this level and of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What fails
    Error,
    /// What needs attention
    Warn,
    /// What changes
    Info,
    /// What helps to find a fault
    Debug,
    /// Everything
    Trace,
}

impl Level {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// What decides which lines are logged, once [`start`] was called.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts to log. Without a level, AOE_LOG or RUST_LOG say what is logged; without those it is [`Level::Info`].
///
/// # Panics
/// When it was called before.
pub fn start(level: Option<Level>) {
    let variable = || ["AOE_LOG", "RUST_LOG"].iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    let filter = match level {
        Some(level) => EnvFilter::new(level.name()),
        None => variable().unwrap_or_else(|| EnvFilter::new(Level::Info.name())),
    };
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry().with(filter).with(output()).init();
    assert!(FILTER.set(handle).is_ok(), "the log is started once");
}

/// Logs lines of this level from now on.
pub fn set_level(level: Level) {
    let Some(filter) = FILTER.get() else { return };
    // It fails only when the log itself is gone.
    let _ = filter.reload(EnvFilter::new(level.name()));
    tracing::info!("the log level is {} now", level.name());
}

/// What the outputs are put on top of.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn output() -> Box<dyn Layer<Filtered> + Send + Sync> {
    let is_journal = stderr_is_journal();
    // Where its socket cannot be reached, lines on stderr arrive there, too, without fields.
    if is_journal && let Ok(journal) = tracing_journald::layer() {
        let priorities =
            PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() };
        return journal.with_field_prefix(Some("AOE".to_owned())).with_priority_mappings(priorities).boxed();
    }
    let text =
        fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false).fmt_fields(
            fmt::format::debug_fn(|text, field, value| match field.name() {
                "message" => write!(text, "{value:?}"),
                // It is in the message.
                "shelf" | "slot" => Ok(()),
                name => write!(text, " {name}={value:?}"),
            }),
        );
    // The journal has a clock of its own.
    if is_journal { text.without_time().boxed() } else { text.boxed() }
}

/// The journal's stream goes by device and inode (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino()))
}

/// Logs a line about an export, which begins with its address: `about!(warn, address, "{path} shrank")`.
macro_rules! about {
    ($level:ident, $address:expr, $($text:tt)+) => {{
        let address: aoe_common::addr::Address = $address;
        tracing::$level!(shelf = address.shelf, slot = address.slot, "{address}: {}", format_args!($($text)+))
    }};
}
pub(crate) use about;

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::filter::LevelFilter;

    #[test]
    fn each_level_is_one_of_the_log_and_is_typed_as_it_is_named() {
        let levels = [
            (Level::Error, LevelFilter::ERROR),
            (Level::Warn, LevelFilter::WARN),
            (Level::Info, LevelFilter::INFO),
            (Level::Debug, LevelFilter::DEBUG),
            (Level::Trace, LevelFilter::TRACE),
        ];
        assert_eq!(levels.map(|(level, _)| level).as_slice(), Level::value_variants());
        for (level, filter) in levels {
            assert_eq!(EnvFilter::new(level.name()).max_level_hint(), Some(filter));
            assert_eq!(Level::from_str(level.name(), false), Ok(level));
        }
    }

    #[test]
    fn a_log_that_was_not_started_has_no_level() {
        set_level(Level::Trace);
        assert!(FILTER.get().is_none());
    }
}
