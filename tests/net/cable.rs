//! A cable in user space, which loses, repeats, delays and reorders frames as it is told.
//!
//! The hosts' interfaces end in a namespace of the cable's own. A thread in there takes every frame and sends it on to
//! the host it is for, or to all others when it is for a group or a stranger. What happens to a frame on its way is
//! drawn from a seed, by chances that can be set for each host and changed at any time; what did happen is counted.
//! Without chances nothing is lost: frames wait in large buffers of the kernel's until the thread takes them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};

/// Frames on their way at the most; further ones are dropped and counted.
const ON_THE_WAY_MAX: usize = 8192;

/// Stations whose place is known at the most; frames for others go everywhere.
const STATIONS_MAX: usize = 1024;

/// How long a frame is held back so that those behind it overtake it.
const OVERTAKING: Duration = Duration::from_millis(3);

/// Frames taken from one host before the others have their turn.
const BATCH: usize = 64;

/// Bytes the kernel may hold for each host, by its accounting: a small frame counts as some hundred.
const KERNEL_BUFFER: usize = 64 << 20;

/// How often the thread looks whether it is to end, and how long a full interface is waited for.
const TICK: Duration = Duration::from_millis(20);

/// What happens to the frames for a host: chances in per cent, drawn for each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trouble {
    /// It never arrives.
    pub lost: f64,
    /// It arrives, and a copy of it up to `late` later.
    pub repeated: f64,
    /// It arrives up to `late` later.
    pub delayed: f64,
    /// It is held back for a moment, so that others overtake it.
    pub reordered: f64,
    /// The longest delay.
    pub late: Duration,
}

/// What happened to the frames for a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came into the cable.
    pub taken: u64,
    /// Came out of it, copies included.
    pub given: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Given a second time.
    pub repeated: u64,
    /// Delayed on purpose.
    pub delayed: u64,
    /// Came out after one that had come in later.
    pub overtaken: u64,
    /// Dropped because too many were on their way, or because the interface took none.
    pub dropped: u64,
}

/// A cable that runs. It ends when dropped.
pub(super) struct Cable {
    ends: Arc<Vec<Mutex<End>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the cable's owner and its thread both know about the way to a host.
#[derive(Default)]
struct End {
    trouble: Trouble,
    counts: Counts,
}

impl Cable {
    /// Joins these interfaces of a namespace, each the far end of a host's.
    pub(super) fn new(namespace: &str, interfaces: &[String], seed: u64) -> Cable {
        let ends = Arc::new(interfaces.iter().map(|_| Mutex::default()).collect::<Vec<_>>());
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, is_open) = mpsc::channel();
        let place = Path::new("/run/netns").join(namespace);
        let (names, shared, asked) = (interfaces.to_vec(), Arc::clone(&ends), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let namespace = File::open(&place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
            let sockets = names.iter().map(|name| open(name)).collect();
            let mut carrier = Carrier::new(sockets, &shared, seed);
            opened.send(()).expect("the owner waits for this");
            while !asked.load(Ordering::Relaxed) {
                carrier.carry();
            }
        });
        is_open.recv().expect("the cable's thread has said what went wrong");
        Cable { ends, stop, thread: Some(thread) }
    }

    pub(super) fn set(&self, end: usize, trouble: Trouble) {
        self.ends[end].lock().expect("the thread runs").trouble = trouble;
    }

    pub(super) fn counts(&self, end: usize) -> Counts {
        self.ends[end].lock().expect("the thread runs").counts
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // If it has panicked, the test has lost its network and fails by that.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A socket that hears and speaks on one interface of this thread's namespace.
fn open(interface: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket =
        socket::socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("raw sockets");
    socket::setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER).expect("a large buffer for root");
    let mut addresses = getifaddrs().expect("the interfaces of a namespace");
    let address = addresses.find_map(|found| {
        (found.interface_name == interface).then_some(found.address?).filter(|address| address.as_link_addr().is_some())
    });
    let address = address.unwrap_or_else(|| panic!("no interface {interface} at the cable"));
    socket::bind(socket.as_raw_fd(), &address).expect("binding to an interface");
    socket
}

/// A frame on its way. Ordered by when it is due, then by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct OnTheWay {
    due: Instant,
    number: u64,
    end: usize,
    is_copy: bool,
    frame: Vec<u8>,
}

/// The cable's thread.
struct Carrier<'ends> {
    sockets: Vec<OwnedFd>,
    ends: &'ends [Mutex<End>],
    rng: Rng,
    /// The frames that are late, and no others.
    on_the_way: BinaryHeap<Reverse<OnTheWay>>,
    /// Which end a station is at.
    stations: HashMap<[u8; 6], usize>,
    /// Numbers the frames as they come in.
    number: u64,
    /// The highest number given to each end.
    latest: Vec<u64>,
    buffer: Vec<u8>,
}

