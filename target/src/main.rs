//! `aoe-target`: see [`aoe_target`].

use std::io::{self, IsTerminal, Write};
use std::os::linux::fs::MetadataExt;
use std::process::ExitCode;

use aoe_target::cli::{Args, Command, UsageError};
use aoe_target::serve::serve;
use aoe_target::settings::Settings;
use tracing_subscriber::EnvFilter;

const CANNOT_SERVE: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let settings = match read_line() {
        Ok(Some(settings)) => settings,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return fail(WRONG_USAGE, &error.to_string()),
    };
    start_log();
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_SERVE, &format!("{error:#}")),
    }
}

fn read_line() -> Result<Option<Settings>, UsageError> {
    let Some(Args { command: Command::Export(args) }) = Args::read(std::env::args_os())? else { return Ok(None) };
    args.settings().map(Some)
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Nobody is left to hear of a closed pipe.
    let _ = writeln!(io::stderr(), "aoe-target: {message}");
    ExitCode::from(code)
}

/// Logs to stderr; how much is for AOE_LOG or RUST_LOG to say.
fn start_log() {
    let filter = ["AOE_LOG", "RUST_LOG"].iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("info")))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    if stderr_is_journal() { log.without_time().init() } else { log.init() }
}

/// The journal has a clock of its own. Its stream goes by device and inode (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino()))
}
