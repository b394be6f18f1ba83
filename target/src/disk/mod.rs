//! Disk back-ends: run the engine's operations on regular files and block devices.
//!
//! [`DiskFile`] opens one file or device, or a range of it, and knows the facts an ATA identity needs.
//! [`Disks`] holds the open files of a serving thread and runs [operations](crate::engine::operation) on
//! them, by io_uring where the kernel allows it and by plain system calls where not. Both engines execute the
//! same steps (`job`), so they differ in speed only.
//!
//! The contract of both:
//! - an operation's buffer belongs to `Disks` from `submit` to its completion, and nothing else touches it;
//! - success means all of it was done; an operation cut short by the kernel goes on where it stopped;
//! - operations run in any order and at the same time: keeping overlapping ones apart is the engine's part;
//! - `durable` and flush are complete only when the kernel says that the data is on stable storage. An error of
//!   either is reported once and never retried: the kernel may have dropped the data already, so a second try
//!   would succeed without meaning anything. It is also told to every other sync that may have missed it;
//! - nothing outside the exported range is read or written.

mod disks;
mod file;
mod job;
mod probe;
mod sync;
mod uring;

pub use disks::{Disks, EngineChoice, MAX_DISKS, MAX_WAITING};
pub use file::{DiskFile, DiskOptions, FileIdentity, OpenError, OpenProblem, examine};
