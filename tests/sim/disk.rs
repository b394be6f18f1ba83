//! A disk in memory that takes its time and completes in any order.
//!
//! Every operation takes effect in two steps at two moments before it completes: the first halves of all its
//! sectors, then the second halves. Two operations that overlap and run together therefore tear sectors, as a
//! real page cache does, and the model sees it.

use aoe_common::frame::SECTOR;
use aoe_target::engine::operation::{DiskCompletion, DiskOperation, DiskOperationKind};

const HALF: usize = SECTOR / 2;

/// The disk.
#[derive(Debug)]
pub struct Disk {
    bytes: Vec<u8>,
    running: Vec<Option<DiskOperation>>,
}

impl Disk {
    /// A disk of zeros.
    pub fn new(sectors: u64) -> Self {
        Self { bytes: vec![0; sectors as usize * SECTOR], running: Vec::new() }
    }

    /// Takes an operation; returns the handle for `step` and `complete`.
    pub fn start(&mut self, operation: DiskOperation) -> usize {
        match self.running.iter().position(Option::is_none) {
            Some(free) => {
                self.running[free] = Some(operation);
                free
            }
            None => {
                self.running.push(Some(operation));
                self.running.len() - 1
            }
        }
    }

    /// Half of an operation takes effect: `half` 0, then 1.
    pub fn step(&mut self, handle: usize, half: usize) {
        let operation = self.running[handle].as_mut().expect("a running operation");
        let (offset, len) = match operation.kind {
            DiskOperationKind::Read { offset, len } | DiskOperationKind::Write { offset, len, .. } => {
                (offset, u64::from(len))
            }
            DiskOperationKind::Zero { offset, len, .. } => (offset, len),
            DiskOperationKind::Flush => return,
        };
        let (offset, len) = (offset as usize, len as usize);
        for at in (half * HALF..len).step_by(SECTOR) {
            let on_disk = &mut self.bytes[offset + at..offset + at + HALF];
            match operation.kind {
                DiskOperationKind::Read { .. } => {
                    operation.buffer.payload_mut(len)[at..at + HALF].copy_from_slice(on_disk)
                }
                DiskOperationKind::Write { .. } => {
                    on_disk.copy_from_slice(&operation.buffer.payload(len)[at..at + HALF])
                }
                DiskOperationKind::Zero { .. } => on_disk.fill(0),
                DiskOperationKind::Flush => unreachable!("a flush touches no sector"),
            }
        }
    }

    /// An operation is over.
    pub fn complete(&mut self, handle: usize) -> DiskCompletion {
        let DiskOperation { id, buffer, .. } = self.running[handle].take().expect("a running operation");
        DiskCompletion { id, buffer, result: Ok(()) }
    }

    /// One sector as it is now.
    pub fn sector(&self, lba: u64) -> &[u8] {
        &self.bytes[lba as usize * SECTOR..][..SECTOR]
    }
}
