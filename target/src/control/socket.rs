//! The control socket: takes lines of JSON from the programs of this host's root, and writes a line back for each.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Asker, Control};

/// Clients at a time; more wait.
const CLIENTS_MAX: usize = 16;

/// Bytes of a request at the most. A full mask list takes some 4 KiB.
const REQUEST_MAX: u64 = 64 << 10;

/// How long a client may be silent; people type, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a client may take to read its answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Why nobody can be told what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Something else has the name; it is not ours to remove.
    #[error("{} exists and is no socket: name another path with --control", .0.display())]
    NotASocket(PathBuf),
    /// Somebody serves there.
    #[error("{}: another aoe-target listens there: stop it, or name another path with --control", .0.display())]
    InUse(PathBuf),
    /// Anything else.
    #[error("{}: {error}; name another path with --control", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// The socket, bound. Its file goes when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    listener: StdListener,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl ControlSocket {
    /// Binds it, for root only; makes its folder, and replaces what a dead process left. To be called before there are
    /// other threads: the mode of new files is of the whole process.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError::Io { path: path.to_owned(), error };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            Ok(_) => match StdStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
                Err(error) => return Err(failed(error)),
            },
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = StdListener::bind(path);
        umask(before);
        let listener = bound.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => SocketError::InUse(path.to_owned()),
            _ => failed(error),
        })?;
        listener.set_nonblocking(true).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener, file })
    }

    /// The folder of its file.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Lets clients in, for as long as the runtime runs.
    pub(crate) fn open(&self, control: Arc<Control>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        tokio::spawn(let_in(listener, control));
        Ok(())
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

async fn let_in(listener: UnixListener, control: Arc<Control>) {
    let seats = Arc::new(Semaphore::new(CLIENTS_MAX));
    while let Ok(seat) = Arc::clone(&seats).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &control).await {
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

/// One request after the other, until the client has no more.
async fn converse(mut stream: UnixStream, control: &Arc<Control>) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let asker = Asker { uid: credentials.uid(), pid: credentials.pid() };
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(REQUEST_MAX);
        timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n");
        let answer = match is_whole || (line.len() as u64) < REQUEST_MAX {
            true if line.trim_ascii().is_empty() => continue,
            true => control.answer(asker, &line).await,
            false => super::refusal(&format!("a request is one line of at most {REQUEST_MAX} bytes")),
        };
        let mut answer = serde_json::to_vec(&answer)?;
        answer.push(b'\n');
        timeout(ANSWER_TIME, writer.write_all(&answer)).await??;
        if !is_whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_for_root_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = ControlSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("another aoe-target listens there"), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_all_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(StdListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "letter").unwrap();
        drop(socket);
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"letter");
    }
}
