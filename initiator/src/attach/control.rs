//! The control socket of an attach: takes questions and hands them to the main loop.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::socket::{Listener, SocketError};
use crate::run_dir::{Answer, REQUEST_MAX, Request};

/// Clients at a time; more wait.
const CLIENTS_MAX: usize = 8;
/// How long a client may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long clients are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// A question, and where its answer goes.
pub(super) type Question = (Request, oneshot::Sender<Answer>);

/// The socket, bound: others see the attach, and wait for its answers. Its file goes when this is dropped.
pub(super) struct ControlSocket(Listener);

impl ControlSocket {
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Listener::unix(path).map(Self)
    }
}

/// See the [module](self).
pub(super) struct Control {
    questions: mpsc::Receiver<Question>,
    seats: Arc<Semaphore>,
    door: tokio::task::JoinHandle<()>,
    socket: ControlSocket,
}

impl Control {
    /// Begins to answer; within a runtime.
    pub fn open(socket: ControlSocket) -> io::Result<Self> {
        let Listener::Unix(listener, _) = &socket.0 else { unreachable!("control sockets are unix sockets") };
        let listener = UnixListener::from_std(listener.try_clone()?)?;
        let (sender, questions) = mpsc::channel(CLIENTS_MAX);
        let seats = Arc::new(Semaphore::new(CLIENTS_MAX));
        let door = tokio::spawn(let_in(listener, sender, Arc::clone(&seats)));
        Ok(Self { questions, seats, door, socket })
    }

    /// The next question.
    pub async fn question(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            // Nobody is let in any more.
            None => std::future::pending().await,
        }
    }

    /// Lets nobody in any more and gives those inside time to take their answers.
    pub async fn close(self) {
        drop(self.socket);
        self.door.abort();
        drop(self.questions);
        let _ = timeout(FAREWELL, self.seats.acquire_many(CLIENTS_MAX as u32)).await;
    }
}

async fn let_in(listener: UnixListener, questions: mpsc::Sender<Question>, seats: Arc<Semaphore>) {
    while let Ok(seat) = Arc::clone(&seats).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &questions).await {
                        tracing::debug!("control client: {error}");
                    }
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One question, one answer.
async fn converse(mut stream: UnixStream, questions: &mpsc::Sender<Question>) -> io::Result<()> {
    let mut line = Vec::new();
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader).take(REQUEST_MAX as u64);
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let answer = match serde_json::from_slice(&line) {
        Ok(request) if line.ends_with(b"\n") => {
            let (sender, answer) = oneshot::channel();
            questions.send((request, sender)).await.map_err(|_| io::ErrorKind::ConnectionAborted)?;
            answer.await.map_err(|_| io::ErrorKind::ConnectionAborted)?
        }
        Ok(_) => Answer::Refused(format!("a request is one line of at most {REQUEST_MAX} bytes")),
        Err(error) => Answer::Refused(format!("no request: {error}")),
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    timeout(PATIENCE, writer.write_all(&answer)).await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::ask;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Client;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn questions_are_answered_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attach-1.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        let asking = std::thread::spawn({
            let path = path.clone();
            move || {
                let raw = |bytes: &[u8]| {
                    let mut client = Client::connect(&path).unwrap();
                    client.write_all(bytes).unwrap();
                    client.shutdown(std::net::Shutdown::Write).unwrap();
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).unwrap();
                    answer
                };
                let nonsense = [
                    raw(b"hello\n"),
                    raw(b"{\"command\":\"format\"}\n"),
                    raw(b"{\"command\":\"status\"}"),
                    raw(&[b'x'; REQUEST_MAX + 1]),
                    raw(b""),
                ];
                (nonsense, ask(&path, Request::Detach, PATIENCE).unwrap())
            }
        });
        let (question, (nonsense, answer)) = runtime().block_on(async {
            let mut control = Control::open(socket).unwrap();
            let (question, reply) = control.question().await;
            reply.send(Answer::Detached { warning: None }).unwrap();
            control.close().await;
            (question, asking.join().unwrap())
        });
        assert!(nonsense.iter().all(|answer| answer.starts_with("{\"refused\":")), "{nonsense:?}");
        assert_eq!((question, answer), (Request::Detach, Answer::Detached { warning: None }));
        assert!(!path.exists());
    }

    #[test]
    fn idle_clients_keep_nobody_from_ending() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attach-1.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        let _idle: Vec<_> = (0..CLIENTS_MAX).map(|_| Client::connect(&path).unwrap()).collect();
        runtime().block_on(async {
            let control = Control::open(socket).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            timeout(FAREWELL * 2, control.close()).await.unwrap();
        });
    }
}
