//! ata
