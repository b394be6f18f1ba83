//! `aoe-target serve`: what a configuration file says.

use std::io::{self, Write};
use std::path::PathBuf;

use aoe_common::scrape::Endpoint;
use clap::Args as ClapArgs;

use crate::check::Report;
use crate::config::{self, ConfigError, DEFAULT_FILE};
use crate::config_keys::{KEYS, Place};
use crate::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  Look for mistakes in the file, and for disks that are missing:
      aoe-target serve --check

  Serve what another file says:
      aoe-target serve --config ./test.toml

Exit codes:
  0  stopped cleanly (SIGTERM, SIGINT); with --check: the file can be served
  1  cannot serve, can no longer, or could not sync the disks at the stop; with --check: something is missing
  2  wrong usage, or a mistake in the file";

/// Examples, and the keys of the file.
pub(super) fn help() -> String {
    let keys =
        |place| KEYS.iter().filter(move |key| key.place == place).map(|key| key.name).collect::<Vec<_>>().join(", ");
    format!(
        "{EXAMPLES}\n\nKeys of the file (aoe-target.toml(5) explains them):\n  {}\n  [defaults] and [[export]]: {}\n  \
         [[export]]: {}\n  edits: {}",
        keys(Place::Top),
        keys(Place::Each),
        keys(Place::Export),
        keys(Place::Edits)
    )
}

/// `aoe-target serve`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ServeArgs {
    /// The configuration file
    #[arg(long, short = 'c', default_value = DEFAULT_FILE, value_name = "FILE")]
    pub config: PathBuf,

    /// Look for mistakes in the file and for what would fail at the start, say what would be served, and serve nothing
    #[arg(long)]
    pub check: bool,

    /// With --check: print JSON
    #[arg(long, requires = "check")]
    pub json: bool,

    /// The control socket, instead of the one that the file names
    /// [default: $AOE_TARGET_CONTROL, else /run/aoe-target/control.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Give out figures for Prometheus here (unix:/PATH or ADDR:PORT), instead of where the file says
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Endpoint>,

    /// Do not confine the threads once they have what they need, whatever the file says: for looking for a fault
    #[arg(long)]
    pub no_sandbox: bool,
}

impl ServeArgs {
    /// Says what would be served, and tells whether all of it can be.
    pub fn check(&self) -> Result<bool, ConfigError> {
        let report = Report::of(&self.settings()?);
        let text = match self.json {
            true => serde_json::to_string_pretty(&report).expect("texts and numbers") + "\n",
            false => report.to_string(),
        };
        // Nobody is left to hear of a closed pipe.
        let _ = io::stdout().write_all(text.as_bytes());
        for warning in &report.warnings {
            let _ = writeln!(io::stderr(), "aoe-target: {warning}");
        }
        Ok(report.warnings.is_empty())
    }

    /// What the file says, and what is typed.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = config::load(&self.config)?;
        if self.control.is_some() {
            settings.control.clone_from(&self.control);
        }
        if self.metrics.is_some() {
            settings.metrics.clone_from(&self.metrics);
        }
        settings.sandbox &= !self.no_sandbox;
        Ok(settings)
    }
}
