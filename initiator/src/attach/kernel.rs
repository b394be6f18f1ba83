//! The kernel's network block devices as a place to attach at.
//!
//! The kernel is an NBD client on socket pairs; it is told about them by netlink. A device remembers the name of its
//! backend, so that a new process can take over after a crash: requests wait in the kernel meanwhile, for as long as
//! a dead target would be waited for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::SECTOR;
use aoe_common::netlink::{ConnectRequest, NbdControl, NbdError, ReconfigureRequest};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::client::widen;
use crate::nbd::{ExportInfo, TransmissionFlags};

/// "For ever" in seconds, small enough for the kernel to count in ticks.
const FOR_EVER_S: u64 = 10 * 365 * 86_400;

/// The name of the process that serves a device, as the kernel shows it.
const OUR_NAME: &str = "aoe-attach";

/// Why a kernel device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no such device, but there are others.
    #[error("there is no /dev/nbd{0}: choose another, or load the module with more, \"modprobe nbd nbds_max=64\"")]
    Missing(u32),
    /// It is ours, and its server lives.
    #[error("/dev/nbd{index} is attached to {address} already, by process {pid}: see \"aoe-stat\"")]
    Served {
        /// Which device.
        index: u32,
        /// The disk at it.
        address: Address,
        /// Its server.
        pid: u32,
    },
    /// It waits for another disk of the same address.
    #[error(
        "/dev/nbd{index} waits for another disk, {found}, not {ours}: free it with \"nbd-client -d /dev/nbd{index}\""
    )]
    OtherDisk {
        /// Which device.
        index: u32,
        /// Its backend.
        found: String,
        /// The one that answers.
        ours: String,
    },
    /// Another process was faster, or the old one still lives.
    #[error("/dev/nbd{0} has a server already: see \"aoe-stat\", or free it with \"nbd-client -d /dev/nbd{0}\"")]
    NotTaken(u32),
    /// Mounted, or used in another exclusive way.
    #[error("/dev/nbd{0} is in use: unmount it first, see \"lsblk /dev/nbd{0}\"")]
    InUse(u32),
    /// The kernel does not do it.
    #[error(transparent)]
    Nbd(#[from] NbdError),
    /// Anything else.
    #[error("kernel device: {0}")]
    Io(#[from] io::Error),
}

/// How a device is to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// This one, or the first that is free.
    Connect(Option<u32>),
    /// One whose server crashed, by this backend, with its size in bytes.
    TakeOver(u32, String, u64),
}

/// The files in which the kernel shows its devices and processes.
#[derive(Clone, Debug)]
pub(super) struct KernelFiles {
    sys: PathBuf,
    proc: PathBuf,
}

impl Default for KernelFiles {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

impl KernelFiles {
    /// What is to be done to attach a disk at a device.
    pub fn plan(&self, index: Option<u32>, address: Address) -> Result<Plan, KernelError> {
        if !self.sys.join("module/nbd").exists() && !self.block(0).exists() {
            return Err(NbdError::NotLoaded.into());
        }
        let Some(index) = index else { return Ok(Plan::Connect(None)) };
        if !self.block(index).exists() {
            return Err(KernelError::Missing(index));
        }
        let Some(pid) = read(&self.block(index).join("pid")) else { return Ok(Plan::Connect(Some(index))) };
        let backend = read(&self.block(index).join("backend")).unwrap_or_default();
        if !backend.starts_with(&backend_of(address, "")) {
            return Err(NbdError::Busy(index).into());
        }
        match pid.parse().ok().filter(|pid| self.is_ours(*pid)) {
            Some(pid) => Err(KernelError::Served { index, address, pid }),
            None => Ok(Plan::TakeOver(index, backend, self.size_bytes(index))),
        }
    }

    /// The kernel shows sizes in sectors of 512 bytes.
    fn size_bytes(&self, index: u32) -> u64 {
        let sectors = read(&self.block(index).join("size")).and_then(|size| size.parse::<u64>().ok());
        sectors.unwrap_or(0).saturating_mul(SECTOR as u64)
    }

    fn block(&self, index: u32) -> PathBuf {
        self.sys.join(format!("block/nbd{index}"))
    }

