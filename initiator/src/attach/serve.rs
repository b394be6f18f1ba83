//! The data thread: frames, NBD requests and replies, and nothing else.
//!
//! One thread owns the device, the ports and the connections, and turns in one loop. Each turn takes what the ports
//! and clients have, in bounded portions, and hands on what came of it in batches, so that a system call is for many
//! requests when there are many. It sleeps when there is nothing to do.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aoe_common::frame::SECTOR;
use aoe_common::link::{Interface, monotonic_now};
use aoe_common::mailbox::Mailbox;
use aoe_common::target_status::Latency;
use aoe_common::time::{Duration, Instant};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::{oneshot, watch};

use super::client::Client;
use super::socket::Listener;
use crate::engine::{Device, DeviceState, Event, IoError, Operation, REQUESTS_MAX, Request};
use crate::events;
use crate::nbd::{Command, ExportInfo, NbdErrno, RequestId, TransmissionFlags};
use crate::outbox::Outbox;
use crate::ports::{Change, Ports};
use crate::snapshot::Snapshot;

/// Connections at the most. Together they cannot have more requests than the device has room for.
pub(super) const CLIENTS_MAX: usize = 16;

/// Frames taken from a port, and bytes from a client, before the others get their turn.
const FRAMES_PER_TURN: usize = 256;
const BYTES_PER_TURN: usize = 1 << 20;
/// How often replies that need no target may lead to new requests in one turn.
const ROUNDS_PER_TURN: usize = 4;
/// How long requests under way, and then the last flush, may take when it is time to go.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);

/// The id of the last flush; all other requests have one below [`REQUESTS_MAX`].
const LAST_FLUSH: u64 = u64::MAX;

const WAKE: u64 = u64::MAX;
const LISTEN: u64 = u64::MAX - 1;
const PORT: u64 = u64::MAX - 2;

/// Who is served.
#[derive(Debug)]
pub(super) enum Frontend {
    /// The kernel, on connected sockets.
    Kernel(Vec<OwnedFd>),
    /// Whoever connects, so many at a time.
    Socket(Listener, usize),
}

/// What the thread is told while it runs. Bounded by what it holds: only the latest list of interfaces counts, and
/// each question comes from one client of the control socket, of which there are few.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// The interfaces of this host, as they are now.
    pub interfaces: Option<Vec<Interface>>,
    /// To be told once the device is up.
    pub when_up: Option<oneshot::Sender<Snapshot>>,
    /// To be told how things are.
    pub questions: Vec<oneshot::Sender<(Snapshot, Latencies)>>,
    /// Serve these clients from now on.
    pub service: Option<Service>,
    /// Finish what is under way and end.
    pub leave: bool,
}

/// Who is served what.
#[derive(Debug)]
pub(super) struct Service {
    pub export: ExportInfo,
    pub frontend: Frontend,
}

/// How the thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// Requests that were never answered.
    pub unanswered: usize,
    /// Whether the target has made everything durable; none when it cannot or nothing was written.
    pub flushed: Option<bool>,
    /// The kernel ended the connection without saying so first.
    pub cut_off: bool,
}

/// A request in the device: whose it is.
#[derive(Clone, Copy)]
struct Owner {
    client: usize,
    generation: u32,
    request: RequestId,
    kind: Kind,
    since: Instant,
}

/// What a request asks for, in classes whose times compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Trim,
}

/// The times of the requests that did not fail: from the turn that took one from its client to the turn that answers it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latencies {
    pub read: Latency,
    pub write: Latency,
    pub flush: Latency,
    pub trim: Latency,
}

impl Latencies {
    fn record(&mut self, kind: Kind, time: Duration) {
        let latency = match kind {
            Kind::Read => &mut self.read,
            Kind::Write => &mut self.write,
            Kind::Flush => &mut self.flush,
            Kind::Trim => &mut self.trim,
        };
        latency.record(time.as_micros() as u64);
    }
}

