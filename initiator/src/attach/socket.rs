//! The places where NBD clients connect: unix sockets and TCP ports.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use crate::place::Place;
use crate::run_dir::is_same_file;

/// Why nobody can connect there.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The folder does not exist.
    #[error("{} does not exist: make the folder first", .0.display())]
    NoFolder(PathBuf),
    /// Something else has the name; it is not ours to remove.
    #[error("{} exists and is no socket: choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Somebody serves there.
    #[error("{0} is in use by another program: choose another, or see \"aoe-stat\" and \"ss -lp\"")]
    InUse(Place),
    /// Anything else.
    #[error("{place}: {error}")]
    Io {
        /// Where.
        place: Place,
        /// Why.
        error: io::Error,
    },
}

/// A socket that clients connect to. A unix socket's file goes when this is dropped.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, Box<SocketFile>),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on a unix socket for this user's programs. The file that a dead server left is replaced.
    pub fn unix(path: &Path) -> Result<Self, SocketError> {
        let place = || Place::Unix(path.to_owned());
        let failed = |error| SocketError::Io { place: place(), error };
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            return Err(SocketError::NoFolder(folder.to_owned()));
        }
        let mut is_replacement = false;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                    is_replacement = true;
                }
                Ok(_) => return Err(SocketError::InUse(place())),
                Err(error) => return Err(failed(error)),
            },
        }
        // Nothing else makes files meanwhile: the other threads have not begun, or never do.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => SocketError::InUse(place()),
            _ => failed(error),
        })?;
        let file = SocketFile::new(path, is_replacement).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self::Unix(listener, Box::new(file)))
    }

    /// Listens on a TCP port. Port 0 is any that is free.
    pub fn tcp(address: SocketAddr) -> Result<Self, SocketError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => SocketError::InUse(Place::Tcp(address)),
            _ => SocketError::Io { place: Place::Tcp(address), error },
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self::Tcp(listener))
    }

    /// Whether it has taken the place of a server that did not end in order: clients may bring the same requests again
    /// while that one's writes are still on their way. Nothing tells this of a TCP port.
    pub fn takes_over(&self) -> bool {
        matches!(self, Self::Unix(_, file) if file.is_replacement)
    }

    /// Where clients connect.
    pub fn place(&self) -> io::Result<Place> {
        Ok(match self {
            Self::Unix(_, file) => Place::Unix(file.path.clone()),
            Self::Tcp(listener) => Place::Tcp(listener.local_addr()?),
        })
    }

    /// The next client that waits; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| stream.into()),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// The file of a unix socket; removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    file: fs::Metadata,
    /// A dead server's file was there before.
    is_replacement: bool,
}

impl SocketFile {
    fn new(path: &Path, is_replacement: bool) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: fs::symlink_metadata(path)?, is_replacement })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| is_same_file(&found, &self.file)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_unix_socket_is_private_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        let listener = Listener::unix(&path).unwrap();
        assert!(!listener.takes_over());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listener.place().unwrap(), Place::Unix(path.clone()));
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(Listener::unix(&path), Err(SocketError::InUse(_))));
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_server_left_is_replaced_and_all_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::unix(&path).unwrap();
        assert!(listener.takes_over());
        // Somebody removes the file and makes another one of that name.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "letter").unwrap();
        drop(listener);
        assert!(matches!(Listener::unix(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"letter");
        let error = Listener::unix(&folder.path().join("none/disk.sock")).unwrap_err();
        assert!(error.to_string().contains("none does not exist"), "{error}");
    }

    #[test]
    fn a_tcp_port_is_served_once() {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let Place::Tcp(address) = listener.place().unwrap() else { panic!("a TCP port") };
        assert_ne!(address.port(), 0);
        assert!(matches!(Listener::tcp(address), Err(SocketError::InUse(_))));
        let _client = std::net::TcpStream::connect(address).unwrap();
        let accepted = std::net::TcpStream::from(listener.accept().unwrap());
        assert!(accepted.nodelay().unwrap());
    }
}
