//! `aoe-target import-vblade`: from vblade's configuration on a Debian host to ours.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::vblade;

pub(super) const EXAMPLES: &str = "\
Examples:
  Look at what would become of them:
      aoe-target import-vblade

  Make the file, and look for mistakes in it:
      aoe-target import-vblade --output /etc/aoe/target.toml
      aoe-target serve --check

What cannot be said in our file is written into it as a comment, and to stderr.

Exit codes:
  0  all exports were imported
  1  some were left out (the file says which and why), or nothing could be read or written
  2  wrong usage";

/// `aoe-target import-vblade`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ImportVbladeArgs {
    /// Files (NAME.conf) and folders to read: those of vblade-persistence(5), and the older ones of vblade-persist
    /// [default: /etc/vblade.conf.d and /var/lib/vblade-persist/vblades, where they exist]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Write here; a file that exists is left alone [default: stdout]
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ImportVbladeArgs {
    /// Converts; tells whether all exports came along.
    pub fn run(&self) -> Result<bool> {
        let paths = match &self.paths[..] {
            [] => vblade::FOLDERS.iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
            named => named.to_vec(),
        };
        if paths.is_empty() {
            bail!("neither {} exists; name the files", vblade::FOLDERS.join(" nor "));
        }
        let imported = vblade::import(&paths)?;
        match &self.output {
            Some(file) => write_new(file, &imported.text)?,
            // Nobody is left to hear of a closed pipe.
            None => drop(io::stdout().write_all(imported.text.as_bytes())),
        }
        for note in &imported.notes {
            let _ = writeln!(io::stderr(), "aoe-target: {note}");
        }
        Ok(imported.left_out == 0)
    }
}

fn write_new(file: &Path, text: &str) -> Result<()> {
    let new = OpenOptions::new().write(true).create_new(true).open(file);
    let mut new = new.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            anyhow::anyhow!("{}: exists already; move it away, or name another file", file.display())
        }
        _ => anyhow::anyhow!("{}: {error}", file.display()),
    })?;
    new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).with_context(|| file.display().to_string())
}
