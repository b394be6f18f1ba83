//! Constants and fixed-size structures of the NBD protocol, as far as this server speaks it.
//!
//! All fields are big-endian. Sizes are in bytes. Structures with a magic number parse to `None` when it is wrong.

/// First eight bytes a server sends: `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: second half of the greeting, and in front of every option a client sends.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// In front of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// In front of every request of the transmission phase.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// In front of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// In front of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Zero bytes after the answer to `NBD_OPT_EXPORT_NAME`, unless both sides agreed to leave them out.
pub const EXPORT_NAME_ZEROES: usize = 124;
/// Longest name or description the protocol allows.
pub const MAX_STRING_BYTES: usize = 4096;

bitflags::bitflags! {
    /// What the server says of itself in the greeting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options can be answered with errors, and more than one can be sent.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The zeroes after the answer to `NBD_OPT_EXPORT_NAME` can be left out.
        const NO_ZEROES = 1 << 1;
    }

    /// The client's answer to [`HandshakeFlags`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// The client understands fixed newstyle negotiation.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The client does not want the zeroes.
        const NO_ZEROES = 1 << 1;
    }

    /// What an export can do, told to the client when the transmission phase begins.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set on the wire.
        const HAS_FLAGS = 1 << 0;
        /// Writes are refused.
        const READ_ONLY = 1 << 1;
        /// `NBD_CMD_FLUSH` is served.
        const SEND_FLUSH = 1 << 2;
        /// The force-unit-access command flag is honoured.
        const SEND_FUA = 1 << 3;
        /// The medium rotates.
        const ROTATIONAL = 1 << 4;
        /// `NBD_CMD_TRIM` is served.
        const SEND_TRIM = 1 << 5;
        /// `NBD_CMD_WRITE_ZEROES` is served.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// Reads can be asked for in one chunk; only with structured replies.
        const SEND_DF = 1 << 7;
        /// Several connections see one cache: a flush on one covers the writes of all.
        const CAN_MULTI_CONN = 1 << 8;
    }

    /// Modifiers of one request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// The effect must be durable before the reply.
        const FUA = 1 << 0;
        /// Zeroes must be stored, not discarded.
        const NO_HOLE = 1 << 1;
        /// The read data must come in one chunk.
        const DF = 1 << 2;
    }

    /// Flags of a structured reply chunk.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u16 {
        /// This chunk ends the reply.
        const DONE = 1 << 0;
    }
}

/// Declares an enum of wire values with the conversion both ways.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$variant_doc:meta])* $variant:ident = $value:expr,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All values this server knows.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value on the wire.
            pub const fn to_wire(self) -> $repr {
                match self {
                    $(Self::$variant => $value,)+
                }
            }

            /// The meaning of a value from the wire, `None` if this server does not know it.
            pub fn from_wire(value: $repr) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.to_wire() == value)
            }
        }
    };
}

wire_enum! {
    /// Options of the negotiation that this server answers other than with "unsupported".
    OptionKind: u32 {
        /// Choose an export and start, without any way to report an error.
        ExportName = 1,
        /// End the negotiation.
        Abort = 2,
        /// List the exports.
        List = 3,
        /// Describe an export.
        Info = 6,
        /// Describe an export and start.
        Go = 7,
        /// Use structured replies from now on.
        StructuredReply = 8,
    }
}

wire_enum! {
    /// Replies to options.
    OptionReplyKind: u32 {
        /// Done.
        Ack = 1,
        /// One export of a list.
        Server = 2,
        /// One piece of information on an export.
        Info = 3,
        /// The option is not supported.
        ErrUnsupported = 0x8000_0001,
        /// The option's data make no sense.
        ErrInvalid = 0x8000_0003,
        /// No export has this name.
        ErrUnknown = 0x8000_0006,
        /// The option's data are too long.
        ErrTooBig = 0x8000_0009,
    }
}

wire_enum! {
    /// Pieces of information on an export.
    InfoKind: u16 {
        /// Size and transmission flags.
        Export = 0,
        /// The canonical name.
        Name = 1,
        /// A text for people.
        Description = 2,
        /// Smallest, preferred and largest request.
        BlockSize = 3,
    }
}

wire_enum! {
    /// Commands of the transmission phase.
    CommandKind: u16 {
        /// Read data.
        Read = 0,
        /// Write the data behind the header.
        Write = 1,
        /// Finish what is in flight and close; has no reply.
        Disconnect = 2,
        /// Make all finished writes durable.
        Flush = 3,
        /// The range is no longer needed.
        Trim = 4,
        /// The range shall read as zeroes.
        WriteZeroes = 6,
    }
}

