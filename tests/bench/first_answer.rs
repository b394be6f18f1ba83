//! Waits for a disk that is about to appear, and says when it did.

use anyhow::{Result, ensure};
use aoe_common::addr::Address;
use aoe_common::frame::MIN_FRAME;
use aoe_common::link::{Filter, Port, SEND_BATCH, monotonic_now};
use aoe_common::time::Duration;
use aoe_common::wire::{
    BROADCAST, Command, ConfigCommand, ConfigRepr, EthernetRepr, Frame, HeaderRepr, MacAddr, VERSION,
};

use crate::load::find_interface;

/// How often it asks.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// How long it goes on asking.
const PATIENCE: Duration = Duration::from_secs(30);

/// Frames the port holds: what many exports announce at their start.
const RING_FRAMES: u32 = 1024;

/// Options of `bench first-answer`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The interface to use.
    #[arg(long)]
    interface: String,
    /// The disk.
    #[arg(long)]
    device: Address,
}

/// Asks until the disk answers and prints when that was, in nanoseconds of the monotonic clock.
pub fn run(options: &Options) -> Result<()> {
    let interface = find_interface(&options.interface)?;
    let mut port = Port::open(&interface, &Filter::Initiator, RING_FRAMES)?;
    let question = question(interface.mac, options.device);
    println!("asking");
    let began = monotonic_now();
    let mut has_answered = false;
    while !has_answered {
        ensure!(monotonic_now().since(began) < PATIENCE, "{}: no target answers", options.device);
        port.send(&[&question])?;
        let asked = monotonic_now();
        while !has_answered && monotonic_now().since(asked) < ASK_EVERY {
            port.receive(SEND_BATCH, |bytes| {
                has_answered |= Frame::parse(bytes).is_ok_and(|frame| {
                    frame.header.response
                        && frame.header.command == Command::Config
                        && frame.header.address == options.device
                });
            })?;
        }
    }
    println!("{}", monotonic_now().as_nanos());
    Ok(())
}

fn question(source: MacAddr, address: Address) -> [u8; MIN_FRAME] {
    let header =
        HeaderRepr { version: VERSION, response: false, error: None, address, command: Command::Config, tag: 1 << 31 };
    let mut question = [0; MIN_FRAME];
    let ethernet = EthernetRepr { destination: BROADCAST, source, vlan: None };
    ConfigRepr::request(ConfigCommand::Read, b"").emit(Frame::emit_headers(&ethernet, &header, &mut question));
    question
}
