//! Disk back-ends.