wire_enum! {
    /// Chunks of a structured reply.
    ChunkKind: u16 {
        /// Success without data.
        None = 0,
        /// Read data, behind their 8-byte offset.
        OffsetData = 1,
        /// An error, with a text.
        Error = 0x8001,
    }
}

wire_enum! {
    /// Error numbers of the protocol.
    NbdErrno: u32 {
        /// Not permitted: a write to a read-only export.
        Perm = 1,
        /// The disk or the way to it failed.
        Io = 5,
        /// The request is malformed, out of range or not supported.
        Invalid = 22,
        /// A write behind the end, or no space left.
        NoSpace = 28,
        /// This side is shutting down.
        Shutdown = 108,
    }
}

impl NbdErrno {
    /// A text for people, sent where the protocol has room for one.
    pub fn text(self) -> &'static str {
        match self {
            Self::Perm => "the export does not permit this",
            Self::Io => "the AoE target reported an error or did not answer",
            Self::Invalid => "the request is not valid for this export",
            Self::NoSpace => "no space for this write",
            Self::Shutdown => "the export is being detached",
        }
    }
}

/// Puts fields together; their sizes must add up to the structure's.
fn join<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    for field in fields {
        bytes[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    assert!(at == N, "fields of {at} bytes in a structure of {N}");
    bytes
}

/// The field of `N` bytes at `at`; both are constants that lie inside the structure.
fn field<const S: usize, const N: usize>(bytes: &[u8; S], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The first bytes of a connection, from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// What the server can do in the negotiation.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Size on the wire.
    pub const LEN: usize = 18;

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[&GREETING_MAGIC.to_be_bytes(), &OPTION_MAGIC.to_be_bytes(), &self.flags.bits().to_be_bytes()])
    }
}

/// In front of the data of an option, from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// An [`OptionKind`], or something this server does not know.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Size on the wire.
    pub const LEN: usize = 16;

    /// Reads the header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        (u64::from_be_bytes(field(bytes, 0)) == OPTION_MAGIC)
            .then(|| Self { option: u32::from_be_bytes(field(bytes, 8)), length: u32::from_be_bytes(field(bytes, 12)) })
    }

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[&OPTION_MAGIC.to_be_bytes(), &self.option.to_be_bytes(), &self.length.to_be_bytes()])
    }
}

/// In front of the data of a reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option replied to, as the client sent it.
    pub option: u32,
    /// What the reply is.
    pub kind: OptionReplyKind,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Size on the wire.
    pub const LEN: usize = 20;

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &OPTION_REPLY_MAGIC.to_be_bytes(),
            &self.option.to_be_bytes(),
            &self.kind.to_wire().to_be_bytes(),
            &self.length.to_be_bytes(),
        ])
    }
}

/// A request of the transmission phase. The data of a write follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// [`CommandFlags`], and perhaps bits this server does not know.
    pub flags: u16,
    /// A [`CommandKind`], or something this server does not know.
    pub kind: u16,
    /// The client's name for the request, repeated in the reply. Not unique unless the client says so.
    pub cookie: u64,
    /// First byte concerned.
    pub offset: u64,
    /// Bytes concerned.
    pub length: u32,
}

impl RequestHeader {
    /// Size on the wire.
    pub const LEN: usize = 28;

    /// Reads the header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        (u32::from_be_bytes(field(bytes, 0)) == REQUEST_MAGIC).then(|| Self {
            flags: u16::from_be_bytes(field(bytes, 4)),
            kind: u16::from_be_bytes(field(bytes, 6)),
            cookie: u64::from_be_bytes(field(bytes, 8)),
            offset: u64::from_be_bytes(field(bytes, 16)),
            length: u32::from_be_bytes(field(bytes, 24)),
        })
    }

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ])
    }
}

/// The reply every client understands. Read data follow it if there is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// `None` for success.
    pub error: Option<NbdErrno>,
    /// From the request.
    pub cookie: u64,
}

impl SimpleReply {
    /// Size on the wire.
    pub const LEN: usize = 16;

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let error = self.error.map_or(0, NbdErrno::to_wire);
        join(&[&SIMPLE_REPLY_MAGIC.to_be_bytes(), &error.to_be_bytes(), &self.cookie.to_be_bytes()])
    }
}

