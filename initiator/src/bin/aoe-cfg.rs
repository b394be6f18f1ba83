//! `aoe-cfg`: see [`aoe_initiator::cli::cfg`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::cfg::main()
}
