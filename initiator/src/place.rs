//! Where a disk is attached: a kernel device or a socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path a unix socket can have, in bytes.
const UNIX_PATH_MAX: usize = 107;

/// A place to attach a disk at, or one where it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `/dev/nbdN`; without a number the first device that is free.
    Kernel(Option<u32>),
    /// `unix:PATH`, an NBD server on a unix socket; the path is absolute.
    Unix(PathBuf),
    /// `tcp:ADDR:PORT`, an NBD server on a TCP port.
    Tcp(SocketAddr),
}

/// Why a text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// None of the forms.
    #[error("\"{0}\" is no place to attach at: write /dev/nbdN, /dev/nbd, unix:PATH or tcp:ADDR:PORT")]
    Form(String),
    /// `unix:` without a usable path.
    #[error("\"{0}\" names no socket: write unix:PATH with a path of 1 to {UNIX_PATH_MAX} bytes")]
    Unix(String),
    /// `tcp:` without a usable address.
    #[error("\"{0}\" names no TCP port: write tcp:ADDR:PORT with a numeric address, for example tcp:127.0.0.1:10809")]
    Tcp(String),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // The server leaves the folder it was started in.
            let path = std::path::absolute(path).map_err(|_| PlaceError::Unix(text.to_owned()))?;
            let fits = path.as_os_str().len() <= UNIX_PATH_MAX && !text.contains('\0') && path.file_name().is_some();
            return if fits { Ok(Self::Unix(path)) } else { Err(PlaceError::Unix(text.to_owned())) };
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            return address.parse().map(Self::Tcp).map_err(|_| PlaceError::Tcp(text.to_owned()));
        }
        match text.strip_prefix("/dev/nbd") {
            Some("") => Ok(Self::Kernel(None)),
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                number.parse().map(|index| Self::Kernel(Some(index))).map_err(|_| PlaceError::Form(text.to_owned()))
            }
            _ => Err(PlaceError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(None) => f.write_str("/dev/nbd"),
            Self::Kernel(Some(index)) => write!(f, "/dev/nbd{index}"),
            Self::Unix(path) => write!(f, "unix:{}", Path::display(path)),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_they_are_read() {
        for text in ["/dev/nbd", "/dev/nbd0", "/dev/nbd17", "unix:/run/e0.1.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:0"]
        {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_relative_socket_path_becomes_absolute() {
        let Place::Unix(path) = "unix:disk.sock".parse().unwrap() else { panic!("a unix socket") };
        assert_eq!(path, std::env::current_dir().unwrap().join("disk.sock"));
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_form_to_use() {
        for text in ["", "nowhere", "nbd1", "/dev/sda1", "/dev/nbd1p1", "/dev/nbd-1", "/dev/nbd99999999999"] {
            assert_eq!(text.parse::<Place>(), Err(PlaceError::Form(text.to_owned())), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        for text in ["unix:", "unix:/", "unix:..", &long] {
            assert_eq!(text.parse::<Place>(), Err(PlaceError::Unix(text.to_owned())), "{text}");
        }
        for text in ["tcp:", "tcp:127.0.0.1", "tcp:127.0.0.1:99999", "tcp:localhost:10809"] {
            assert_eq!(text.parse::<Place>(), Err(PlaceError::Tcp(text.to_owned())), "{text}");
        }
    }
}