/// On the way out.
#[derive(Clone, Copy)]
struct Leaving {
    until: Instant,
    /// The last flush is under way; with the number of requests that were never answered.
    flushing: Option<usize>,
    flushed: Option<bool>,
}

/// See the [module](self).
pub(super) struct Server {
    device: Device,
    ports: Ports,
    outbox: Outbox,
    mailbox: Arc<Mailbox<Mail>>,
    /// The size in bytes that clients may use, when it has grown.
    grown: watch::Sender<u64>,
    epoll: Epoll,
    service: Option<(ExportInfo, Option<Listener>)>,
    is_kernel: bool,
    clients_max: usize,
    clients: Vec<Option<Client>>,
    next_generation: u32,
    owners: Vec<Option<Owner>>,
    free_owners: Vec<u32>,
    latencies: Latencies,
    when_up: Option<oneshot::Sender<Snapshot>>,
    can_accept: bool,
    ports_failed: bool,
    /// More could be done at once.
    is_busy: bool,
    leaving: Option<Leaving>,
    cut_off: bool,
}

impl Server {
    /// Whoever listens to `grown` hears of the disk's new size in bytes, once clients may use it.
    pub fn new(
        mut device: Device,
        ports: Ports,
        opened: Vec<Change>,
        mailbox: Arc<Mailbox<Mail>>,
        grown: watch::Sender<u64>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(mailbox.as_ref(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        watch_ports(&epoll, &ports, &opened)?;
        let now = monotonic_now();
        opened.into_iter().for_each(|(id, info)| device.set_port(now, id, info));
        Ok(Self {
            device,
            ports,
            outbox: Outbox::default(),
            mailbox,
            grown,
            epoll,
            service: None,
            is_kernel: false,
            clients_max: 0,
            clients: (0..CLIENTS_MAX).map(|_| None).collect(),
            next_generation: 0,
            owners: vec![None; REQUESTS_MAX],
            free_owners: (0..REQUESTS_MAX as u32).rev().collect(),
            latencies: Latencies::default(),
            when_up: None,
            can_accept: false,
            ports_failed: false,
            is_busy: false,
            leaving: None,
            cut_off: false,
        })
    }

    /// Turns until it is told to leave, or the kernel has left.
    pub fn run(mut self) -> io::Result<Ending> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let now = monotonic_now();
            self.is_busy = false;
            self.receive_frames(now);
            if self.device.poll_timeout().is_some_and(|due| now >= due) {
                self.device.handle_timeout(now);
            }
            self.accept_clients(now);
            self.serve_clients(now);
            self.transmit(now);
            self.report_events();
            self.drop_clients(now);
            if let Some(ending) = self.leave_if_done(now) {
                return Ok(ending);
            }
            self.wait(now, &mut events)?;
        }
    }

    fn receive_frames(&mut self, now: Instant) {
        let device = &mut self.device;
        let errors = std::mem::take(&mut self.ports_failed);
        let changes = self.ports.receive(FRAMES_PER_TURN, errors, |port, frame| device.handle_frame(now, port, frame));
        for (port, info) in changes {
            self.device.set_port(now, port, info);
        }
    }

    fn transmit(&mut self, now: Instant) {
        let device = &mut self.device;
        self.outbox.transmit(now, &mut self.ports, |out| device.poll_transmit(now, out));
    }

    // ---- Clients ---------------------------------------------------------------------------------------------

    /// Reads requests and sends replies, as far as both go.
    fn serve_clients(&mut self, now: Instant) {
        self.complete_requests(now);
        for _ in 0..ROUNDS_PER_TURN {
            self.send_replies();
            self.take_requests(now);
            let completed = self.complete_requests(now);
            if !completed && !self.clients.iter().flatten().any(Client::can_write) {
                return;
            }
        }
        self.is_busy = true;
    }