    /// Whether a process lives and can be a server of ours; its number may have gone to another.
    fn is_ours(&self, pid: u32) -> bool {
        read(&self.proc.join(format!("{pid}/comm"))).is_some_and(|name| name == OUR_NAME)
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// The name of a disk as a backend.
pub(super) fn backend(address: Address, disk: &Identify) -> String {
    if disk.serial.is_empty() {
        backend_of(address, &format!("{}/{}", disk.model, disk.sectors))
    } else {
        backend_of(address, &disk.serial)
    }
}

fn backend_of(address: Address, name: &str) -> String {
    format!("aoe:{}.{}:{name}", address.shelf, address.slot)
}

/// Settings of an attach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Sockets to offer.
    pub connections: u8,
    /// How long the kernel lets one request take, in seconds; 0: as long as it takes.
    pub timeout_s: u64,
    /// How long requests wait for a new server; none: for ever.
    pub dead_after_s: Option<u64>,
}

/// The netlink calls that attach a device.
pub(super) trait Line {
    fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<u32, NbdError>;
    fn reconfigure(&mut self, request: &ReconfigureRequest<'_>) -> Result<(), NbdError>;
}

impl Line for NbdControl {
    fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<u32, NbdError> {
        self.connect(request)
    }

    fn reconfigure(&mut self, request: &ReconfigureRequest<'_>) -> Result<(), NbdError> {
        self.reconfigure(request)
    }
}

/// Attaches a device: hands our ends of new sockets to `serve`, which has to serve them at once, and the other ends to
/// the kernel. Tells the index of the device. To be called by the main thread, whose number the kernel shows as that
/// of the server.
pub(super) fn attach(
    line: &mut impl Line,
    plan: &Plan,
    backend: &str,
    export: &ExportInfo,
    settings: Settings,
    serve: impl FnOnce(Vec<OwnedFd>),
) -> Result<u32, KernelError> {
    if let Plan::TakeOver(index, found, _) = plan
        && found != backend
    {
        return Err(KernelError::OtherDisk { index: *index, found: found.clone(), ours: backend.to_owned() });
    }
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..settings.connections {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).map_err(io::Error::from)?;
        widen(&b);
        ours.push(a);
        theirs.push(b);
    }
    let watched: Vec<OwnedFd> = ours.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
    serve(ours);
    let sockets: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    let dead_conn_timeout_s = settings.dead_after_s.unwrap_or(FOR_EVER_S).min(FOR_EVER_S);
    match plan {
        Plan::Connect(index) => Ok(line.connect(&ConnectRequest {
            index: *index,
            size_bytes: export.size_bytes,
            block_size: export.block_min.into(),
            flags: (export.flags | TransmissionFlags::HAS_FLAGS).bits().into(),
            timeout_s: settings.timeout_s,
            dead_conn_timeout_s,
            backend,
            sockets: &sockets,
        })?),
        Plan::TakeOver(index, _, had_bytes) => {
            let has_bytes = export.size_bytes;
            if has_bytes < *had_bytes {
                tracing::warn!(
                    "/dev/nbd{index} has {had_bytes} bytes and its disk only {has_bytes} now: it keeps its size, what \
                     lies beyond fails"
                );
            }
            line.reconfigure(&ReconfigureRequest {
                index: *index,
                backend,
                sockets: &sockets,
                size_bytes: (has_bytes > *had_bytes).then_some(has_bytes),
                timeout_s: Some(settings.timeout_s),
                dead_conn_timeout_s: Some(dead_conn_timeout_s),
            })?;
            // A kernel that wants no new socket says nothing and lets it go.
            drop(theirs);
            if watched.iter().all(is_let_go) { Err(KernelError::NotTaken(*index)) } else { Ok(*index) }
        }
    }
}

/// Tells the kernel that the disk at a device has grown. It may wait for requests under way before it answers.
pub(super) fn grow(line: &mut impl Line, index: u32, backend: &str, size_bytes: u64) -> Result<(), NbdError> {
    line.reconfigure(&ReconfigureRequest {
        index,
        backend,
        sockets: &[],
        size_bytes: Some(size_bytes),
        timeout_s: None,
        dead_conn_timeout_s: None,
    })
}

/// Whether nobody has the other end of a socket.
fn is_let_go(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    let hung_up = |polled: &PollFd<'_>| polled.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
    poll(&mut polled, PollTimeout::ZERO).is_ok() && hung_up(&polled[0])
}

/// Opens the line to the kernel. Its block devices listen in the first network namespace only; a process in another
/// one, but with the rights, reaches them from there.
pub(super) fn open_line() -> Result<NbdControl, NbdError> {
    match NbdControl::open() {
        Err(NbdError::NotLoaded) if is_elsewhere() => {
            let opener = std::thread::spawn(|| {
                let first = File::open("/proc/1/ns/net")?;
                setns(first, CloneFlags::CLONE_NEWNET)?;
                NbdControl::open()
            });
            opener.join().expect("opening a socket does not panic")
        }
        opened => opened,
    }
}

fn is_elsewhere() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    namespace("1").is_some_and(|first| Some(first) != namespace("self"))
}

fn node(index: u32) -> PathBuf {
    format!("/dev/nbd{index}").into()
}

/// Refuses to go on while somebody has mounted the device, or uses it as exclusively.
pub(super) fn check_unused(index: u32) -> Result<(), KernelError> {
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(node(index)) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(KernelError::InUse(index)),
        _ => Ok(()),
    }
}

