//! `aoe-check`: see [`aoe_initiator::cli::check`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::check::main()
}
