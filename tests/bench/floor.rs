//! A responder that touches no disk: what the wire alone costs.
//!
//! It receives, sends and sleeps as the target does, and answers every read with the same bytes. What a target costs
//! beyond this is its own work and the disk's.

use anyhow::Result;
use aoe_common::addr::Address;
use aoe_common::ata::{Identify, Status, command};
use aoe_common::frame::{FrameBuffer, HEADROOM, MAX_SECTORS, MIN_FRAME, SECTOR};
use aoe_common::link::{Filter, Port, SEND_BATCH};
use aoe_common::wire::{AtaRepr, Command, ConfigRepr, EthernetRepr, Frame, HeaderRepr, MacAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::load::{device_address, find_interface};

/// Frames the port holds, as many as the target's.
const RING_FRAMES: u32 = 1024;

/// Messages it says it can queue.
const BUFFERS: u16 = 64;

/// Options of `bench floor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The interface to answer on.
    #[arg(long)]
    interface: String,
    /// Its first disk; further ones follow as `bench load` counts them.
    #[arg(long)]
    device: Address,
    /// How many disks it pretends to have.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    devices: u32,
    /// Sectors of each.
    #[arg(long)]
    sectors: u64,
    /// Read and write this file, by pread and pwrite, in place of pretending: the least that a target can do which serves
    /// a file.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Answers until it is ended.
pub fn run(options: &Options) -> Result<()> {
    let interface = find_interface(&options.interface)?;
    let addresses: Vec<_> = (0..options.devices).map(|number| device_address(options.device, number)).collect();
    let filter = Filter::Target(addresses.iter().map(|address| (address.shelf, address.slot)).collect());
    let mut port = Port::open(&interface, &filter, RING_FRAMES)?;
    let identify = Identify { sectors: options.sectors, ..Identify::default() }.emit();
    let frame_sectors = ((interface.mtu as usize - (HEADROOM - 14)) / SECTOR).min(MAX_SECTORS) as u8;
    let mut answers: Vec<_> = (0..SEND_BATCH).map(|_| FrameBuffer::new(frame_sectors.into())).collect();
    let file = options.file.as_ref().map(|path| File::options().read(true).write(true).open(path)).transpose()?;
    println!("ready");
    loop {
        let mut count = 0;
        port.receive(SEND_BATCH, |bytes| {
            let Ok(frame) = Frame::parse(bytes) else { return };
            if answer(&frame, interface.mac, &addresses, &identify, frame_sectors, file.as_ref(), &mut answers[count]) {
                count += 1;
            }
        })?;
        if count == 0 {
            if !port.is_waiting() {
                poll(&mut [PollFd::new(port.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            }
            continue;
        }
        let mut batch: [&[u8]; SEND_BATCH] = [&[]; SEND_BATCH];
        for (entry, answer) in batch.iter_mut().zip(&answers) {
            *entry = answer.frame();
        }
        // What a full device does not take is asked for again.
        port.send(&batch[..count])?;
    }
}

/// Answers a frame, if it asks for something.
fn answer(
    frame: &Frame<'_>,
    source: MacAddr,
    addresses: &[Address],
    identify: &[u8; SECTOR],
    frame_sectors: u8,
    file: Option<&File>,
    out: &mut FrameBuffer,
) -> bool {
    let asked = frame.header.address;
    let Some(address) = addresses.iter().find(|address| asked.reaches(**address)) else { return false };
    if frame.header.response {
        return false;
    }
    let ethernet = EthernetRepr { destination: frame.ethernet.source, source, vlan: None };
    let header = HeaderRepr { response: true, address: *address, ..frame.header };
    match frame.header.command {
        Command::Config => {
            let Ok(request) = ConfigRepr::parse(frame.body, false) else { return false };
            out.reset(MIN_FRAME);
            let answer = ConfigRepr::answer(BUFFERS, 1, frame_sectors, request.command, b"");
            answer.emit(Frame::emit_headers(&ethernet, &header, out.frame_mut()));
        }
        Command::Ata => {
            let Ok((ata, written)) = AtaRepr::parse(frame.body) else { return false };
            let payload = match ata.command {
                command::READ_SECTORS_EXT | command::READ_SECTORS => usize::from(ata.count.min(frame_sectors)) * SECTOR,
                command::IDENTIFY_DEVICE => SECTOR,
                _ => 0,
            };
            out.set_len((HEADROOM + payload).max(MIN_FRAME));
            let offset = ata.lba() * SECTOR as u64;
            let done = AtaRepr { command: Status::DRDY.bits(), count: 0, feature: 0, ..ata };
            let data = done.emit(Frame::emit_headers(&ethernet, &header, out.frame_mut()));
            match ata.command {
                command::IDENTIFY_DEVICE => data[..SECTOR].copy_from_slice(identify),
                command::WRITE_SECTORS_EXT | command::WRITE_SECTORS => {
                    data.fill(0);
                    let Some(written) = written.get(..usize::from(ata.count) * SECTOR) else { return false };
                    return file.is_none_or(|file| file.write_all_at(written, offset).is_ok());
                }
                _ if payload == 0 => data.fill(0),
                _ => return file.is_none_or(|file| file.read_exact_at(&mut data[..payload], offset).is_ok()),
            }
        }
        _ => return false,
    }
    true
}
