//! What each thread may still ask of the kernel once it has what it needs. A fault in the code that reads frames must not
//! become a hold on the host.
//!
//! Threads differ: who reads frames opens no files, who opens files reads no frames. So each confines itself, in
//! four ways that do not depend on each other:
//! - capabilities: all are dropped at the start but those that some thread needs later, and each thread keeps its own;
//! - no_new_privs, and nothing can be executed;
//! - landlock: which files it may open, and no TCP connections;
//! - seccomp: a list of system calls. Every other one fails with EPERM.
//!
//! EPERM rather than death: the lists cannot foresee what the next libc asks for on its way through an error. As an error
//! it reaches code that expects errors, and disks go on being served; to kill the process would take all of them away,
//! and denies an intruder no more.
//!
//! io_uring is not subject to seccomp. Its rings take the few operations of [`disk`](crate::disk) only, with or without
//! sandbox.
//!
//! A kernel that knows less confines less, which the log says in one line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, make_bitflags,
};
use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Rights that are handled: all that are known here. The kernel may know fewer.
const FILE_RIGHTS: ABI = ABI::V5;
const NETWORK_RIGHTS: ABI = ABI::V4;

/// What a thread is for, and with that what it may do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role<'a> {
    /// Works on disks and ports that are open, and opens ports; no files.
    Worker,
    /// Reads, makes and removes files in this directory.
    Store(&'a Path),
    /// Sets the times of files that are open.
    Marker,
    /// Answers on a socket that is open.
    Metrics,
    /// Opens disks, listens, logs, and starts threads. Makes and removes files in these directories only.
    Control(&'a [PathBuf]),
}

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sandbox {
    is_on: bool,
}

impl Sandbox {
    /// Drops, for all threads that are started after this, what none of them needs.
    pub(crate) fn begin(is_on: bool) -> Self {
        if is_on {
            let wanted = [Role::Worker, Role::Marker, Role::Control(&[])].map(capabilities).concat();
            // What could come back by executing something. No thread can, so it does no harm if the right to this is missing.
            for capability in caps::all().into_iter().filter(|capability| !wanted.contains(capability)) {
                let _ = caps::drop(None, CapSet::Bounding, capability);
            }
            keep_capabilities(&wanted);
            if let Err(error) = nix::sys::prctl::set_no_new_privs() {
                tracing::info!("sandbox: no_new_privs: {error}; going on without");
            }
        }
        Self { is_on }
    }

    /// Confines the calling thread, and those it starts, for good. What it has open stays open.
    pub(crate) fn confine(self, role: Role<'_>) {
        if !self.is_on {
            return;
        }
        // Each thread would say the same; the control thread is the last and says it for all.
        let tell = |text: String| match role {
            Role::Control(_) => tracing::info!("sandbox: {text}"),
            _ => tracing::debug!("sandbox: {text}"),
        };
        keep_capabilities(capabilities(role));
        match restrict_files(role) {
            Ok(RulesetStatus::NotEnforced) => tell("this kernel has no landlock; going on without".to_owned()),
            Ok(_) => {}
            Err(error) => tell(format!("landlock: {error}; going on without")),
        }
        // Last: it forbids the calls above.
        match filter(role).map(|program| seccompiler::apply_filter(&program)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tell(format!("seccomp: {error}; going on without")),
            Err(error) => tell(format!("seccomp is not set up for this processor: {error}; going on without")),
        }
    }
}

/// What a thread needs once it is confined, if the process has it at all.
fn capabilities(role: Role<'_>) -> &'static [Capability] {
    match role {
        // Ports of interfaces that come up later, and room in them for more frames than the usual limit.
        Role::Worker => &[Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN],
        // Files of the state directory may be another user's, from an earlier start.
        Role::Store(_) => &[Capability::CAP_DAC_OVERRIDE],
        Role::Marker => &[Capability::CAP_FOWNER],
        Role::Metrics => &[],
        // Disks that are added or opened again: who started it as root may name any.
        Role::Control(_) => &[Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH],
    }
}

/// Drops all capabilities of the calling thread but these.
fn keep_capabilities(kept: &[Capability]) {
    let kept: CapsHashSet = kept.iter().copied().collect();
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let kept: CapsHashSet = held.intersection(&kept).copied().collect();
    let _ = caps::clear(None, CapSet::Ambient);
    let dropped = caps::clear(None, CapSet::Inheritable)
        .and_then(|()| caps::set(None, CapSet::Effective, &kept))
        .and_then(|()| caps::set(None, CapSet::Permitted, &kept));
    if let Err(error) = dropped {
        tracing::info!("sandbox: capabilities: {error}; going on with all of them");
    }
}

/// Lets the calling thread open only the files of its role, and make no TCP connection.
fn restrict_files(role: Role<'_>) -> Result<RulesetStatus, landlock::RulesetError> {
    let disks = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev});
    let own = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | RemoveFile});
    let mut connections = AccessNet::from_all(NETWORK_RIGHTS);
    let mut rules: Vec<(&Path, BitFlags<AccessFs>)> = vec![];
    match role {
        Role::Worker | Role::Marker | Role::Metrics => {}
        Role::Store(directory) => rules.push((directory, own)),
        Role::Control(directories) => {
            // Figures may be asked for over TCP.
            connections = AccessNet::ConnectTcp.into();
            rules.push((Path::new("/"), disks));
            rules.extend(directories.iter().map(|directory| (directory.as_path(), own)));
        }
    }
    let mut ruleset =
        Ruleset::default().handle_access(AccessFs::from_all(FILE_RIGHTS))?.handle_access(connections)?.create()?;
    for (path, rights) in rules {
        // One that is gone meanwhile cannot be used either.
        if let Ok(directory) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, rights))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// The system calls of a role; every other one fails with EPERM.
