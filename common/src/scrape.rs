//! A page of figures for whoever scrapes it, such as Prometheus: `GET /metrics` over HTTP, on a unix socket or a TCP port.
//!
//! One thread of its own serves it, with a bound on clients, on what each may send and on how long it may take, so that
//! nobody who can reach the socket costs more than that. Only the standard library's sockets and poll(2): a program that
//! restricts the system calls of its threads has few to allow.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Clients at a time; more wait.
const CLIENTS_MAX: usize = 8;
/// The longest request with its headers, in bytes.
const REQUEST_MAX: usize = 8 << 10;
/// How long a client may take from its connect until it has the page.
const PATIENCE: Duration = Duration::from_secs(5);
/// A page is shown so long before a new one is made: clients cannot make the program count all the time.
const FRESH: Duration = Duration::from_millis(100);
/// How long to wait when nobody can be let in, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest path a unix socket can have, in bytes.
const UNIX_PATH_MAX: usize = 107;

/// The type of the page: OpenMetrics, which Prometheus reads.
const PAGE_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:PATH`, with an absolute path.
    Unix(PathBuf),
    /// `HOST:PORT`, with a numeric address.
    Tcp(SocketAddr),
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no address for metrics: write unix:/PATH, or ADDR:PORT with a numeric address such as 127.0.0.1:9655"
)]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = || EndpointError(text.to_owned());
        let Some(path) = text.strip_prefix("unix:") else { return text.parse().map(Self::Tcp).map_err(|_| wrong()) };
        let path = Path::new(path);
        let fits = path.is_absolute() && path.file_name().is_some() && path.as_os_str().len() <= UNIX_PATH_MAX;
        if fits && !text.contains('\0') { Ok(Self::Unix(path.to_owned())) } else { Err(wrong()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Why there can be no page there.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// Something else has the name; it is not ours to remove.
    #[error("metrics: {} exists and is no socket: choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Somebody serves there.
    #[error("metrics: {0} is in use by another program: choose another address, or see \"ss -lp\"")]
    InUse(Endpoint),
    /// Anything else.
    #[error("metrics at {endpoint}: {error}")]
    Io {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        error: io::Error,
    },
}

/// The socket, bound; see the [module](self). A unix socket's file goes when this is dropped.
#[derive(Debug)]
pub struct Scrape {
    endpoint: Endpoint,
    listener: Listener,
    stop: EventFd,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Scrape {
    /// Takes the address. The file that a dead program left at a path is replaced. Who may connect to a unix socket is a
    /// matter of its folder; the figures are no secret.
    pub fn bind(endpoint: &Endpoint) -> Result<Self, ScrapeError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => ScrapeError::InUse(endpoint.clone()),
            _ => ScrapeError::Io { endpoint: endpoint.clone(), error },
        };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = stop.map_err(|error| failed(error.into()))?;
        match endpoint {
            Endpoint::Unix(path) => {
                remove_dead(endpoint, path)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let scrape = Self { endpoint: endpoint.clone(), listener: Listener::Unix(listener), stop };
                fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
                scrape.listener.set_nonblocking().map_err(failed)?;
                Ok(scrape)
            }
            Endpoint::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                let endpoint = Endpoint::Tcp(listener.local_addr().map_err(failed)?);
                let listener = Listener::Tcp(listener);
                listener.set_nonblocking().map_err(failed)?;
                Ok(Self { endpoint, listener, stop })
            }
        }
    }

    /// Where it is; with the number of the port if any that was free was asked for.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves until it is told to stop: a thread of its own runs this. `page` makes the text; `None` when it cannot now.
    pub fn serve(&self, mut page: impl FnMut() -> Option<String>) {
        let mut clients: Vec<Client> = Vec::with_capacity(CLIENTS_MAX);
        let mut latest: Option<(Instant, String)> = None;
        let mut paused_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            clients.retain(|client| now < client.until);
            paused_until = paused_until.filter(|until| now < *until);
            let lets_in = clients.len() < CLIENTS_MAX && paused_until.is_none();
            let wake = clients.iter().map(|client| client.until).chain(paused_until).min();
            let Ok(ready) = self.wait(&clients, lets_in, wake.map(|wake| wake.duration_since(now))) else { return };
            if ready.stop {
                return;
            }
            let mut is_ready = ready.clients.into_iter();
            clients.retain_mut(|client| {
                if !is_ready.next().expect("an answer for each client") {
                    return true;
                }
                client.go_on(|| {
                    latest.take_if(|(made, _)| made.elapsed() >= FRESH);
                    if latest.is_none() {
                        latest = page().map(|text| (Instant::now(), text));
                    }
                    latest.as_ref().map(|(_, text)| text.clone())
                })
            });
            if ready.listener {
                match self.listener.accept() {
                    Ok(stream) => clients.push(Client::new(stream, Instant::now() + PATIENCE)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => paused_until = Some(Instant::now() + PAUSE),
                }
            }
        }
    }

    /// Ends [`serve`](Self::serve).
    pub fn stop(&self) {
        // Fails only when it was told 2^64 times before.
        let _ = self.stop.write(1);
    }

    fn wait(&self, clients: &[Client], lets_in: bool, timeout: Option<Duration>) -> nix::Result<Readiness> {
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let listening = if lets_in { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds =
            vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), listening)];
        fds.extend(clients.iter().map(|client| PollFd::new(client.stream.as_fd(), client.waits_for())));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Readiness { clients: vec![false; clients.len()], ..Readiness::default() }),
            Err(error) => return Err(error),
        }
        let mut any = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let stop = any.next().expect("it was put first");
        let listener = any.next().expect("it was put second") && lets_in;
        Ok(Readiness { stop, listener, clients: any.collect() })
    }
}

impl Drop for Scrape {
    fn drop(&mut self) {
        if let Endpoint::Unix(path) = &self.endpoint {
            let _ = fs::remove_file(path);
        }
    }
}

/// What poll(2) has found.
#[derive(Default)]
struct Readiness {
    stop: bool,
    listener: bool,
    clients: Vec<bool>,
}

impl Listener {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    fn accept(&self) -> io::Result<File> {
        let stream: OwnedFd = match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.into()
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.into()
            }
        };
        Ok(stream.into())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Removes the socket of a program that has ended.
fn remove_dead(endpoint: &Endpoint, path: &Path) -> Result<(), ScrapeError> {
    let failed = |error| ScrapeError::Io { endpoint: endpoint.clone(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(ScrapeError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
            Ok(_) => Err(ScrapeError::InUse(endpoint.clone())),
            Err(error) => Err(failed(error)),
        },
    }
}

/// One client: its request until that is whole, then what is left of the answer.
struct Client {
    /// A socket; nothing is asked of it but to read and write.
    stream: File,
    until: Instant,
    request: Vec<u8>,
    answer: Option<Vec<u8>>,
    sent: usize,
}

impl Client {
    fn new(stream: File, until: Instant) -> Self {
        Self { stream, until, request: Vec::new(), answer: None, sent: 0 }
    }

    fn waits_for(&self) -> PollFlags {
        if self.answer.is_some() { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Reads or writes what can be; tells whether there is more to do.
    fn go_on(&mut self, page: impl FnOnce() -> Option<String>) -> bool {
        let gone_on = if self.answer.is_some() { self.send() } else { self.receive(page) };
        match gone_on {
            Ok(more) => more,
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    fn receive(&mut self, page: impl FnOnce() -> Option<String>) -> io::Result<bool> {
        let mut portion = [0; 1024];
        let count = self.stream.read(&mut portion)?;
        if count == 0 {
            return Ok(false);
        }
        self.request.extend_from_slice(&portion[..count]);
        self.answer = answer(&self.request, page);
        if self.answer.is_some() { self.send() } else { Ok(true) }
    }

    fn send(&mut self) -> io::Result<bool> {
        let answer = self.answer.as_deref().expect("there is one to be sent");
        self.sent += self.stream.write(&answer[self.sent..])?;
        Ok(self.sent < answer.len())
    }
}

/// The answer to a request, once that is whole or cannot become right.
fn answer(request: &[u8], page: impl FnOnce() -> Option<String>) -> Option<Vec<u8>> {
    let is_whole = request.windows(4).any(|end| end == b"\r\n\r\n") || request.windows(2).any(|end| end == b"\n\n");
    if !is_whole {
        let is_too_long = request.len() > REQUEST_MAX;
        return is_too_long.then(|| refusal("431 Request Header Fields Too Large", "a request has at most 8 KiB"));
    }
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.trim_ascii().split(|byte| *byte == b' ').collect();
    let &[method, target, version] = words.as_slice() else {
        return Some(refusal("400 Bad Request", "write GET /metrics HTTP/1.1"));
    };
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    Some(match (method, path) {
        _ if !version.starts_with(b"HTTP/1.") => refusal("505 HTTP Version Not Supported", "write HTTP/1.1"),
        (b"GET" | b"HEAD", b"/metrics") => match page() {
            Some(text) => response("200 OK", PAGE_TYPE, &text, method == b"HEAD"),
            None => refusal("503 Service Unavailable", "the figures cannot be told now"),
        },
        (b"GET" | b"HEAD", _) => refusal("404 Not Found", "see /metrics"),
        _ => refusal("405 Method Not Allowed", "write GET /metrics HTTP/1.1"),
    })
}

fn refusal(status: &str, text: &str) -> Vec<u8> {
    response(status, "text/plain; charset=utf-8", &format!("{text}\n"), false)
}

fn response(status: &str, kind: &str, body: &str, without_body: bool) -> Vec<u8> {
    let length = body.len();
    let body = if without_body { "" } else { body };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    (head + body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread::JoinHandle;

    struct Served {
        scrape: Arc<Scrape>,
        thread: Option<JoinHandle<()>>,
        address: SocketAddr,
        pages: Arc<AtomicU32>,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.scrape.stop();
            self.thread.take().unwrap().join().unwrap();
        }
    }

    fn served(page: Option<String>) -> Served {
        let scrape = Arc::new(Scrape::bind(&"127.0.0.1:0".parse().unwrap()).unwrap());
        let Endpoint::Tcp(address) = *scrape.endpoint() else { panic!("a port") };
        let pages = Arc::new(AtomicU32::new(0));
        let thread = std::thread::spawn({
            let (scrape, pages) = (Arc::clone(&scrape), Arc::clone(&pages));
            move || {
                scrape.serve(|| {
                    pages.fetch_add(1, Ordering::Relaxed);
                    page.clone()
                });
            }
        });
        Served { scrape, thread: Some(thread), address, pages }
    }

    fn ask(mut stream: impl Read + Write, request: &[u8]) -> String {
        let mut text = String::new();
        // A server that has refused may have closed before all was written.
        let _ = stream.write_all(request);
        let _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn endpoints_are_written_as_they_are_read() {
        for text in ["unix:/run/aoe-target/metrics.sock", "127.0.0.1:9655", "[::1]:9655"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        for text in
            ["", "9655", "localhost:9655", "127.0.0.1:99999", "unix:", "unix:/", "unix:m.sock", "unix:/a\0", &long]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_page_is_given_and_nothing_else() {
        let page = || Some("aoe_up 1\n# EOF\n".to_owned());
        let ask = |request: &str| answer(request.as_bytes(), page).map(|answer| String::from_utf8(answer).unwrap());
        let given = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(given.starts_with("HTTP/1.1 200 OK\r\n") && given.ends_with("\r\n\r\naoe_up 1\n# EOF\n"), "{given}");
        assert!(given.contains("Content-Length: 15\r\n"), "{given}");
        let head = ask("HEAD /metrics?x=1 HTTP/1.0\r\n\r\n").unwrap();
        assert!(head.contains(" 200 ") && head.contains("Content-Length: 15\r\n") && head.ends_with("\r\n\r\n"));
        assert!(ask("GET /metrics HTTP/1.1\n\n").unwrap().contains(" 200 "), "by hand");
        for unfinished in ["", "GET /metrics HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\n"] {
            assert_eq!(ask(unfinished), None);
        }
        for (request, status) in [
            ("GET / HTTP/1.1", "404"),
            ("GET /metrics/../x HTTP/1.1", "404"),
            ("POST /metrics HTTP/1.1", "405"),
            ("GET /metrics SPDY/3", "505"),
            ("hello", "400"),
            ("GET  /metrics HTTP/1.1", "400"),
            ("", "400"),
        ] {
            let given = ask(&format!("{request}\r\n\r\n")).unwrap();
            assert!(given.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {given}");
        }
        assert!(answer(&[b'x'; REQUEST_MAX], page).is_none());
        assert!(answer(&[b'x'; REQUEST_MAX + 1], page).unwrap().starts_with(b"HTTP/1.1 431 "));
        assert!(answer(b"GET /metrics HTTP/1.1\n\n", || None).unwrap().starts_with(b"HTTP/1.1 503 "));
    }

    #[test]
    fn a_large_page_arrives_whole_and_is_made_once_for_many() {
        let served = served(Some("x".repeat(4 << 20)));
        let clients: Vec<_> = (0..CLIENTS_MAX * 2)
            .map(|_| {
                let stream = TcpStream::connect(served.address).unwrap();
                std::thread::spawn(move || ask(stream, b"GET /metrics HTTP/1.1\r\n\r\n").len())
            })
            .collect();
        for client in clients {
            assert!(client.join().unwrap() > 4 << 20);
        }
        assert!(served.pages.load(Ordering::Relaxed) >= 1);
    }

    #[test]
    fn silent_and_endless_clients_are_left_behind() {
        let served = served(Some("page".into()));
        let begun = Instant::now();
        let silent: Vec<_> = (0..CLIENTS_MAX).map(|_| TcpStream::connect(served.address).unwrap()).collect();
        // All seats are taken until the silent ones have used up their time.
        let text = ask(TcpStream::connect(served.address).unwrap(), b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(text.ends_with("page"), "{text}");
        assert!(begun.elapsed() >= PATIENCE / 2);
        for mut stream in silent {
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "it was closed");
        }
        let text = ask(TcpStream::connect(served.address).unwrap(), &[b'x'; REQUEST_MAX + 1]);
        assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    }

    #[test]
    fn a_path_is_taken_from_the_dead_only_and_left_clean() {
        let folder = std::env::temp_dir().join(format!("aoe-scrape-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("metrics.sock");
        let endpoint = Endpoint::Unix(path.clone());
        fs::write(&path, "a file").unwrap();
        assert!(matches!(Scrape::bind(&endpoint), Err(ScrapeError::NotASocket(_))));
        fs::remove_file(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());

        let scrape = Scrape::bind(&endpoint).unwrap();
        assert!(matches!(Scrape::bind(&endpoint), Err(ScrapeError::InUse(_))));
        std::thread::scope(|scope| {
            scope.spawn(|| scrape.serve(|| Some("page".into())));
            let text = ask(UnixStream::connect(&path).unwrap(), b"GET /metrics HTTP/1.1\r\n\r\n");
            scrape.stop();
            assert!(text.ends_with("page"), "{text}");
        });
        drop(scrape);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}
