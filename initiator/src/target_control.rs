//! Questions to the control socket of an `aoe-target` on this host.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aoe_common::target_status::TargetStatus;
use serde::Deserialize;

/// The longest answer, in bytes: hundreds of exports with hundreds of stations each.
const ANSWER_MAX: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TargetControlError {
    /// Nobody serves there.
    #[error("no aoe-target answers at {}: is it running? (see --control)", .0.display())]
    Nobody(PathBuf),
    /// The way to it is barred or broken.
    #[error("{}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It does not want to.
    #[error("aoe-target refuses: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Box<TargetStatus>),
    Error(String),
}

/// Where a target of this host has its socket unless told otherwise.
pub fn default_path() -> PathBuf {
    let chosen = std::env::var_os("AOE_TARGET_CONTROL").filter(|path| !path.is_empty());
    chosen.map_or_else(|| PathBuf::from("/run/aoe-target/control.sock"), PathBuf::from)
}

/// Asks a target how it is; waits for each part of the answer for so long.
pub fn status(path: &Path, patience: Duration) -> Result<TargetStatus, TargetControlError> {
    let answer = ask(path, patience).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => TargetControlError::Nobody(path.to_owned()),
        _ => TargetControlError::Io { path: path.to_owned(), error },
    })?;
    match answer {
        Answer::Ok(status) => Ok(*status),
        Answer::Error(why) => Err(TargetControlError::Refused(why)),
    }
}

fn ask(path: &Path, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"{\"command\":\"status\"}\n")?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_until(b'\n', &mut answer)?;
    if answer.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A target that gives one answer, and what it makes of it.
    fn told(answer: &str) -> Result<TargetStatus, TargetControlError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                assert_eq!(line, "{\"command\":\"status\"}\n");
                stream.write_all(answer.as_bytes()).unwrap();
            });
            status(&path, Duration::from_secs(5))
        })
    }

    #[test]
    fn answers_are_told_apart() {
        let fine = TargetStatus { version: "1".into(), pid: 7, ..TargetStatus::default() };
        let json = serde_json::to_string(&fine).unwrap();
        assert_eq!(told(&format!("{{\"ok\":{json}}}\n")).unwrap(), fine);
        assert!(matches!(told("{\"error\":\"busy\"}\n"), Err(TargetControlError::Refused(why)) if why == "busy"));
        for odd in ["", "{}\n", "hello\n", "{\"ok\":{}}\n", "{\"ok\":"] {
            assert!(matches!(told(odd), Err(TargetControlError::Io { .. })), "{odd}");
        }
    }

    #[test]
    fn nobody_is_said_in_words() {
        let error = status(Path::new("/nonexistent/control.sock"), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("is it running?"), "{error}");
    }
}
