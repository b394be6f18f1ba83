//! `fence_aoe`: see [`aoe_initiator::cli::fence`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::fence::main()
}