/// Writes back what the kernel holds of the device. Waits for the target.
pub(super) fn write_back(index: u32) -> io::Result<()> {
    File::open(node(index))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const ADDRESS: Address = Address::new(0, 1);
    const SETTINGS: Settings = Settings { connections: 2, timeout_s: 0, dead_after_s: Some(180) };

    fn disk(serial: &str) -> Identify {
        Identify { sectors: 2048, serial: serial.into(), model: "M".into(), flush_ext: true, ..Identify::default() }
    }

    /// A kernel with /dev/nbd0 free, nbd1 attached, and these processes.
    fn kernel(backend: Option<&str>, pid: u32, comm: Option<&str>) -> (tempfile::TempDir, KernelFiles) {
        let folder = tempfile::tempdir().unwrap();
        let files = KernelFiles { sys: folder.path().join("sys"), proc: folder.path().join("proc") };
        fs::create_dir_all(files.sys.join("module/nbd")).unwrap();
        fs::create_dir_all(files.block(0)).unwrap();
        fs::create_dir_all(files.block(1)).unwrap();
        fs::write(files.block(1).join("pid"), format!("{pid}\n")).unwrap();
        fs::write(files.block(1).join("size"), "2048\n").unwrap();
        if let Some(backend) = backend {
            fs::write(files.block(1).join("backend"), format!("{backend}\n")).unwrap();
        }
        if let Some(comm) = comm {
            fs::create_dir_all(files.proc.join(pid.to_string())).unwrap();
            fs::write(files.proc.join(format!("{pid}/comm")), format!("{comm}\n")).unwrap();
        }
        (folder, files)
    }

    /// /dev/nbd1, left by its server.
    fn left(backend: &str, size_bytes: u64) -> Plan {
        Plan::TakeOver(1, backend.into(), size_bytes)
    }

    #[test]
    fn a_free_device_is_connected() {
        let (_folder, files) = kernel(None, 5, None);
        assert_eq!(files.plan(Some(0), ADDRESS).unwrap(), Plan::Connect(Some(0)));
        assert_eq!(files.plan(None, ADDRESS).unwrap(), Plan::Connect(None));
    }

    #[test]
    fn what_is_missing_is_said() {
        let (_folder, files) = kernel(None, 5, None);
        assert!(files.plan(Some(9999), ADDRESS).unwrap_err().to_string().contains("/dev/nbd9999"));
        let none = KernelFiles { sys: "/no/such/sys".into(), proc: "/no/such/proc".into() };
        for index in [None, Some(1)] {
            assert!(none.plan(index, ADDRESS).unwrap_err().to_string().contains("modprobe nbd"));
        }
    }

    #[test]
    fn a_device_of_others_is_busy() {
        for backend in [None, Some("other"), Some("aoe:0.11:S"), Some("aoe:0.2:S")] {
            let (_folder, files) = kernel(backend, 5, None);
            let error = files.plan(Some(1), ADDRESS).unwrap_err();
            assert!(matches!(error, KernelError::Nbd(NbdError::Busy(1))), "{backend:?}: {error}");
        }
    }

    #[test]
    fn only_a_crashed_server_is_followed() {
        for (comm, is_dead) in [(None, true), (Some("bash"), true), (Some("aoe-attach"), false)] {
            let (_folder, files) = kernel(Some("aoe:0.1:S"), 77, comm);
            match files.plan(Some(1), ADDRESS) {
                Ok(plan) => assert!(is_dead && plan == left("aoe:0.1:S", 1 << 20), "{comm:?}"),
                Err(error) => assert!(!is_dead && error.to_string().contains("process 77"), "{comm:?}: {error}"),
            }
        }
    }

    #[test]
    fn a_backend_names_the_disk() {
        assert_eq!(backend(ADDRESS, &disk("S 1")), "aoe:0.1:S 1");
        assert_eq!(backend(ADDRESS, &disk("")), "aoe:0.1:M/2048");
        assert!(backend(ADDRESS, &disk("S")).starts_with(&backend_of(ADDRESS, "")));
    }

    /// A kernel that keeps so many of the sockets it is given.
    #[derive(Default)]
    struct Fake {
        keeps: usize,
        kept: Vec<OwnedFd>,
        told: String,
    }

    impl Fake {
        fn keep(&mut self, sockets: &[std::os::fd::BorrowedFd<'_>]) {
            self.kept = sockets.iter().take(self.keeps).map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        }
    }

    impl Line for Fake {
        fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<u32, NbdError> {
            let ConnectRequest { size_bytes, block_size, flags, timeout_s, dead_conn_timeout_s, backend, .. } = request;
            self.told = format!("{size_bytes} {block_size} {flags:#x} {timeout_s} {dead_conn_timeout_s} {backend}");
            self.keep(request.sockets);
            match request.index {
                Some(7) => Err(NbdError::Busy(7)),
                index => Ok(index.unwrap_or(3)),
            }
        }

        fn reconfigure(&mut self, request: &ReconfigureRequest<'_>) -> Result<(), NbdError> {
            let ReconfigureRequest { index, backend, size_bytes, dead_conn_timeout_s, .. } = request;
            self.told = format!("{index} {backend} {size_bytes:?} {dead_conn_timeout_s:?}");
            self.keep(request.sockets);
            Ok(())
        }
    }

    fn try_attach(line: &mut Fake, plan: &Plan, settings: Settings) -> (Result<u32, KernelError>, Vec<OwnedFd>) {
        let mut served = Vec::new();
        let export = super::super::export::export(ADDRESS, &disk("S"), false, true);
        let result = attach(line, plan, &backend(ADDRESS, &disk("S")), &export, settings, |ours| served = ours);
        (result, served)
    }

    #[test]
    fn connecting_tells_the_kernel_what_the_disk_is() {
        let mut line = Fake { keeps: 2, ..Fake::default() };
        let (index, served) = try_attach(&mut line, &Plan::Connect(None), SETTINGS);
        assert_eq!((index.unwrap(), served.len(), line.kept.len()), (3, 2, 2));
        // HAS_FLAGS, SEND_FLUSH, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
        assert_eq!(line.told, "1048576 512 0x145 0 180 aoe:0.1:S");
        let mut kernel = UnixStream::from(line.kept.remove(0));
        kernel.write_all(b"x").unwrap();
        assert!(served.iter().all(|socket| !is_let_go(socket)) || line.kept.is_empty());
    }

    #[test]
    fn a_device_somebody_else_just_took_is_busy() {
        let (result, _) = try_attach(&mut Fake::default(), &Plan::Connect(Some(7)), SETTINGS);
        assert!(result.unwrap_err().to_string().contains("/dev/nbd7 is in use"));
    }

    #[test]
    fn taking_over_needs_the_same_disk() {
        let mut line = Fake { keeps: 2, ..Fake::default() };
        let (result, served) = try_attach(&mut line, &left("aoe:0.1:OTHER", 1 << 20), SETTINGS);
        assert!(result.unwrap_err().to_string().contains("aoe:0.1:OTHER"));
        assert!(served.is_empty() && line.told.is_empty(), "the kernel is not asked");
    }

    #[test]
    fn taking_over_notices_a_kernel_that_wants_no_socket() {
        let plan = left("aoe:0.1:S", 1 << 20);
        let (result, _) = try_attach(&mut Fake::default(), &plan, SETTINGS);
        assert!(matches!(result, Err(KernelError::NotTaken(1))));

        // One socket was dead, one is enough.
        let mut line = Fake { keeps: 1, ..Fake::default() };
        let for_ever = Settings { dead_after_s: None, ..SETTINGS };
        let (result, _served) = try_attach(&mut line, &plan, for_ever);
        assert_eq!(result.unwrap(), 1);
        assert_eq!(line.told, format!("1 aoe:0.1:S None Some({FOR_EVER_S})"));
    }

    #[test]
    fn a_device_grows_with_its_disk_and_does_not_shrink() {
        let mut line = Fake { keeps: 2, ..Fake::default() };
        grow(&mut line, 1, "aoe:0.1:S", 3 << 20).unwrap();
        assert_eq!(line.told, "1 aoe:0.1:S Some(3145728) None");

        // The disk has 1 MiB.
        for (had_bytes, told) in [(1 << 19, "Some(1048576)"), (1 << 20, "None"), (1 << 21, "None")] {
            let (result, _served) = try_attach(&mut line, &left("aoe:0.1:S", had_bytes), SETTINGS);
            assert_eq!(result.unwrap(), 1);
            assert_eq!(line.told, format!("1 aoe:0.1:S {told} Some(180)"));
        }
    }
}