fn filter(role: Role<'_>) -> Result<BpfProgram, seccompiler::BackendError> {
    let calls: &[&[i64]] = match role {
        Role::Worker => &[ANY_THREAD, DISK_IO, PORTS],
        Role::Store(_) => &[ANY_THREAD, FILES],
        Role::Marker => &[ANY_THREAD, &[libc::SYS_utimensat]],
        Role::Metrics => &[ANY_THREAD, &[libc::SYS_accept4, libc::SYS_shutdown]],
        Role::Control(_) => &[ANY_THREAD, FILES, DISK_IO, SOCKETS, THREADS],
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.iter().copied().flatten().map(|&call| (call, vec![])).collect();
    // Memory that can be executed is nothing that any of them asks for.
    let not_executable =
        || argument(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0).map(|condition| vec![condition]);
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    match role {
        Role::Worker => {
            rules.insert(libc::SYS_socket, vec![argument(0, SeccompCmpOp::Eq, libc::AF_PACKET as u64)?]);
        }
        // So the standard library makes a socket one that does not block.
        Role::Metrics => {
            rules.insert(libc::SYS_ioctl, vec![argument(1, SeccompCmpOp::Eq, libc::FIONBIO)?]);
        }
        _ => {}
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Errno(Errno::EPERM as u32), SeccompAction::Allow, arch)?.try_into()
}

/// An argument that has to compare like this.
fn argument(index: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, how, value)?])
}

/// What the standard library, the allocator, a panic and a line in the log need.
const ANY_THREAD: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

const DISK_IO: &[i64] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_sync_file_range,
];

/// Without `socket`, which a worker has for raw ones only.
const PORTS: &[i64] =
    &[libc::SYS_bind, libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_sendmmsg, libc::SYS_setsockopt];

