//! What AoE targets and initiators share.
//!
//! `wire`, `ata`, `addr`, `frame`, `hash`, `ordering`, `planted`, `port`, `target_status`, `text` and `time` are values without
//! sockets, files, threads or clocks; the engines on both sides are built from them. `link`, `netlink`, `mailbox`,
//! `scrape` and `config_file` are the only modules here that talk to the kernel.

pub mod addr;
pub mod ata;
pub mod config_file;
pub mod frame;
pub mod hash;
pub mod link;
pub mod mailbox;
pub mod netlink;
pub mod ordering;
pub mod planted;
pub mod port;
pub mod scrape;
pub mod target_status;
pub mod text;
pub mod time;
pub mod wire;
