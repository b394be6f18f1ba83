//! `aoe-bench`: see [`aoe_initiator::cli::bench`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::bench::main()
}
