//! Going on in the background once a job is set up.
//!
//! A program starts itself again, and the copy reports over a pipe, its standard output, when it is ready or why it
//! cannot be. The first process passes that on and ends. A process that forks instead of starting anew could not have
//! threads yet, and nothing here wants to care.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::{chdir, dup2_stderr, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};

/// The longest report, in bytes.
const REPORT_MAX: u64 = 64 << 10;

/// What the copy has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// It is ready and goes on.
    Ready {
        /// For standard output.
        line: String,
        /// For standard error, if anything.
        warning: Option<String>,
    },
    /// It has ended, and why.
    Failed(String),
}

/// Starts this program again with the same arguments and one more, and waits for its report.
pub fn start(name: &str, marker: &str) -> Result<Report> {
    let program = std::env::current_exe().context("cannot start the background process")?;
    let mut child = Command::new(program)
        .arg0(name)
        .arg(marker)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the background process")?;
    let mut text = String::new();
    let pipe = child.stdout.take().expect("the output was piped");
    pipe.take(REPORT_MAX).read_to_string(&mut text).context("no word of the background process")?;
    match serde_json::from_str(&text) {
        Ok(report) => Ok(report),
        Err(_) => {
            let status = child.wait().context("no word of the background process")?;
            bail!("the background process ended without a word: {status}")
        }
    }
}

/// In the copy: has nothing to do with the terminal it was started from, except for its output.
pub fn leave_terminal() {
    // Fails only in a process that leads a session already.
    let _ = setsid();
}

/// In the copy: reports. When nobody listens any more this is an error, so that nothing stays that nobody knows of.
pub fn report(report: &Report) -> Result<()> {
    let text = serde_json::to_string(report)?;
    io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).context("nobody waits for the report")
}

/// In the copy, after the report: closes the pipe, and has no folder and no terminal open. What a crash would print
/// goes to `log`.
pub fn settle(log: &File) -> Result<()> {
    dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    dup2_stderr(log)?;
    chdir("/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe() {
        for report in [
            Report::Ready { line: "e0.1 attached at \"x\"\n".into(), warning: None },
            Report::Failed("no target".into()),
        ] {
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        }
    }
}
