//! `aoe-detach`: see [`aoe_initiator::cli::detach`].

use std::process::ExitCode;

fn main() -> ExitCode {
    aoe_initiator::cli::detach::main()
}