const FILES: &[i64] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Control and metrics sockets, interfaces, the service manager, and the runtime that waits for them.
const SOCKETS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_pipe2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// A new thread, and what that needs to confine itself further.
const THREADS: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_prctl,
    libc::SYS_seccomp,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::io::{self, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::thread;

    use aoe_common::frame::FrameBuffer;
    use aoe_common::link::monotonic_now;
    use aoe_common::time::Duration;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    use crate::disk::{DiskFile, DiskOptions, Disks, EngineChoice};
    use crate::engine::operation::{DiskId, DiskOperation, DiskOperationKind, OperationId};

    /// A confined thread cannot be let out again, so each test has one of its own.
    fn on_a_thread(test: impl FnOnce() + Send) {
        thread::scope(|scope| thread::Builder::new().spawn_scoped(scope, test).unwrap().join().unwrap());
    }

    fn errno<T>(result: io::Result<T>) -> Option<Errno> {
        result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
    }

    const OUT: Option<Errno> = Some(Errno::EPERM);
    /// What landlock says.
    const NO_ACCESS: Option<Errno> = Some(Errno::EACCES);

    fn scratch(bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        File::create(&path).and_then(|file| file.set_len(bytes)).unwrap();
        (folder, path)
    }

    fn run(disks: &mut Disks, kind: DiskOperationKind, buffer: FrameBuffer) -> FrameBuffer {
        disks.submit(DiskOperation { id: OperationId(0), disk: DiskId(0), kind, buffer });
        let deadline = monotonic_now() + Duration::from_secs(20);
        let mut ended = None;
        while ended.is_none() {
            assert!(monotonic_now() < deadline, "{kind:?} does not end");
            disks.flush().unwrap();
            disks.completions(|completion| ended = Some(completion));
            thread::yield_now();
        }
        let ended = ended.unwrap();
        assert_eq!(ended.result, Ok(()), "{kind:?}");
        ended.buffer
    }

    #[test]
    fn a_worker_uses_its_disks_and_opens_nothing() {
        for engine in [EngineChoice::Sync, EngineChoice::Auto] {
            for direct in [false, true] {
                let (folder, path) = scratch(1 << 20);
                on_a_thread(|| {
                    let options = DiskOptions { path: path.clone(), direct, ..DiskOptions::default() };
                    // Not each temporary folder takes direct I/O.
                    let Ok(mut disk) = DiskFile::open(&options) else { return assert!(direct) };
                    let later = DiskFile::open(&DiskOptions { path: path.clone(), ..DiskOptions::default() });
                    assert!(later.is_err(), "it is locked");
                    let mut disks = Disks::new(engine, 8).unwrap();
                    Sandbox::begin(true).confine(Role::Worker);

                    assert!(!disk.refresh_size().unwrap() && !disk.is_deleted_now().unwrap());
                    disk.check().unwrap();
                    // Also a disk that was opened elsewhere and comes later.
                    disks.insert(DiskId(0), disk);
                    for durable in [false, true] {
                        let mut buffer = FrameBuffer::new(8);
                        buffer.payload_mut(4096).fill(0x5a);
                        let kind = DiskOperationKind::Write { offset: 4096, len: 4096, durable };
                        run(&mut disks, kind, buffer);
                    }
                    run(&mut disks, DiskOperationKind::Flush, FrameBuffer::new(0));
                    let mut read =
                        run(&mut disks, DiskOperationKind::Read { offset: 4096, len: 4096 }, FrameBuffer::new(8));
                    assert!(read.payload_mut(4096).iter().all(|&byte| byte == 0x5a));
                    let zero = DiskOperationKind::Zero { offset: 4096, len: 4096, unmap: true, durable: true };
                    run(&mut disks, zero, FrameBuffer::new(0));

                    assert_eq!(errno(File::open(&path)), OUT);
                    assert_eq!(
                        errno(OpenOptions::new().write(true).create_new(true).open(folder.path().join("x"))),
                        OUT
                    );
                    assert_eq!(errno(Command::new("/bin/true").spawn()), OUT);
                    assert_eq!(errno(UnixStream::connect("/nowhere")), OUT);
                    assert_eq!(errno(TcpStream::connect("127.0.0.1:9")), OUT);
                    assert!(thread::Builder::new().spawn(|| ()).is_err());
                    assert!(fs::remove_file(&path).is_err() && path.exists());
                });
            }
        }
    }

    #[test]
    fn each_thread_keeps_its_own_capabilities() {
        for role in [Role::Worker, Role::Marker, Role::Control(&[])] {
            on_a_thread(|| {
                let held = caps::read(None, CapSet::Permitted).unwrap();
                keep_capabilities(capabilities(role));
                let kept = capabilities(role).iter().copied().filter(|capability| held.contains(capability)).collect();
                for set in [CapSet::Effective, CapSet::Permitted] {
                    assert_eq!(caps::read(None, set).unwrap(), kept, "{role:?}");
                }
                assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
            });
        }
    }

    #[test]
    fn a_worker_opens_raw_ports_and_no_other_socket() {
        on_a_thread(|| {
            let may_have_ports = caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
            Sandbox::begin(true).confine(Role::Worker);
            let port = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
            assert_eq!(port.is_ok(), may_have_ports);
            for family in [AddressFamily::Unix, AddressFamily::Inet, AddressFamily::Netlink] {
                let other = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
                assert_eq!(other.err(), OUT, "{family:?}");
            }
            // A panic is told and ends the thread, not the process.
            assert!(std::panic::catch_unwind(|| panic!("a thread that is confined")).is_err());
            // Memory beyond what the allocator has at hand.
            assert!(vec![1u8; 300 << 20].iter().all(|&byte| byte == 1));
        });
    }

    #[test]
    fn the_store_writes_in_its_directory_only() {
        let (folder, path) = scratch(512);
        let own = folder.path().join("state");
        fs::create_dir(&own).unwrap();
        on_a_thread(|| {
            Sandbox::begin(true).confine(Role::Store(&own));
            let mut file = File::create(own.join("new")).unwrap();
            file.write_all(b"x").and_then(|()| file.sync_all()).unwrap();
            fs::rename(own.join("new"), own.join("old")).unwrap();
            File::open(&own).and_then(|directory| directory.sync_all()).unwrap();
            fs::remove_file(own.join("old")).unwrap();
            if has_landlock() {
                assert_eq!(errno(File::open(&path)), NO_ACCESS);
                assert_eq!(errno(File::create(folder.path().join("new"))), NO_ACCESS);
                assert_eq!(errno(fs::rename(&path, own.join("stolen"))), NO_ACCESS);
            }
            assert_eq!(errno(UnixStream::connect("/nowhere")), OUT);
            assert_eq!(errno(Command::new("/bin/true").spawn()), OUT);
        });
        assert!(path.exists());
    }

    #[test]
    fn the_marker_sets_times_of_what_it_has_open() {
        let (_folder, path) = scratch(512);
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        on_a_thread(|| {
            Sandbox::begin(true).confine(Role::Marker);
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            thread::sleep(std::time::Duration::from_millis(1));
            assert_eq!(errno(File::open(&path)), OUT);
        });
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), std::time::SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn control_opens_disks_and_makes_files_in_its_directories_only() {
        let (folder, path) = scratch(1 << 20);
        let own = folder.path().join("run");
        fs::create_dir(&own).unwrap();
        let directories = [own.clone()];
        on_a_thread(|| {
            Sandbox::begin(true).confine(Role::Control(&directories));
            let disk = DiskFile::open(&DiskOptions { path: path.clone(), ..DiskOptions::default() }).unwrap();
            assert_eq!(disk.size_bytes(), 1 << 20);
            drop(disk);
            drop(std::os::unix::net::UnixListener::bind(own.join("socket")).unwrap());
            fs::remove_file(own.join("socket")).unwrap();
            fs::write(own.join("file"), "text").unwrap();
            aoe_common::link::ethernet_interfaces().unwrap();
            aoe_common::link::LinkWatch::open().unwrap();
            if has_landlock() {
                assert_eq!(errno(File::create(folder.path().join("new"))), NO_ACCESS);
                assert_eq!(errno(fs::remove_file(&path)), NO_ACCESS);
                assert_eq!(errno(fs::rename(own.join("file"), folder.path().join("file"))), NO_ACCESS);
            }
            assert_eq!(errno(Command::new("/bin/true").spawn()), OUT);
            // Threads it starts are confined with it, and can be more so.
            on_a_thread(|| {
                assert_eq!(errno(Command::new("/bin/true").spawn()), OUT);
                Sandbox::begin(true).confine(Role::Worker);
                assert_eq!(errno(File::open(&path)), OUT);
            });
        });
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn without_a_sandbox_nothing_changes() {
        let (_folder, path) = scratch(512);
        on_a_thread(|| {
            let held = caps::read(None, CapSet::Permitted).unwrap();
            Sandbox::begin(false).confine(Role::Worker);
            assert!(File::open(&path).is_ok());
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), held);
        });
    }

    /// Kernels without it confine less.
    fn has_landlock() -> bool {
        let status = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).unwrap().create();
        let status = status.unwrap().restrict_self().unwrap();
        status.ruleset != RulesetStatus::NotEnforced
    }
}
