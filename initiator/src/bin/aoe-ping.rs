//! `aoe-ping`: see [`aoe_initiator::cli::ping`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::ping::main()
}
