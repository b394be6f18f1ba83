//! Control of the kernel's network block devices.
//!
//! A device gets connected sockets to speak the transmission phase of NBD on; there is no handshake. The kernel keeps
//! serving it when this process ends, until [`NbdControl::disconnect`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;

use super::message::{Refusal, Request, attributes, messages, number};

/// The longest backend name, in bytes.
const MAX_BACKEND: usize = 255;

/// The most sockets of one device.
const MAX_SOCKETS: usize = 256;

/// How long the kernel may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than any answer: the list of all devices is one attribute, whose length has 16 bits.
const ANSWER_ROOM: usize = 128 << 10;

const FAMILY_NAME: &str = "nbd";
const FAMILY_VERSION: u8 = 1;

mod command {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
    pub(super) const STATUS: u8 = 5;
}

mod attribute {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE_BYTES: u16 = 2;
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const DEVICE_LIST: u16 = 9;
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
    /// Inside `SOCKETS`, and inside that.
    pub(super) const SOCK_ITEM: u16 = 1;
    pub(super) const SOCK_FD: u16 = 1;
    /// Inside `DEVICE_LIST`, and inside that.
    pub(super) const DEVICE_ITEM: u16 = 1;
    pub(super) const DEVICE_INDEX: u16 = 1;
    pub(super) const DEVICE_CONNECTED: u16 = 2;
}

/// Why a device could not be controlled.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The kernel does not know network block devices.
    #[error("the nbd kernel module is not loaded: run \"modprobe nbd\"")]
    NotLoaded,
    /// Lack of CAP_SYS_ADMIN.
    #[error("controlling block devices needs CAP_SYS_ADMIN: run as root")]
    Permission,
    /// The device with this index is connected already.
    #[error("/dev/nbd{0} is in use: choose another or free it with \"aoe-detach /dev/nbd{0}\"")]
    Busy(u32),
    /// The name of the backend cannot be told to the kernel.
    #[error("a backend name has 1 to {MAX_BACKEND} bytes and no zero byte")]
    Backend,
    /// The kernel refused for another reason.
    #[error("the kernel refused to {action}: {}{}", .errno.desc(), explained(.text))]
    Refused {
        /// What was to be done.
        action: &'static str,
        /// Its error number.
        errno: Errno,
        /// What it says about it; often empty.
        text: String,
    },
    /// No answer in ten seconds.
    #[error("the kernel did not answer within {} s: see its log with \"dmesg\"", PATIENCE.as_secs())]
    Timeout,
    /// An answer without what it has to tell.
    #[error("the kernel's answer to \"{0}\" makes no sense: its nbd module may be too old or too new")]
    Answer(&'static str),
    /// The netlink socket does not work.
    #[error("netlink socket: {0}")]
    Io(#[from] io::Error),
}

fn explained(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl From<Errno> for NbdError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::EPERM | Errno::EACCES => Self::Permission,
            _ => Self::Io(error.into()),
        }
    }
}

/// A device to be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectRequest<'a> {
    /// Which device: 1 for `/dev/nbd1`. None: the first that is free.
    pub index: Option<u32>,
    /// Its size.
    pub size_bytes: u64,
    /// The unit it is read and written in: a power of two from 512 to the page size.
    pub block_size: u64,
    /// Transmission flags of the NBD protocol. Several sockets need CAN_MULTI_CONN among them.
    pub flags: u64,
    /// After this many seconds without reply the kernel gives up a socket and repeats the request on another; 0: it
    /// waits, and repeats what a dead socket left unanswered after 30 s.
    pub timeout_s: u64,
    /// For so many seconds requests wait for a new socket when all are dead; 0: they fail at once.
    pub dead_conn_timeout_s: u64,
    /// A name the device is known by later; [`NbdControl::reconfigure`] has to give the same.
    pub backend: &'a str,
    /// Stream sockets, TCP or Unix, to send requests on; at least one, at most 256. The kernel keeps them open itself.
    pub sockets: &'a [BorrowedFd<'a>],
}

