//! `aoe-target`: see [`aoe_target`].

use std::io::{self, Write};
use std::process::ExitCode;

use aoe_target::cli::{Args, Command, UsageError};
use aoe_target::log;
use aoe_target::serve::serve;
use aoe_target::settings::Settings;

const CANNOT_SERVE: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (settings, level) = match read_line() {
        Ok(Some(read)) => read,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return fail(WRONG_USAGE, &error.to_string()),
    };
    log::start(level);
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_SERVE, &format!("{error:#}")),
    }
}

fn read_line() -> Result<Option<(Settings, Option<log::Level>)>, UsageError> {
    let Some(Args { command: Command::Export(args), log_level }) = Args::read(std::env::args_os())? else {
        return Ok(None);
    };
    Ok(Some((args.settings()?, log_level)))
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Nobody is left to hear of a closed pipe.
    let _ = writeln!(io::stderr(), "aoe-target: {message}");
    ExitCode::from(code)
}
