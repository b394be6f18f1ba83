//! The folder where attached disks have their control sockets, and talk over those.
//!
//! Each attach is one process with one socket, `attach-PID.sock`, and one log file, `attach-PID.log`. A request is one
//! line of JSON, the answer another one. Whoever meets a socket that nobody serves any more removes it.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::status::Status;

/// The longest request, in bytes.
pub const REQUEST_MAX: usize = 4 << 10;
/// The longest answer, in bytes.
const ANSWER_MAX: u64 = 256 << 10;
/// Control sockets that are looked at.
const SOCKETS_MAX: usize = 4096;
/// How long an attach may take for an answer that costs it nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an attach can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status,
    /// To finish what is under way and end.
    Detach,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Detach`: it is done, and this is to be told about it, if anything.
    Detached {
        /// What could not be done on the way out.
        warning: Option<String>,
    },
    /// It is not done, and why.
    Refused(String),
}

/// Why there is no folder, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// No place for it.
    #[error("no folder for control sockets: set XDG_RUNTIME_DIR or AOE_RUN_DIR")]
    NoFolder,
    /// It cannot be used.
    #[error("{}: {error}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It belongs to somebody else, who could take the sockets' places.
    #[error("{} belongs to another user: set AOE_RUN_DIR to a folder of your own", .0.display())]
    NotOurs(PathBuf),
    /// An attach does not answer.
    #[error("process {pid} does not answer at its control socket: {error}")]
    Silent {
        /// The process that should.
        pid: u32,
        /// What happened instead.
        error: io::Error,
    },
}

/// An attach that answers.
#[derive(Debug)]
pub struct Attached {
    /// Its control socket.
    pub socket: PathBuf,
    /// How it is.
    pub status: Status,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The folder of this user. It need not exist.
    pub fn locate() -> Result<Self, RunDirError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let default = || {
            if geteuid().is_root() {
                Some(PathBuf::from("/run/aoe"))
            } else {
                variable("XDG_RUNTIME_DIR").map(|folder| folder.join("aoe"))
            }
        };
        let path = variable("AOE_RUN_DIR").or_else(default).ok_or(RunDirError::NoFolder)?;
        let path = std::path::absolute(&path).map_err(|error| RunDirError::Unusable { path, error })?;
        Ok(Self { path })
    }

    /// Makes the folder if there is none.
    pub fn create(&self) -> Result<(), RunDirError> {
        DirBuilder::new().mode(0o700).recursive(true).create(&self.path).map_err(|error| self.unusable(error))?;
        let found = fs::metadata(&self.path).map_err(|error| self.unusable(error))?;
        if found.uid() == geteuid().as_raw() { Ok(()) } else { Err(RunDirError::NotOurs(self.path.clone())) }
    }

    /// Keeps other attaches from choosing a place meanwhile.
    pub fn lock(&self) -> Result<Flock<File>, RunDirError> {
        let folder = File::open(&self.path).map_err(|error| self.unusable(error))?;
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| self.unusable(error.into()))
    }

    /// The control socket of a process.
    pub fn socket(&self, pid: u32) -> PathBuf {
        self.path.join(format!("attach-{pid}.sock"))
    }

    /// The log file of a process.
    pub fn log(&self, pid: u32) -> PathBuf {
        self.path.join(format!("attach-{pid}.log"))
    }

    /// All attaches that answer, by device and place. Those that do not answer are told to `complain`.
    pub fn attached(&self, mut complain: impl FnMut(RunDirError)) -> Result<Vec<Attached>, RunDirError> {
        let mut found = Vec::new();
        for (pid, socket) in self.files("sock")? {
            match ask(&socket, Request::Status, PATIENCE) {
                Ok(Answer::Status(status)) => found.push(Attached { socket, status: *status }),
                Ok(answer) => {
                    let error = io::Error::other(format!("it answers {answer:?}"));
                    complain(RunDirError::Silent { pid, error });
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let _ = fs::remove_file(&socket);
                }
                // It has ended since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => complain(RunDirError::Silent { pid, error }),
            }
        }
        found.sort_by(|a, b| (a.status.device, &a.status.place).cmp(&(b.status.device, &b.status.place)));
        Ok(found)
    }

    /// Removes logs that crashed processes left behind.
    pub fn sweep_logs(&self) -> Result<(), RunDirError> {
        for (pid, log) in self.files("log")?.into_iter().chain(self.files("log.old")?) {
            if !Path::new("/proc").join(pid.to_string()).exists() {
                let _ = fs::remove_file(log);
            }
        }
        Ok(())
    }

    /// The files `attach-PID.EXTENSION`; none when there is no folder.
    fn files(&self, extension: &str) -> Result<Vec<(u32, PathBuf)>, RunDirError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| self.unusable(error))?,
        };
        let pid_of =
            |name: &str| name.strip_prefix("attach-")?.strip_suffix(extension)?.strip_suffix('.')?.parse().ok();
        let files = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            Some((pid_of(entry.file_name().to_str()?)?, entry.path()))
        });
        Ok(files.take(SOCKETS_MAX).collect())
    }

    fn unusable(&self, error: io::Error) -> RunDirError {
        RunDirError::Unusable { path: self.path.clone(), error }
    }
}

/// Asks the attach behind a control socket; waits for each part of the answer for so long.
pub fn ask(socket: &Path, request: Request, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Whether two descriptions are of one file.
pub fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::status;
    use std::os::unix::net::UnixListener;

    fn run_dir() -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir { path: folder.path().join("aoe") };
        (folder, run_dir)
    }

    /// Answers one request with these bytes, and hands back what was asked.
    fn serve(listener: UnixListener, answer: Vec<u8>) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(&answer).unwrap();
            line
        })
    }

    #[test]
    fn no_folder_means_nothing_is_attached() {
        let (_folder, run_dir) = run_dir();
        assert_eq!(run_dir.attached(|error| panic!("{error}")).unwrap().len(), 0);
        run_dir.create().unwrap();
        run_dir.create().unwrap();
        assert_eq!(fs::metadata(&run_dir.path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_living_are_listed_the_dead_removed_and_the_odd_reported() {
        let (_folder, run_dir) = run_dir();
        run_dir.create().unwrap();
        drop(UnixListener::bind(run_dir.socket(1)).unwrap());
        fs::write(run_dir.path.join("attach-x.sock"), "").unwrap();
        let living = UnixListener::bind(run_dir.socket(2)).unwrap();
        let answer = serde_json::to_string(&Answer::Status(Box::new(status()))).unwrap() + "\n";
        let living = serve(living, answer.into_bytes());
        let odd = serve(UnixListener::bind(run_dir.socket(3)).unwrap(), b"hello\n".to_vec());
        let cut = serve(UnixListener::bind(run_dir.socket(4)).unwrap(), b"{}".to_vec());

        let mut complaints = Vec::new();
        let found = run_dir.attached(|error| complaints.push(error.to_string())).unwrap();
        assert_eq!(living.join().unwrap(), "{\"command\":\"status\"}\n");
        odd.join().unwrap();
        cut.join().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].status, status());
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(!run_dir.socket(1).exists());
        assert!(run_dir.socket(3).exists());
    }

    #[test]
    fn logs_of_the_dead_are_swept() {
        let (_folder, run_dir) = run_dir();
        run_dir.create().unwrap();
        // No process has this number: it is above the largest the kernel gives.
        let (ours, dead) = (run_dir.log(std::process::id()), run_dir.log(4_194_305));
        fs::write(&ours, "").unwrap();
        fs::write(&dead, "").unwrap();
        run_dir.sweep_logs().unwrap();
        assert!(ours.exists() && !dead.exists());
    }

    #[test]
    fn the_lock_is_held_until_it_is_dropped() {
        let (_folder, run_dir) = run_dir();
        run_dir.create().unwrap();
        let lock = run_dir.lock().unwrap();
        let again = || Flock::lock(File::open(&run_dir.path).unwrap(), FlockArg::LockExclusiveNonblock);
        assert!(again().is_err());
        drop(lock);
        assert!(again().is_ok());
    }
}
