//! Where the programs log to: stderr, or a file of bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A full file makes room for a new one; one old one is kept, with `.old` behind its name.
const FILE_BYTES: u64 = 256 << 10;

/// Logs to stderr, or to the journal if that is where stderr leads; AOE_LOG or RUST_LOG says how much.
pub fn to_stderr(default: &str) {
    if stderr_is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        return tracing_subscriber::registry().with(filter(default)).with(journal).init();
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter(default))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Logs to a file.
pub fn to_file(default: &str, file: LogFile) {
    tracing_subscriber::fmt()
        .with_env_filter(filter(default))
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_target(false)
        .init();
}

fn filter(default: &str) -> EnvFilter {
    let chosen = ["AOE_LOG", "RUST_LOG"].iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    chosen.unwrap_or_else(|| EnvFilter::new(default))
}

/// The journal takes levels, and has a clock of its own. Its stream goes by device and inode (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fs::metadata("/proc/self/fd/2").is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino()))
}

/// A log file that starts anew when it is full.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
}

impl LogFile {
    /// A new file; one of that name is emptied.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: create(path)?, written: 0 })
    }

    /// The file, for what else is to be written there.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name of the file that was full last.
    pub fn old(path: &Path) -> PathBuf {
        path.with_extension("log.old")
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + bytes.len() as u64 > FILE_BYTES {
            fs::rename(&self.path, Self::old(&self.path))?;
            self.file = create(&self.path)?;
            self.written = 0;
        }
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_the_latest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attach-1.log");
        let mut log = LogFile::create(&path).unwrap();
        for number in 0..20_000 {
            writeln!(log, "line {number:06} of a log that goes on and on").unwrap();
        }
        let sizes = [&path, &LogFile::old(&path)].map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|size| (1..=FILE_BYTES).contains(size)), "{sizes:?}");
        assert!(fs::read_to_string(&path).unwrap().contains("line 019999"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