/// New sockets or settings for a connected device. What is none stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct ReconfigureRequest<'a> {
    /// Which device.
    pub index: u32,
    /// The name it was connected with.
    pub backend: &'a str,
    /// Sockets in place of dead ones, at most 256. The kernel takes no more than there are dead ones and **closes the
    /// rest without an error**: the other end of a socket it did not want sees end of file at once.
    pub sockets: &'a [BorrowedFd<'a>],
    /// A new size.
    pub size_bytes: Option<u64>,
    /// As in [`ConnectRequest`].
    pub timeout_s: Option<u64>,
    /// As in [`ConnectRequest`].
    pub dead_conn_timeout_s: Option<u64>,
}

/// A line to the kernel's network block devices.
///
/// Calls block until the kernel has answered, or for some ten seconds.
#[derive(Debug)]
pub struct NbdControl {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

#[derive(Clone)]
struct ExtendedErrors;
nix::setsockopt_impl!(ExtendedErrors, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, bool, sockopt::SetBool);

#[derive(Clone)]
struct ShortErrors;
nix::setsockopt_impl!(ShortErrors, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, bool, sockopt::SetBool);

impl NbdControl {
    /// Opens the line; fails when the nbd module is not loaded.
    pub fn open() -> Result<Self, NbdError> {
        let mut control = Self::open_socket()?;
        control.family = control.find_family(FAMILY_NAME)?;
        Ok(control)
    }