impl<'ends> Carrier<'ends> {
    fn new(sockets: Vec<OwnedFd>, ends: &'ends [Mutex<End>], seed: u64) -> Self {
        Self {
            latest: vec![0; sockets.len()],
            sockets,
            ends,
            rng: Rng::with_seed(seed),
            on_the_way: BinaryHeap::new(),
            stations: HashMap::new(),
            number: 0,
            buffer: vec![0; 1 << 16],
        }
    }

    /// Waits a moment for something to do, and does it.
    fn carry(&mut self) {
        let now = Instant::now();
        let wait = self.on_the_way.peek().map_or(TICK, |next| next.0.due.saturating_duration_since(now).min(TICK));
        let mut fds: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // Rounded up to a whole millisecond, or it would spin through the last one.
        let wait = PollTimeout::try_from(wait + Duration::from_micros(999)).expect("a short time");
        match poll(&mut fds, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("waiting for frames: {error}"),
        }
        for from in 0..self.sockets.len() {
            for _ in 0..BATCH {
                // An interface that is down says so once, and has no frames.
                let Ok(length) = socket::recv(self.sockets[from].as_raw_fd(), &mut self.buffer, MsgFlags::empty())
                else {
                    break;
                };
                self.take(from, length);
            }
        }
        let now = Instant::now();
        while self.on_the_way.peek().is_some_and(|next| next.0.due <= now) {
            let OnTheWay { number, end, is_copy, frame, .. } = self.on_the_way.pop().expect("just seen").0;
            self.give(end, number, is_copy, &frame);
        }
    }

    /// A frame came in.
    fn take(&mut self, from: usize, length: usize) {
        let frame = self.buffer[..length].to_vec();
        let [destination, source] = [0, 6].map(|at| *frame[at..].first_chunk().expect("an Ethernet header"));
        if self.stations.len() < STATIONS_MAX {
            self.stations.insert(source, from);
        }
        self.number += 1;
        // Nobody has a group's address, so that is unknown, too.
        match self.stations.get(&destination).copied() {
            Some(to) if to == from => {}
            Some(to) => self.draw(to, &frame),
            None => (0..self.sockets.len()).filter(|to| *to != from).for_each(|to| self.draw(to, &frame)),
        }
    }

    /// Decides what becomes of a frame for a host.
    fn draw(&mut self, to: usize, frame: &[u8]) {
        let trouble = {
            let mut end = self.ends[to].lock().expect("owners do not panic inside");
            end.counts.taken += 1;
            end.trouble
        };
        let [lost, repeated, delayed, reordered] = [trouble.lost, trouble.repeated, trouble.delayed, trouble.reordered]
            .map(|chance| self.rng.f64() * 100.0 < chance);
        if lost {
            self.count(to, |counts| counts.lost += 1);
            return;
        }
        if delayed {
            self.count(to, |counts| counts.delayed += 1);
            self.hold(to, frame, trouble.late, false);
        } else if reordered {
            self.hold(to, frame, OVERTAKING, false);
        } else {
            self.give(to, self.number, false, frame);
        }
        if repeated {
            self.hold(to, frame, trouble.late, true);
        }
    }

    fn hold(&mut self, to: usize, frame: &[u8], longest: Duration, is_copy: bool) {
        if self.on_the_way.len() == ON_THE_WAY_MAX {
            self.count(to, |counts| counts.dropped += 1);
            return;
        }
        let due = Instant::now() + longest.mul_f64(self.rng.f64());
        self.on_the_way.push(Reverse(OnTheWay { due, number: self.number, end: to, is_copy, frame: frame.to_vec() }));
    }

    /// A frame comes out.
    fn give(&mut self, to: usize, number: u64, is_copy: bool, frame: &[u8]) {
        let socket = &self.sockets[to];
        let mut result = socket::send(socket.as_raw_fd(), frame, MsgFlags::empty());
        let began = Instant::now();
        while matches!(result, Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR)) && began.elapsed() < TICK {
            std::thread::yield_now();
            result = socket::send(socket.as_raw_fd(), frame, MsgFlags::empty());
        }
        if result.is_err() {
            self.count(to, |counts| counts.dropped += 1);
            return;
        }
        let is_overtaken = !is_copy && number < self.latest[to];
        if !is_copy {
            self.latest[to] = self.latest[to].max(number);
        }
        self.count(to, |counts| {
            counts.given += 1;
            counts.repeated += u64::from(is_copy);
            counts.overtaken += u64::from(is_overtaken);
        });
    }

    fn count(&self, end: usize, what: impl FnOnce(&mut Counts)) {
        what(&mut self.ends[end].lock().expect("owners do not panic inside").counts);
    }
}
