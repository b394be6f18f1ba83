//! What happens to a device, in the words of a log.

use aoe_common::addr::Address;
use aoe_common::frame::SECTOR;

use crate::engine::Event;
use crate::ports::Ports;

/// Tells an operator.
pub fn log(device: Address, event: &Event, ports: &Ports) {
    let via = |port| ports.name(port);
    match *event {
        Event::Up => tracing::info!("{device} is up"),
        Event::Dead => tracing::error!("{device} does not answer: requests fail until it is back"),
        Event::PathUp { mac, port } => tracing::info!("{device}: path to {mac} via {} is up", via(port)),
        Event::PathDown { mac, port } => tracing::warn!("{device}: path to {mac} via {} is lost", via(port)),
        Event::Foreign { mac, port, ref identify } => tracing::warn!(
            "{device}: {mac} via {} is not used, it answers as {device} and is another disk: serial {:?}, {} sectors",
            via(port),
            identify.serial,
            identify.sectors
        ),
        Event::Resized { before, now } if now > before => {
            tracing::info!("{device} has grown from {before} to {now} sectors");
        }
        Event::Resized { before, now } => tracing::warn!(
            "{device} shrank from {before} to {now} sectors: it keeps its size here, what lies beyond fails"
        ),
        Event::Passes { mac, port, sectors, offered } if sectors < offered => tracing::warn!(
            "{device}: on the path to {mac} via {} frames with more than {} bytes of data vanish, though both ends take \
             {}: it goes on with smaller ones; \"aoe-check {device}\" tells what to do",
            via(port),
            usize::from(sectors) * SECTOR,
            usize::from(offered) * SECTOR
        ),
        Event::Passes { mac, port, .. } => {
            tracing::info!("{device}: on the path to {mac} via {} the largest frames pass again", via(port));
        }
        Event::BadAnswers => tracing::warn!("{device}: a request failed, the answers of the target make no sense"),
        Event::CacheLost => tracing::error!(
            "{device}: the target's host started anew and lost writes that had not been flushed: every flush fails \
             from now on; check what is on the disk, then detach and attach it again"
        ),
    }
}
