//! `aoe-discover`: see [`aoe_initiator::cli::discover`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::discover::main()
}
