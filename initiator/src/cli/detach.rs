//! `aoe-detach`: ends an attach in order.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use super::{FAILED, Subject, complain, finish, show};
use crate::run_dir::{Answer, Attached, Request, RunDir, ask};

const NAME: &str = "aoe-detach";

/// Longer than an attach takes at the most: writing back, requests under way, the last flush. It answers when it has let
/// go of everything.
const PATIENCE: Duration = Duration::from_secs(120);

const HELP: &str = "\
Requests under way are finished first, and the target is asked to make everything durable.
A kernel device that is mounted is not detached.

Example:
      umount /mnt
      aoe-detach /dev/nbd1

Exit codes:
  0  detached, and nothing was lost
  1  nothing like it is attached, it is in use, or requests were lost
  2  wrong usage";

/// Detaches a disk that aoe-attach has attached.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// Where it is attached, such as /dev/nbd1, or the disk, such as e0.1
    #[arg(value_name = "WHERE|DEVICE")]
    subject: Subject,
}

/// Runs the program.
pub fn main() -> ExitCode {
    finish(NAME, detach(&Args::parse().subject))
}

fn detach(subject: &Subject) -> Result<ExitCode> {
    let attached = RunDir::locate()?.attached(|error| complain(NAME, &error.to_string()))?;
    let Attached { socket, status } = choose(subject, &attached)?;
    let line = format!("{} detached from {}", status.device, status.place);
    let answer = ask(socket, Request::Detach, PATIENCE);
    match answer.with_context(|| format!("process {}, which serves {}, did not say", status.pid, status.place))? {
        Answer::Detached { warning } => {
            let Some(warning) = warning else {
                show(&line)?;
                return Ok(ExitCode::SUCCESS);
            };
            complain(NAME, &format!("{line}, but {warning}"));
            Ok(ExitCode::from(FAILED))
        }
        Answer::Refused(why) => bail!("{why}"),
        Answer::Status(_) => bail!("process {} answers what was not asked", status.pid),
    }
}

/// The one attach that is meant.
fn choose<'a>(subject: &Subject, attached: &'a [Attached]) -> Result<&'a Attached> {
    let list = |of: &mut dyn Iterator<Item = &Attached>| {
        of.map(|one| format!("{} at {}", one.status.device, one.status.place)).collect::<Vec<_>>().join(", ")
    };
    let meant: Vec<_> = attached.iter().filter(|one| subject.is(one)).collect();
    match meant[..] {
        [one] => Ok(one),
        [] if attached.is_empty() => bail!("{subject} is not attached; nothing is"),
        [] => bail!("{subject} is not attached; these are: {}", list(&mut attached.iter())),
        _ => bail!("{subject} is attached more than once, say where: {}", list(&mut meant.into_iter())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::status;

    fn attached(device: &str, place: &str) -> Attached {
        let status = crate::status::Status { device: device.parse().unwrap(), place: place.into(), ..status() };
        Attached { socket: "/run/x".into(), status }
    }

    #[test]
    fn one_is_chosen_or_what_there_is_is_told() {
        let all = [attached("e0.1", "/dev/nbd1"), attached("e0.1", "/dev/nbd2"), attached("e0.2", "unix:/run/b")];
        let chosen = |text: &str| {
            let subject: Subject = text.parse().unwrap();
            choose(&subject, &all).map(|one| one.status.place.clone()).map_err(|error| error.to_string())
        };
        assert_eq!(chosen("/dev/nbd2"), Ok("/dev/nbd2".into()));
        assert_eq!(chosen("e0.2"), Ok("unix:/run/b".into()));
        assert_eq!(
            chosen("e0.1").unwrap_err(),
            "e0.1 is attached more than once, say where: e0.1 at /dev/nbd1, e0.1 at /dev/nbd2"
        );
        assert!(chosen("e9.9").unwrap_err().ends_with("e0.2 at unix:/run/b"));
        let none = choose(&Subject::Device(aoe_common::addr::Address::new(0, 1)), &[]).unwrap_err();
        assert_eq!(none.to_string(), "e0.1 is not attached; nothing is");
    }
}
