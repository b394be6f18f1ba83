//! `aoe-stat`: see [`aoe_initiator::cli::stat`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::stat::main()
}