    fn take_requests(&mut self, now: Instant) {
        for slot in 0..self.clients.len() {
            let Some(mut client) = self.clients[slot].take() else { continue };
            let mut budget = BYTES_PER_TURN;
            loop {
                // A full device takes no more; then nothing more is read either.
                while self.device.has_room()
                    && let Some(request) = client.session.poll_request()
                {
                    self.submit(now, slot, &mut client, request.id, request.command);
                }
                if !client.can_read() || !self.device.has_room() {
                    break;
                }
                if budget == 0 {
                    self.is_busy = true;
                    break;
                }
                budget = budget.saturating_sub(client.read());
            }
            self.clients[slot] = Some(client);
        }
    }

    fn submit(&mut self, now: Instant, slot: usize, client: &mut Client, request: RequestId, command: Command) {
        let id = self.free_owners.pop().expect("there are as many places as the device has room");
        let kind = match command {
            Command::Read { .. } => Kind::Read,
            Command::Write { .. } => Kind::Write,
            Command::Flush => Kind::Flush,
            Command::Trim { .. } | Command::WriteZeroes { .. } => Kind::Trim,
        };
        let owner = Owner { client: slot, generation: client.generation, request, kind, since: now };
        self.owners[id as usize] = Some(owner);
        let sector = |bytes: u64| bytes / SECTOR as u64;
        let operation = match command {
            Command::Read { offset, length } => {
                Operation::Read { lba: sector(offset), buffer: client.session.buffer(length as usize) }
            }
            Command::Write { offset, data, fua } => Operation::Write { lba: sector(offset), data, fua },
            Command::Flush => Operation::Flush,
            Command::Trim { offset, length, fua } => {
                Operation::Trim { lba: sector(offset), sectors: sector(length.into()), fua }
            }
            Command::WriteZeroes { offset, length, fua, no_hole } => {
                Operation::Zero { lba: sector(offset), sectors: sector(length.into()), unmap: !no_hole, fua }
            }
        };
        self.device.submit(now, Request { id: id.into(), operation });
    }

    /// Hands finished requests to their clients; tells whether there were any.
    fn complete_requests(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(completion) = self.device.poll_completion() {
            any = true;
            if completion.id == LAST_FLUSH {
                if let Some(leaving) = &mut self.leaving {
                    leaving.flushed = Some(completion.result.is_ok());
                }
                continue;
            }
            let owner = self.owners[completion.id as usize].take().expect("a request completes once");
            self.free_owners.push(completion.id as u32);
            if completion.result.is_ok() {
                self.latencies.record(owner.kind, now.since(owner.since));
            }
            let client = self.clients[owner.client].as_mut().filter(|client| client.generation == owner.generation);
            // A client that has left does not hear of it.
            let Some(Client { session, .. }) = client else { continue };
            let result = match completion.result {
                Ok(()) => Ok(completion.buffer),
                Err(error) => {
                    session.recycle(completion.buffer);
                    Err(errno(error))
                }
            };
            session.complete(owner.request, result);
        }
        any
    }

    fn send_replies(&mut self) {
        self.clients.iter_mut().flatten().for_each(Client::write);
    }