    /// A line to the kernel's directory of families.
    fn open_socket() -> Result<Self, NbdError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkGeneric)?;
        let patience = TimeVal::new(PATIENCE.as_secs() as libc::time_t, 0);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        // Only for better error texts; kernels before 4.12 have neither.
        let _ = socket::setsockopt(&socket, ExtendedErrors, &true);
        let _ = socket::setsockopt(&socket, ShortErrors, &true);
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, family: libc::GENL_ID_CTRL as u16, sequence: 0 })
    }

    /// Connects a device to its sockets and tells its index. It is usable once this returns.
    ///
    /// # Panics
    /// Without sockets, or with more than 256.
    pub fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<u32, NbdError> {
        const ACTION: &str = "connect the device";
        assert!((1..=MAX_SOCKETS).contains(&request.sockets.len()), "a device has 1 to {MAX_SOCKETS} sockets");
        check_backend(request.backend)?;
        let answer = self.call(command::CONNECT, |message| {
            if let Some(index) = request.index {
                message.u32(attribute::INDEX, index);
            }
            message.u64(attribute::SIZE_BYTES, request.size_bytes);
            message.u64(attribute::BLOCK_SIZE_BYTES, request.block_size);
            message.u64(attribute::TIMEOUT, request.timeout_s);
            message.u64(attribute::SERVER_FLAGS, request.flags);
            message.u64(attribute::DEAD_CONN_TIMEOUT, request.dead_conn_timeout_s);
            message.text(attribute::BACKEND_IDENTIFIER, request.backend);
            add_sockets(message, request.sockets);
        });
        match (answer, request.index) {
            (Err(Failure::Refused(Refusal { errno: Errno::EBUSY, .. })), Some(index)) => Err(NbdError::Busy(index)),
            (answer, _) => {
                connected_index(&answer.map_err(|failure| failure.during(ACTION))?).ok_or(NbdError::Answer(ACTION))
            }
        }
    }

    /// Gives a connected device new sockets or settings.
    ///
    /// # Panics
    /// With more than 256 sockets.
    pub fn reconfigure(&mut self, request: &ReconfigureRequest<'_>) -> Result<(), NbdError> {
        assert!(request.sockets.len() <= MAX_SOCKETS, "a device has at most {MAX_SOCKETS} sockets");
        check_backend(request.backend)?;
        let answer = self.call(command::RECONFIGURE, |message| {
            message.u32(attribute::INDEX, request.index);
            message.text(attribute::BACKEND_IDENTIFIER, request.backend);
            let settings = [
                (attribute::SIZE_BYTES, request.size_bytes),
                (attribute::TIMEOUT, request.timeout_s),
                (attribute::DEAD_CONN_TIMEOUT, request.dead_conn_timeout_s),
            ];
            for (kind, value) in settings {
                if let Some(value) = value {
                    message.u64(kind, value);
                }
            }
            if !request.sockets.is_empty() {
                add_sockets(message, request.sockets);
            }
        });
        answer.map_err(|failure| failure.during("reconfigure the device"))?;
        Ok(())
    }

    /// Disconnects a device. One that is not connected is left as it is.
    pub fn disconnect(&mut self, index: u32) -> Result<(), NbdError> {
        let answer = self.call(command::DISCONNECT, |message| message.u32(attribute::INDEX, index));
        answer.map_err(|failure| failure.during("disconnect the device"))?;
        Ok(())
    }

    /// Whether a device is connected. One that does not exist is not.
    pub fn status(&mut self, index: u32) -> Result<bool, NbdError> {
        let devices = self.devices(|message| message.u32(attribute::INDEX, index))?;
        Ok(devices.contains(&(index, true)))
    }

    /// The indexes of all connected devices, in ascending order.
    pub fn connected(&mut self) -> Result<Vec<u32>, NbdError> {
        let mut devices = self.devices(|_| {})?;
        devices.retain(|&(_, connected)| connected);
        devices.sort_unstable();
        Ok(devices.into_iter().map(|(index, _)| index).collect())
    }

    fn devices(&mut self, choose: impl FnOnce(&mut Request)) -> Result<Vec<(u32, bool)>, NbdError> {
        const ACTION: &str = "list its network block devices";
        let answer = self.call(command::STATUS, choose).map_err(|failure| failure.during(ACTION))?;
        device_list(&answer).ok_or(NbdError::Answer(ACTION))
    }

    fn find_family(&mut self, name: &str) -> Result<u16, NbdError> {
        const ACTION: &str = "look up its nbd interface";
        let answer = self.call(libc::CTRL_CMD_GETFAMILY as u8, |message| {
            message.text(libc::CTRL_ATTR_FAMILY_NAME as u16, name);
        });
        match answer {
            Ok(answer) => family_id(&answer).ok_or(NbdError::Answer(ACTION)),
            Err(Failure::Refused(Refusal { errno: Errno::ENOENT, .. })) => Err(NbdError::NotLoaded),
            Err(failure) => Err(failure.during(ACTION)),
        }
    }

    /// Sends a command and waits for its acknowledgement. Gives the datagram with the answer; empty if there was none.
    fn call(&mut self, command: u8, fill: impl FnOnce(&mut Request)) -> Result<Answer, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Request::new(self.family, command, FAMILY_VERSION, self.sequence);
        fill(&mut request);
        socket::send(self.socket.as_raw_fd(), &request.finish(), MsgFlags::empty())?;

        let mut answer = Answer { family: self.family, sequence: self.sequence, datagram: Vec::new() };
        let mut room = vec![0; ANSWER_ROOM];
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let received = match socket::recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut room) {
                // Any process may write to this socket; only the kernel has port 0.
                Ok((received, Some(sender))) if sender.pid() == 0 => received,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            if let Some(outcome) = answer.take(&room[..received]) {
                return outcome.map(|()| answer).map_err(Failure::Refused);
            }
        }
        Err(Failure::Broken(NbdError::Timeout))
    }
}

/// What the kernel sent for one request.
struct Answer {
    family: u16,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Answer {
    /// Takes what was received; tells the outcome once the acknowledgement is in it. Late answers to earlier requests
    /// are passed over.
    fn take(&mut self, datagram: &[u8]) -> Option<Result<(), Refusal>> {
        let mut outcome = None;
        for message in messages(datagram).filter(|message| message.sequence == self.sequence) {
            if message.kind == self.family {
                self.datagram = datagram.to_vec();
            }
            outcome = outcome.or_else(|| message.acknowledgement());
        }
        outcome
    }

    /// The value of an attribute in it.
    fn attribute(&self, wanted: u16) -> Option<&[u8]> {
        let message = messages(&self.datagram).find(|message| message.kind == self.family)?;
        message.attributes().find(|&(kind, _)| kind == wanted).map(|(_, value)| value)
    }
}

/// Why a command had no success.
#[derive(Debug)]
enum Failure {
    Refused(Refusal),
    Broken(NbdError),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Broken(error.into())
    }
}

