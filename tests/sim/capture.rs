//! What was on the wire, for Wireshark: a pcapng file with the time of the simulation.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};

/// A file of frames.
pub struct Capture {
    writer: PcapNgWriter<BufWriter<File>>,
}

/// Stamps count nanoseconds: ten to the minus ninth of a second.
const NANOSECONDS: u8 = 9;

impl Capture {
    /// A new file, in a folder that is made if it has to be.
    pub fn create(path: &Path) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| told(&error))?;
        }
        let file = File::create(path).map_err(|error| told(&error))?;
        let mut writer = PcapNgWriter::new(BufWriter::new(file)).map_err(|error| told(&error))?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![InterfaceDescriptionOption::IfTsResol(NANOSECONDS)],
        };
        writer.write_pcapng_block(interface).map_err(|error| told(&error))?;
        Ok(Self { writer })
    }

    /// A frame was sent at this time, in nanoseconds.
    pub fn frame(&mut self, now: u64, frame: &[u8]) -> Result<(), String> {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(now),
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: Vec::new(),
        };
        self.writer.write_pcapng_block(block).map(|_| ()).map_err(|error| error.to_string())
    }
}
