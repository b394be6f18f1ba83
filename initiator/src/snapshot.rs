//! How a device and the ways to it are at a moment, and what that means for somebody who wants to use it.

use anyhow::{Result, anyhow, bail};
use aoe_common::addr::Address;
use aoe_common::ata::Identify;

use crate::engine::{Device, DeviceState, DeviceStats, PathState, PathStats};
use crate::ports::Ports;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its address.
    pub device: Address,
    /// Whether it can be used.
    pub state: DeviceState,
    /// What the disk is, once it has said so.
    pub disk: Option<Identify>,
    /// Paths, with the names of their interfaces.
    pub paths: Vec<(String, PathStats)>,
    /// Its figures.
    pub stats: DeviceStats,
    /// The interfaces that are used, for messages.
    pub interfaces: String,
}

impl Snapshot {
    /// How things are now.
    pub fn of(device: &Device, ports: &Ports) -> Self {
        Self {
            device: device.address(),
            state: device.state(),
            disk: device.disk().cloned(),
            paths: device.paths().map(|path| (ports.name(path.port).to_owned(), path)).collect(),
            stats: device.stats(),
            interfaces: ports.describe(),
        }
    }

    /// Why it could not be found until now.
    pub fn not_found(&self) -> anyhow::Error {
        let device = self.device;
        match self.paths.first() {
            Some((interface, path)) => anyhow!(
                "{} on {interface} answers as {device} but does not say what its disk is: see the target's log",
                path.mac
            ),
            None => anyhow!(
                "no target answers as {device} {}: see \"aoe-discover\", and on the target whether this host is allowed",
                self.interfaces
            ),
        }
    }

    /// Two disks under one address are a mistake that would cost data, whichever is used.
    pub fn check_alone(&self) -> Result<()> {
        let with_state = |wanted: fn(PathState) -> bool| self.paths.iter().find(|(_, path)| wanted(path.state));
        let Some((other_interface, other)) = with_state(|state| state == PathState::Foreign) else { return Ok(()) };
        let (interface, path) = with_state(|state| state == PathState::Live).unwrap_or(&self.paths[0]);
        bail!(
            "two targets with different disks answer as {}: {} on {interface} and {} on {other_interface}; give \
             one of them another address, or choose with --interface",
            self.device,
            path.mac,
            other.mac
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PortId;
    use aoe_common::wire::MacAddr;

    fn snapshot(states: &[PathState]) -> Snapshot {
        let path = |(number, state): (usize, &PathState)| PathStats {
            mac: MacAddr(2, 0, 0, 0, 0, number as u8),
            port: PortId(0),
            state: *state,
            rtt: None,
            window: 1,
            in_flight: 0,
            resends: 0,
            sectors: 2,
            offered: 2,
        };
        Snapshot {
            device: Address::new(0, 1),
            state: DeviceState::Searching,
            disk: None,
            paths: states.iter().enumerate().map(path).map(|path| (format!("eth{}", path.mac.5), path)).collect(),
            stats: DeviceStats::default(),
            interfaces: "on eth0, eth1".to_owned(),
        }
    }

    #[test]
    fn why_a_disk_is_not_found() {
        let silent = snapshot(&[]).not_found().to_string();
        assert!(silent.contains("no target answers as e0.1 on eth0, eth1"), "{silent}");
        let odd = snapshot(&[PathState::Failed]).not_found().to_string();
        assert!(odd.contains("02:00:00:00:00:00 on eth0 answers as e0.1 but"), "{odd}");
    }

    #[test]
    fn a_second_disk_under_the_address_is_told_with_both_places() {
        snapshot(&[PathState::Live, PathState::Failed]).check_alone().unwrap();
        let error = snapshot(&[PathState::Foreign, PathState::Live]).check_alone().unwrap_err().to_string();
        assert!(error.contains("02:00:00:00:00:01 on eth1 and 02:00:00:00:00:00 on eth0"), "{error}");
    }
}