    fn accept_clients(&mut self, now: Instant) {
        while self.can_accept
            && let Some((export, Some(listener))) = &self.service
        {
            let socket = match listener.accept() {
                Ok(socket) => socket,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::warn!("a client could not connect: {error}");
                    }
                    self.can_accept = false;
                    return;
                }
            };
            let places = &self.clients[..self.clients_max];
            let Some(slot) = places.iter().position(Option::is_none) else {
                tracing::warn!("a client is turned away: {} are connected, see --connections", places.len());
                continue;
            };
            let client = Client::negotiating(now, self.next_generation, socket, export.clone());
            self.seat(slot, client);
        }
    }

    fn seat(&mut self, slot: usize, client: Client) {
        self.next_generation = self.next_generation.wrapping_add(1);
        match self.epoll.add(&client, EpollEvent::new(Client::WATCH, slot as u64)) {
            Ok(()) => self.clients[slot] = Some(client),
            Err(error) => tracing::warn!("a client could not connect: {}", error.desc()),
        }
    }

    fn drop_clients(&mut self, now: Instant) {
        for slot in &mut self.clients {
            let Some(ending) = slot.as_ref().and_then(|client| client.ending(now)) else { continue };
            self.cut_off = self.is_kernel && ending.is_err();
            match ending {
                Ok(reason) => tracing::debug!("client: {reason}"),
                Err(reason) => tracing::info!("client: {reason}"),
            }
            *slot = None;
        }
    }

    // ---- The main thread -------------------------------------------------------------------------------------

    fn read_mail(&mut self) -> io::Result<()> {
        self.mailbox.calm();
        let mail = self.mailbox.take();
        let now = monotonic_now();
        if let Some(interfaces) = mail.interfaces {
            let changes = self.ports.follow(&interfaces);
            watch_ports(&self.epoll, &self.ports, &changes)?;
            changes.into_iter().for_each(|(id, info)| self.device.set_port(now, id, info));
        }
        if let Some(service) = mail.service {
            self.begin_service(service)?;
        }
        for question in mail.questions {
            // Nobody waits for the answer any more, then.
            let _ = question.send((Snapshot::of(&self.device, &self.ports), self.latencies));
        }
        self.when_up = mail.when_up.or(self.when_up.take());
        if mail.leave && self.leaving.is_none() {
            self.begin_to_leave(now);
        }
        Ok(())
    }

    fn begin_service(&mut self, service: Service) -> io::Result<()> {
        assert!(self.service.is_none(), "a server serves one export");
        let Service { export, frontend } = service;
        match frontend {
            Frontend::Kernel(sockets) => {
                assert!(sockets.len() <= CLIENTS_MAX, "at most {CLIENTS_MAX} connections");
                self.is_kernel = true;
                for (slot, socket) in sockets.into_iter().enumerate() {
                    self.seat(slot, Client::transmitting(self.next_generation, socket, export.clone()));
                }
                self.service = Some((export, None));
            }
            Frontend::Socket(listener, clients_max) => {
                assert!(clients_max <= CLIENTS_MAX, "at most {CLIENTS_MAX} connections");
                // Told once for all that wait: all are taken each time.
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
                self.epoll.add(&listener, EpollEvent::new(flags, LISTEN))?;
                self.clients_max = clients_max;
                self.service = Some((export, Some(listener)));
            }
        }
        // It may have grown since the main thread looked.
        self.follow_growth();
        Ok(())
    }

    /// Lets clients use what the disk has grown by. What they were told is never taken back: a mounted filesystem does
    /// not survive that, while requests beyond the end of a disk that shrank only fail.
    fn follow_growth(&mut self) {
        let (Some((export, _)), Some(disk)) = (&mut self.service, self.device.disk()) else { return };
        let size_bytes = disk.sectors * SECTOR as u64;
        if size_bytes <= export.size_bytes || self.leaving.is_some() {
            return;
        }
        export.size_bytes = size_bytes;
        self.clients.iter_mut().flatten().for_each(|client| client.session.grow(size_bytes));
        // Last, so that the kernel asks for nothing that would be refused.
        self.grown.send_replace(size_bytes);
    }

    fn report_events(&mut self) {
        while let Some(event) = self.device.poll_event() {
            events::log(self.device.address(), &event, &self.ports);
            match event {
                Event::Up => {
                    if let Some(when_up) = self.when_up.take() {
                        let _ = when_up.send(Snapshot::of(&self.device, &self.ports));
                    }
                }
                Event::Resized { .. } => self.follow_growth(),
                _ => {}
            }
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    fn begin_to_leave(&mut self, now: Instant) {
        self.leaving = Some(Leaving { until: now + LEAVE_PATIENCE, flushing: None, flushed: None });
        if let Some((_, listener)) = &mut self.service {
            *listener = None;
        }
        // The kernel ends its connections itself.
        if !self.is_kernel {
            self.clients.iter_mut().flatten().for_each(|client| client.session.shut_down());
        }
    }

    fn leave_if_done(&mut self, now: Instant) -> Option<Ending> {
        let no_clients = self.clients.iter().all(Option::is_none);
        if self.leaving.is_none() && self.is_kernel && no_clients {
            self.begin_to_leave(now);
        }
        let leaving = self.leaving?;
        let late = now >= leaving.until;
        if let Some(unanswered) = leaving.flushing {
            let flushed = if late { Some(false) } else { leaving.flushed };
            return flushed.map(|flushed| Ending { unanswered, flushed: Some(flushed), cut_off: self.cut_off });
        }
        let unanswered = self.device.in_flight();
        if !late && (unanswered > 0 || !no_clients) {
            return None;
        }
        let can_flush = self.service.as_ref().is_some_and(|(export, _)| {
            export.flags.contains(TransmissionFlags::SEND_FLUSH) && !export.flags.contains(TransmissionFlags::READ_ONLY)
        });
        let stats = self.device.stats();
        if !can_flush || stats.writes + stats.trims == 0 {
            return Some(Ending { unanswered, flushed: None, cut_off: self.cut_off });
        }
        if unanswered > 0 || self.device.state() != DeviceState::Up {
            return Some(Ending { unanswered, flushed: Some(false), cut_off: self.cut_off });
        }
        self.device.submit(now, Request { id: LAST_FLUSH, operation: Operation::Flush });
        // To be sent in the next turn.
        let until = now + LEAVE_PATIENCE;
        self.leaving = Some(Leaving { until, flushing: Some(unanswered), flushed: None });
        self.is_busy = true;
        None
    }

    // ---- Waiting ---------------------------------------------------------------------------------------------

    fn wait(&mut self, now: Instant, events: &mut [EpollEvent]) -> io::Result<()> {
        let timeout = if self.is_busy { EpollTimeout::ZERO } else { until(now, self.deadline()) };
        let count = match self.epoll.wait(events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            match event.data() {
                WAKE => self.read_mail()?,
                LISTEN => self.can_accept = true,
                // Every turn looks for frames at all ports.
                PORT => self.ports_failed |= event.events().contains(EpollFlags::EPOLLERR),
                slot => {
                    if let Some(client) = &mut self.clients[slot as usize] {
                        client.notice(event.events());
                    }
                }
            }
        }
        Ok(())
    }

    /// When to turn next even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let clients = self.clients.iter().flatten().filter_map(Client::poll_timeout);
        let leaving = self.leaving.map(|leaving| leaving.until);
        clients.chain(self.device.poll_timeout()).chain(self.outbox.poll_timeout()).chain(leaving).min()
    }
}

