//! Debian packages by the machine's own apt: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::said;
use crate::net::tool;

/// Where packages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The release this machine runs.
    Own,
    /// Newer packages made for it, from the same mirror.
    Backports,
}

/// An apt that knows no installed package, so that a download is complete.
pub(super) struct Apt {
    suite: Suite,
    options: Vec<String>,
    folder: PathBuf,
}

impl Apt {
    /// To be called by one process at a time for a folder; what was downloaded stays there until [`Self::forget`].
    pub fn new(folder: &Path, suite: Suite) -> Apt {
        let folder = folder.join(format!("apt-{suite:?}").to_lowercase());
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        let none = folder.join("status");
        fs::write(&none, "").expect("a file of ours");
        let set = |name: &str, value: &Path| format!("-oDir::{name}={}", value.display());
        let mut options = vec![set("State::status", &none), set("Cache", &folder.join("cache"))];
        options.push("-oAPT::Sandbox::User=root".to_owned());
        if suite == Suite::Backports {
            let sources = folder.join("sources.list");
            fs::write(&sources, backports()).expect("a file of ours");
            options.extend([
                set("Etc::SourceList", &sources),
                set("Etc::SourceParts", &folder.join("parts")),
                set("State::Lists", &folder.join("lists")),
            ]);
        }
        let apt = Apt { suite, options, folder };
        if suite == Suite::Backports && fs::read_dir(apt.folder.join("lists")).is_ok_and(|list| list.count() < 2) {
            apt.update();
        }
        apt
    }

    /// What a package that is only a name stands for.
    pub fn stands_for(&self, package: &str, prefix: &str) -> String {
        let ask = || {
            let depends = self.run("apt-cache", &["depends", package])?;
            depends
                .lines()
                .find_map(|line| line.trim().strip_prefix("Depends: ")?.strip_prefix(prefix).map(str::to_owned))
        };
        let found = ask().or_else(|| self.update().and_then(|()| ask()));
        found.unwrap_or_else(|| {
            panic!("apt knows no {package} in {:?}; its sources must have Debian's main", self.suite)
        })
    }

    /// Fetches packages and all they depend on, recommendations left out.
    pub fn download(&self, packages: &[&str]) -> Vec<PathBuf> {
        self.fetch(&["-y", "--no-install-recommends", "--download-only", "install"], packages, &self.archives());
        let entries = fs::read_dir(self.archives()).expect("a folder of apt's");
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        found.sort();
        assert!(found.len() >= packages.len(), "apt downloaded {} of {packages:?}", found.len());
        found
    }

    /// Fetches one package into a folder, without what it depends on.
    pub fn download_alone(&self, package: &str, place: &Path) -> PathBuf {
        self.fetch(&["download"], &[package], place);
        fs::read_dir(place).expect("a folder").next().expect("apt's download").expect("a file").path()
    }

    /// Removes what was downloaded.
    pub fn forget(&self) {
        fs::remove_dir_all(self.archives()).expect("a folder of ours");
    }

    /// What apt's lists name may be gone from the archive since, so a failure is followed by an update.
    fn fetch(&self, verb: &[&str], packages: &[&str], place: &Path) {
        let arguments = [verb, packages].concat();
        let go = || self.run_in("apt-get", &arguments, place);
        let done = go().or_else(|| self.update().and_then(|()| go()));
        assert!(done.is_some(), "apt-get {} failed, see above", arguments.join(" "));
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    fn update(&self) -> Option<()> {
        self.run("apt-get", &["update"]).map(drop)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
        self.run_in(program, arguments, &self.folder)
    }

    /// Runs a program of apt's; none when it fails, with its complaint in the test's output.
    fn run_in(&self, program: &str, arguments: &[&str], place: &Path) -> Option<String> {
        let mut command = tool(program);
        command.arg("-qq").args(&self.options).args(arguments).current_dir(place).stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        if !output.status.success() {
            eprintln!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A line of sources for the backports of the machine's release.
fn backports() -> String {
    let (codename, uri) = release();
    format!("deb {uri} {codename}-backports main\n")
}

/// The name of the machine's release, and where it comes from.
pub(super) fn release() -> (String, String) {
    let format = "$(CODENAME)|$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let targets = said(tool("apt-get").args(["indextargets", "--format", format]));
    let release = targets.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
        [codename, "Debian", "main", uri] if !codename.contains('-') => Some((codename.to_owned(), uri.to_owned())),
        _ => None,
    });
    release.expect("apt's sources have Debian's main")
}

/// Unpacks packages into a root whose /bin, /lib and the like are links; documents are left out.
pub(super) fn unpack(archives: &[PathBuf], root: &Path) {
    for archive in archives {
        let mut files =
            tool("dpkg-deb").arg("--fsys-tarfile").arg(archive).stdout(Stdio::piped()).spawn().expect("dpkg-deb");
        let mut tar: Command = tool("tar");
        tar.args(["-x", "--keep-directory-symlink", "-C"]).arg(root);
        for left_out in ["doc", "man", "info", "locale", "lintian", "i18n"] {
            tar.arg(format!("--exclude=./usr/share/{left_out}/*"));
        }
        let unpacked = tar.stdin(files.stdout.take().expect("a pipe")).status().expect("tar");
        let read = files.wait().expect("dpkg-deb");
        assert!(unpacked.success() && read.success(), "{} does not unpack", archive.display());
    }
}
