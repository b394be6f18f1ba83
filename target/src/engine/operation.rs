//! What the engine asks of a disk and what comes back.
//!
//! The engine decides order and overlap before it hands an operation out: a driver may run all
//! operations it holds at the same time and complete them in any order. An operation owns the frame
//! buffer it works on until its completion gives it back.

use aoe_common::frame::FrameBuffer;

/// Names an operation between the engine and its driver. Unique among the operations in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u32);

/// Which disk an operation goes to: the export's index in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskId(pub u32);

/// One operation on one disk. Offsets are in bytes from the start of the export (not of the file).
#[derive(Debug)]
pub struct DiskOperation {
    /// Comes back with the completion.
    pub id: OperationId,
    /// The disk.
    pub disk: DiskId,
    /// What to do.
    pub kind: DiskOperationKind,
    /// The frame: READ fills its payload area from the start, WRITE takes the data from there.
    pub buffer: FrameBuffer,
}

/// What to do to a disk. `offset` and `len` are multiples of 512 bytes and lie inside the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperationKind {
    /// Fill the first `len` payload bytes.
    Read {
        /// Bytes from the export's start.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Store the first `len` payload bytes. When `durable`, complete only after they would survive a power cut.
    Write {
        /// Bytes from the export's start.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Write through every volatile cache.
        durable: bool,
    },
    /// Make `len` bytes read as zero, releasing their space when `unmap` and the disk can. When `durable`,
    /// complete only after that would survive a power cut.
    Zero {
        /// Bytes from the export's start.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Release the space where possible.
        unmap: bool,
        /// Write through every volatile cache.
        durable: bool,
    },
    /// Make everything completed before this survive a power cut.
    Flush,
}

/// How an operation ended.
#[derive(Debug)]
pub struct DiskCompletion {
    /// The operation's id.
    pub id: OperationId,
    /// The operation's buffer.
    pub buffer: FrameBuffer,
    /// Success: everything that was asked was done, completely.
    pub result: Result<(), DiskError>,
}

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The file ends before the range: it was truncated while being served.
    #[error("the file is shorter than the export")]
    Short,
    /// No space left for the data.
    #[error("no space left on the device below")]
    NoSpace,
    /// The file or device below does not take writes (any more).
    #[error("the file or device below is read-only")]
    ReadOnly,
    /// Any other error, by its errno. Nothing but what was asked is concerned.
    #[error("I/O error {0} of the file or device below")]
    Io(i32),
    /// A sync failed, by its errno: data that was taken before may be lost. The only error of a flush.
    #[error("a sync of the file or device below failed with error {0}")]
    Lost(i32),
}