/// Watches ports that were opened. Those that were closed have left the watch with their descriptor.
fn watch_ports(epoll: &Epoll, ports: &Ports, changes: &[Change]) -> io::Result<()> {
    for fd in changes.iter().filter_map(|(id, info)| info.and_then(|_| ports.fd(*id))) {
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, PORT))?;
    }
    Ok(())
}

/// How long to sleep: never past the deadline by more than a millisecond, never short of it.
fn until(now: Instant, deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let millis = deadline.since(now).as_nanos().div_ceil(1_000_000);
    EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
}

/// What a client is told about a failure.
fn errno(error: IoError) -> NbdErrno {
    match error {
        IoError::Refused | IoError::Reserved => NbdErrno::Perm,
        IoError::Dead
        | IoError::OutOfRange
        | IoError::Unreadable
        | IoError::DeviceFault
        | IoError::Protocol(_)
        | IoError::BadAnswer
        | IoError::CacheLost => NbdErrno::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{DeviceConfig, QUARANTINE};
    use aoe_common::addr::Address;
    use aoe_common::ata::Identify;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread::JoinHandle;

    fn start() -> (Arc<Mailbox<Mail>>, JoinHandle<io::Result<Ending>>) {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let config = DeviceConfig {
            address: Address::new(0, 1),
            identity: [1; 16],
            tag_start: 0,
            dead_after: None,
            hold_writes: Duration::ZERO,
            frame_life: QUARANTINE,
            network_repeats: false,
        };
        let device = Device::new(monotonic_now(), config);
        let server =
            Server::new(device, Ports::none(), Vec::new(), Arc::clone(&mailbox), watch::Sender::new(0)).unwrap();
        (mailbox, std::thread::spawn(move || server.run()))
    }

    fn export() -> ExportInfo {
        super::super::export::export(Address::new(0, 1), &Identify { sectors: 8, ..Identify::default() }, false, true)
    }

    fn serve(mailbox: &Mailbox<Mail>, frontend: Frontend) {
        mailbox.leave(|mail| mail.service = Some(Service { export: export(), frontend }));
    }

    /// The header of an NBD request.
    fn request(kind: u16, length: u32) -> Vec<u8> {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0; 16]);
        bytes.extend(length.to_be_bytes());
        bytes
    }

    #[test]
    fn clients_are_let_in_up_to_the_bound_and_out_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        let (mailbox, thread) = start();
        serve(&mailbox, Frontend::Socket(Listener::unix(&path).unwrap(), 1));

        let mut first = UnixStream::connect(&path).unwrap();
        let mut greeting = [0; 18];
        first.read_exact(&mut greeting).unwrap();
        let mut second = UnixStream::connect(&path).unwrap();
        assert_eq!(second.read(&mut greeting).unwrap(), 0, "there is one place only");

        let (question, answer) = oneshot::channel();
        mailbox.leave(|mail| mail.questions.push(question));
        let (snapshot, latencies) = answer.blocking_recv().unwrap();
        assert_eq!((snapshot.state, latencies.read.count()), (DeviceState::Searching, 0));
        assert!(snapshot.interfaces.contains("no-such-if"));

        // NBD_OPT_GO for the one export is answered though the disk is not there yet; ends with an ACK.
        first.write_all(&[0, 0, 0, 3]).unwrap();
        first.write_all(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04e0.1\0\0").unwrap();
        let mut answer = [0; 20];
        first.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());

        mailbox.leave(|mail| mail.leave = true);
        let ending = thread.join().unwrap().unwrap();
        assert_eq!(ending, Ending { unanswered: 0, flushed: None, cut_off: false });
        assert!(!path.exists());
    }

    #[test]
    fn a_kernel_that_leaves_ends_the_thread() {
        for (says_goodbye, cut_off) in [(true, false), (false, true)] {
            let (mailbox, thread) = start();
            let (ours, mut kernel) = UnixStream::pair().unwrap();
            serve(&mailbox, Frontend::Kernel(vec![ours.into()]));
            // Beyond the end: answered without the disk.
            kernel.write_all(&request(0, 8192)).unwrap();
            let mut reply = [0; 16];
            kernel.read_exact(&mut reply).unwrap();
            assert_eq!(reply[4..8], NbdErrno::Invalid.to_wire().to_be_bytes());
            if says_goodbye {
                kernel.write_all(&request(2, 0)).unwrap();
            }
            drop(kernel);
            let ending = thread.join().unwrap().unwrap();
            assert_eq!(ending, Ending { unanswered: 0, flushed: None, cut_off });
        }
    }

    #[test]
    fn sleeps_are_neither_short_nor_endless() {
        let at = |micros| Instant::ZERO + Duration::from_micros(micros);
        assert_eq!(until(at(0), None), EpollTimeout::NONE);
        assert_eq!(until(at(5), Some(at(5))), EpollTimeout::ZERO);
        assert_eq!(until(at(0), Some(at(1))), EpollTimeout::from(1u16));
        assert_eq!(until(at(0), Some(at(1001))), EpollTimeout::from(2u16));
        assert_eq!(until(at(0), Some(at(u64::MAX / 1000))), EpollTimeout::from(u16::MAX));
    }
}