/// In front of the payload of a structured reply chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Whether the reply ends here.
    pub flags: ChunkFlags,
    /// What the payload is.
    pub kind: ChunkKind,
    /// From the request.
    pub cookie: u64,
    /// Bytes of payload that follow.
    pub length: u32,
}

impl ChunkHeader {
    /// Size on the wire.
    pub const LEN: usize = 20;

    /// The bytes to send.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        join(&[
            &STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &self.flags.bits().to_be_bytes(),
            &self.kind.to_wire().to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.length.to_be_bytes(),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_bytes() {
        let greeting = Greeting { flags: HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES };
        assert_eq!(&greeting.to_bytes(), b"NBDMAGICIHAVEOPT\x00\x03");
    }

    #[test]
    fn option_header_bytes() {
        let bytes = *b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x01\x02";
        let header = OptionHeader::parse(&bytes).unwrap();
        assert_eq!(header, OptionHeader { option: OptionKind::Go.to_wire(), length: 0x102 });
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(OptionHeader::parse(b"IHAVEOPS\x00\x00\x00\x07\x00\x00\x01\x02"), None);
    }

    #[test]
    fn option_reply_header_bytes() {
        let header = OptionReplyHeader { option: 0x0a0b_0c0d, kind: OptionReplyKind::ErrUnknown, length: 5 };
        assert_eq!(
            header.to_bytes(),
            [
                0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic
                0x0a, 0x0b, 0x0c, 0x0d, // option
                0x80, 0x00, 0x00, 0x06, // reply
                0x00, 0x00, 0x00, 0x05, // length
            ]
        );
    }

    #[test]
    fn request_header_bytes() {
        let bytes = [
            0x25, 0x60, 0x95, 0x13, // magic
            0x00, 0x03, // flags
            0x00, 0x06, // command
            0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // cookie
            0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, // offset
            0x21, 0x22, 0x23, 0x24, // length
        ];
        let header = RequestHeader::parse(&bytes).unwrap();
        assert_eq!(CommandFlags::from_bits(header.flags), Some(CommandFlags::FUA | CommandFlags::NO_HOLE));
        assert_eq!(CommandKind::from_wire(header.kind), Some(CommandKind::WriteZeroes));
        assert_eq!(header.cookie, 0x0102_0304_0506_0708);
        assert_eq!(header.offset, 0x1112_1314_1516_1718);
        assert_eq!(header.length, 0x2122_2324);
        assert_eq!(header.to_bytes(), bytes);
        let mut wrong = bytes;
        wrong[3] ^= 1;
        assert_eq!(RequestHeader::parse(&wrong), None);
    }

    #[test]
    fn reply_bytes() {
        let reply = SimpleReply { error: None, cookie: 0x0102_0304_0506_0708 };
        assert_eq!(reply.to_bytes(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let reply = SimpleReply { error: Some(NbdErrno::NoSpace), cookie: 1 };
        assert_eq!(reply.to_bytes(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 1]);
        let chunk = ChunkHeader { flags: ChunkFlags::DONE, kind: ChunkKind::Error, cookie: 2, length: 3 };
        assert_eq!(chunk.to_bytes(), [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3]);
    }

    #[test]
    fn wire_values_are_those_of_the_specification() {
        let options: Vec<u32> = OptionKind::ALL.iter().map(|kind| kind.to_wire()).collect();
        assert_eq!(options, [1, 2, 3, 6, 7, 8]);
        let commands: Vec<u16> = CommandKind::ALL.iter().map(|kind| kind.to_wire()).collect();
        assert_eq!(commands, [0, 1, 2, 3, 4, 6]);
        let errors: Vec<u32> = NbdErrno::ALL.iter().map(|errno| errno.to_wire()).collect();
        assert_eq!(errors, [1, 5, 22, 28, 108]);
        assert_eq!(TransmissionFlags::CAN_MULTI_CONN.bits(), 0x100);
        assert_eq!(TransmissionFlags::SEND_DF.bits(), 0x80);
    }

    #[test]
    fn unknown_wire_values_have_no_meaning() {
        assert_eq!(OptionKind::from_wire(5), None);
        assert_eq!(CommandKind::from_wire(5), None);
        assert_eq!(CommandKind::from_wire(u16::MAX), None);
        assert_eq!(InfoKind::from_wire(4), None);
    }
}
