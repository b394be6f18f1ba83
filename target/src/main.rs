//! `aoe-target`: see [`aoe_target`].

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use aoe_target::cli::{Args, Command};
use aoe_target::log::{self, Level};
use aoe_target::serve::serve;
use aoe_target::settings::Settings;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let Args { command, log_level } = match Args::read(std::env::args_os()) {
        Ok(Some(args)) => args,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return fail(WRONG_USAGE, &error.to_string()),
    };
    match command {
        Command::Export(args) => run(args.settings(), log_level),
        Command::Serve(args) if args.check => match args.check() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
            Err(error) => fail(WRONG_USAGE, &error.to_string()),
        },
        Command::Serve(args) => run(args.settings(), log_level),
        Command::ImportVblade(args) => match args.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
            Err(error) => fail(FAILED, &format!("{error:#}")),
        },
        Command::Ctl(args) => args.run().unwrap_or_else(|error| fail(FAILED, &format!("{error:#}"))),
    }
}

/// Serves until stopped.
fn run(settings: Result<Settings, impl Display>, log_level: Option<Level>) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return fail(WRONG_USAGE, &error.to_string()),
    };
    log::start(log_level);
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &format!("{error:#}")),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    // Nobody is left to hear of a closed pipe.
    let _ = writeln!(io::stderr(), "aoe-target: {message}");
    ExitCode::from(code)
}
