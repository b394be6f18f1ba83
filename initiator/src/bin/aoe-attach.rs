//! `aoe-attach`: see [`aoe_initiator::cli::attach`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::attach::main()
}