impl Failure {
    fn during(self, action: &'static str) -> NbdError {
        match self {
            Self::Refused(Refusal { errno: Errno::EPERM, .. }) => NbdError::Permission,
            Self::Refused(Refusal { errno, text }) => NbdError::Refused { action, errno, text },
            Self::Broken(error) => error,
        }
    }
}

fn check_backend(name: &str) -> Result<(), NbdError> {
    if (1..=MAX_BACKEND).contains(&name.len()) && !name.contains('\0') { Ok(()) } else { Err(NbdError::Backend) }
}

fn add_sockets(message: &mut Request, sockets: &[BorrowedFd<'_>]) {
    message.nested(attribute::SOCKETS, |list| {
        for socket in sockets {
            let number = socket.as_raw_fd().cast_unsigned();
            list.nested(attribute::SOCK_ITEM, |item| item.u32(attribute::SOCK_FD, number));
        }
    });
}

fn family_id(answer: &Answer) -> Option<u16> {
    number(answer.attribute(libc::CTRL_ATTR_FAMILY_ID as u16)?).map(u16::from_ne_bytes)
}

fn connected_index(answer: &Answer) -> Option<u32> {
    number(answer.attribute(attribute::INDEX)?).map(u32::from_ne_bytes)
}

/// Devices by index, and whether each is connected.
fn device_list(answer: &Answer) -> Option<Vec<(u32, bool)>> {
    attributes(answer.attribute(attribute::DEVICE_LIST)?)
        .filter(|&(kind, _)| kind == attribute::DEVICE_ITEM)
        .map(|(_, item)| {
            let find = |wanted| attributes(item).find(|&(kind, _)| kind == wanted).map(|(_, value)| value);
            let index = u32::from_ne_bytes(number(find(attribute::DEVICE_INDEX)?)?);
            let [connected] = number(find(attribute::DEVICE_CONNECTED)?)?;
            Some((index, connected != 0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    const FAMILY: u16 = 0x21;

    fn answer() -> Answer {
        Answer { family: FAMILY, sequence: 5, datagram: Vec::new() }
    }

    /// An answer of the kernel has the form of a request.
    fn reply(sequence: u32, fill: impl FnOnce(&mut Request)) -> Vec<u8> {
        let mut message = Request::new(FAMILY, command::CONNECT, FAMILY_VERSION, sequence);
        fill(&mut message);
        message.finish()
    }

    fn acknowledgement(sequence: u32, errno: i32) -> Vec<u8> {
        let mut message: Vec<u8> = 36u32.to_ne_bytes().to_vec();
        message.extend((libc::NLMSG_ERROR as u16).to_ne_bytes());
        message.extend([0, 1]);
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend((-errno).to_ne_bytes());
        message.extend([0; 16]);
        message
    }

    #[test]
    fn the_answer_comes_before_the_acknowledgement_and_old_ones_are_passed_over() {
        let mut answer = answer();
        assert_eq!(answer.take(&reply(4, |message| message.u32(attribute::INDEX, 1))), None);
        assert_eq!(answer.take(&acknowledgement(4, libc::EBUSY)), None);
        assert_eq!(connected_index(&answer), None);
        assert_eq!(answer.take(&reply(5, |message| message.u32(attribute::INDEX, 7))), None);
        assert_eq!(answer.take(&acknowledgement(5, 0)), Some(Ok(())));
        assert_eq!(connected_index(&answer), Some(7));
    }

    #[test]
    fn answer_and_acknowledgement_may_share_a_datagram() {
        let mut answer = answer();
        let both = [reply(5, |message| message.u32(attribute::INDEX, 7)), acknowledgement(5, 0)].concat();
        assert_eq!(answer.take(&both), Some(Ok(())));
        assert_eq!(connected_index(&answer), Some(7));
    }

    #[test]
    fn the_device_list_is_read() {
        let mut answer = answer();
        let list = reply(5, |message| {
            message.nested(attribute::DEVICE_LIST, |list| {
                for (index, connected) in [(0, 1), (9, 0)] {
                    list.nested(attribute::DEVICE_ITEM, |item| {
                        item.u32(attribute::DEVICE_INDEX, index);
                        item.u8(attribute::DEVICE_CONNECTED, connected);
                    });
                }
            });
        });
        answer.take(&list);
        assert_eq!(device_list(&answer), Some(vec![(0, true), (9, false)]));
    }

    #[test]
    fn an_answer_without_its_attribute_is_none() {
        let mut answer = answer();
        answer.take(&reply(5, |message| message.u64(attribute::INDEX, 7)));
        assert_eq!(connected_index(&answer), None, "an index has four bytes");
        assert_eq!(device_list(&answer), None);
        assert_eq!(family_id(&answer), None);
    }

    #[test]
    fn errors_tell_what_to_do() {
        let text = |errno, text: &str| Failure::Refused(Refusal { errno, text: text.into() }).during("x").to_string();
        assert!(text(Errno::EPERM, "").contains("run as root"));
        assert_eq!(text(Errno::EINVAL, ""), "the kernel refused to x: Invalid argument");
        assert!(text(Errno::EINVAL, "Unsupported socket").ends_with("(Unsupported socket)"));
        assert!(NbdError::NotLoaded.to_string().contains("the nbd kernel module is not loaded: run \"modprobe nbd\""));
        assert!(NbdError::Busy(3).to_string().contains("aoe-detach /dev/nbd3"));
    }

    #[test]
    fn a_backend_name_that_the_kernel_would_cut_is_refused() {
        assert!(check_backend("aoe:0.1:serial").is_ok());
        for name in ["", "a\0b", &"x".repeat(MAX_BACKEND + 1)] {
            assert!(matches!(check_backend(name), Err(NbdError::Backend)));
        }
    }

    #[test]
    fn a_kernel_without_the_module_says_so_and_one_with_it_answers() {
        let loaded = std::path::Path::new("/sys/module/nbd").exists();
        match NbdControl::open() {
            Err(NbdError::NotLoaded) => assert!(!loaded),
            Err(error) => panic!("{error}"),
            Ok(mut control) => {
                assert!(loaded);
                match control.status(4_000_000) {
                    Ok(connected) => assert!(!connected),
                    Err(NbdError::Permission) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn the_directory_of_families_finds_itself() {
        let mut control = NbdControl::open_socket().unwrap();
        assert_eq!(control.find_family("nlctrl").unwrap(), libc::GENL_ID_CTRL as u16);
        assert!(matches!(control.find_family("no-such-family"), Err(NbdError::NotLoaded)));
        let NbdError::Refused { errno, text, .. } = control.find_family(&"x".repeat(100)).unwrap_err() else {
            panic!("a name longer than any is refused in another way");
        };
        assert!(matches!(errno, Errno::ERANGE | Errno::EINVAL), "{errno}");
        assert!(!text.is_empty(), "the kernel says why");
        assert_eq!(control.find_family("nlctrl").unwrap(), libc::GENL_ID_CTRL as u16, "an error is over when told");
    }

    #[test]
    fn the_most_sockets_fit_a_message() {
        let stdin = std::io::stdin();
        let mut message = Request::new(FAMILY, command::CONNECT, FAMILY_VERSION, 5);
        add_sockets(&mut message, &[stdin.as_fd(); MAX_SOCKETS]);
        let mut answer = answer();
        answer.take(&message.finish());
        assert_eq!(attributes(answer.attribute(attribute::SOCKETS).unwrap()).count(), MAX_SOCKETS);
    }

    proptest! {
        #[test]
        fn garbage_is_no_answer_and_no_panic(
            bytes in prop::collection::vec(prop_oneof![0..12u8, any::<u8>()], 0..120),
            cut in 0..64usize,
        ) {
            let mut garbage = answer();
            let _ = garbage.take(&bytes);
            let _ = (connected_index(&garbage), device_list(&garbage), family_id(&garbage));

            let mut whole = reply(5, |message| message.nested(attribute::DEVICE_LIST, |list| {
                list.nested(attribute::DEVICE_ITEM, |item| item.u32(attribute::DEVICE_INDEX, 1));
            }));
            for (at, byte) in bytes.iter().take(whole.len().saturating_sub(cut)).enumerate().filter(|&(at, _)| at >= 16) {
                whole[at] ^= byte;
            }
            let mut spoilt = answer();
            spoilt.take(&whole);
            let _ = (connected_index(&spoilt), device_list(&spoilt));
        }
    }
}
