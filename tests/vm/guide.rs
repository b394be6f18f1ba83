//! Guides of docs/, typed as they stand.
//!
//! A scenario follows a guide section by section, so a guide says what works. The machines a code block is meant for are
//! named behind its language, where a reader's page does not show them:
//!
//! ```text
//! ~~~sh alpha beta                       typed on both, at the same time
//! ~~~ini alpha beta /etc/ocfs2.conf      becomes this file on both
//! ~~~sh                                  an example, for readers only
//! ~~~
//! ```
//!
//! (with three backquotes). `aoe-target export` and `aoe-target serve` run on, and count as done when they serve.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Guest;
#[cfg(test)]
use super::image::PACKAGES;
use crate::net::{Daemon, Host};

/// How long a block may take, unless it is said otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// A guide of docs/.
pub struct Guide {
    name: String,
    blocks: Vec<Block>,
}

#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The heading it stands under.
    section: String,
    machines: Vec<String>,
    /// The file it is the content of; otherwise it is a script.
    file: Option<String>,
    text: String,
}

/// A machine that a guide speaks of.
pub trait Place {
    /// Types a script; it runs in the background when it is `aoe-target export`.
    fn type_in(&self, script: &str) -> Box<dyn Typed + '_>;

    /// Writes a file.
    fn write(&self, file: &str, text: &str);
}

/// A script that was typed.
pub trait Typed {
    /// Waits until it has succeeded, or, if it runs on, is ready.
    fn succeed(self: Box<Self>);
}

/// Whether a script runs on once it is ready.
fn runs_on(script: &str) -> bool {
    script.starts_with("aoe-target export ") || script.trim_end() == "aoe-target serve"
}

impl Guide {
    /// Reads `docs/NAME.md`.
    pub fn open(name: &str) -> Guide {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join(format!("{name}.md"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Guide { name: name.to_owned(), blocks: blocks(&text) }
    }

    /// What the guide says a file of a machine holds.
    pub fn file(&self, machine: &str, file: &str) -> &str {
        let is_it = |block: &&Block| {
            block.file.as_deref() == Some(file) && block.machines.iter().any(|name| name.as_str() == machine)
        };
        let block = self.blocks.iter().find(is_it);
        &block.unwrap_or_else(|| panic!("docs/{}.md has no {file} of {machine}", self.name)).text
    }

    /// Types all blocks of a section, in order, into the machines they name.
    pub fn follow(&self, section: &str, machines: &[(&str, &dyn Place)]) {
        let blocks: Vec<&Block> =
            self.blocks.iter().filter(|block| block.section == section && !block.machines.is_empty()).collect();
        assert!(!blocks.is_empty(), "docs/{}.md has nothing to type under {section:?}", self.name);
        println!("-- {section}");
        for block in blocks {
            let places = block.machines.iter().map(|name| {
                let found = machines.iter().find(|(machine, _)| machine == name);
                found.unwrap_or_else(|| panic!("{section:?} needs the machine {name:?}")).1
            });
            match &block.file {
                Some(file) => places.for_each(|place| place.write(file, &block.text)),
                None => {
                    let typed: Vec<_> = places.map(|place| place.type_in(&block.text)).collect();
                    typed.into_iter().for_each(|typed| typed.succeed());
                }
            }
        }
    }
}

fn blocks(markdown: &str) -> Vec<Block> {
    let (mut found, mut section, mut open): (Vec<Block>, _, Option<Block>) = (Vec::new(), String::new(), None);
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => block.text += &format!("{line}\n"),
            (None, Some(info)) => {
                let words = info.split_whitespace().skip(1).map(str::to_owned);
                let (files, machines): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('/'));
                let file = files.into_iter().next();
                open = Some(Block { section: section.clone(), machines, file, text: String::new() });
            }
            (None, None) if line.starts_with('#') => section = line.trim_start_matches('#').trim().to_owned(),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of {section:?} does not end");
    found
}

impl Place for Guest<'_> {
    fn type_in(&self, script: &str) -> Box<dyn Typed + '_> {
        let job = self.start(script);
        Box::new(TypedInGuest { job, runs_on: runs_on(script) })
    }

    fn write(&self, file: &str, text: &str) {
        self.run(&format!("mkdir -p {} && cat >{file} <<'END_OF_FILE'\n{text}END_OF_FILE", folder(file).display()));
    }
}

struct TypedInGuest<'guest> {
    job: super::Job<'guest>,
    runs_on: bool,
}

impl Typed for TypedInGuest<'_> {
    fn succeed(self: Box<Self>) {
        if self.runs_on {
            self.job.wait_for_line("serving", PATIENCE);
        } else {
            self.job.finish(PATIENCE);
        }
    }
}

/// A host of the lab, as the machine of a guide. What it runs in the background ends with this value.
pub struct LabPlace<'lab> {
    host: Host<'lab>,
    daemons: RefCell<Vec<Daemon>>,
}

impl<'lab> LabPlace<'lab> {
    /// Nothing runs there yet.
    pub fn new(host: Host<'lab>) -> LabPlace<'lab> {
        LabPlace { host, daemons: RefCell::default() }
    }

    /// Hands over what runs in the background, in the order it was typed.
    pub fn take_daemons(&self) -> Vec<Daemon> {
        self.daemons.take()
    }
}

impl Place for LabPlace<'_> {
    fn type_in(&self, script: &str) -> Box<dyn Typed + '_> {
        if runs_on(script) {
            let daemon = self.host.typed(script).spawn_ready(|line| line.starts_with("serving"));
            self.daemons.borrow_mut().push(daemon);
        } else {
            self.host.command("bash").args(["-e", "-c", script]).patience(PATIENCE).run().succeeded();
        }
        println!("{}# {script}", self.host.name());
        Box::new(Done)
    }

    fn write(&self, file: &str, _text: &str) {
        panic!("{file} would be written on the machine that runs the tests");
    }
}

/// A machine that is not there, or has no part this time: nothing is typed into it.
pub struct Away;

impl Place for Away {
    fn type_in(&self, _script: &str) -> Box<dyn Typed + '_> {
        Box::new(Done)
    }

    fn write(&self, _file: &str, _text: &str) {}
}

struct Done;

impl Typed for Done {
    fn succeed(self: Box<Self>) {}
}

fn folder(file: &str) -> PathBuf {
    Path::new(file).parent().expect("an absolute path").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guide_is_cut_into_blocks() {
        let text = "# Title\n## One\ntext\n```sh alpha beta\nls\npwd\n```\n```ini beta /etc/x\n[a]\n```\n\
                    ## Two\n```sh\nexample\n```\n";
        let block = |section: &str, machines: &[&str], file: Option<&str>, text: &str| Block {
            section: section.to_owned(),
            machines: machines.iter().map(|name| (*name).to_owned()).collect(),
            file: file.map(str::to_owned),
            text: text.to_owned(),
        };
        let expected = [
            block("One", &["alpha", "beta"], None, "ls\npwd\n"),
            block("One", &["beta"], Some("/etc/x"), "[a]\n"),
            block("Two", &[], None, "example\n"),
        ];
        assert_eq!(blocks(text), expected);
    }

    /// What a reader is told to type is typed by a scenario: every block of commands names its machines, and a test follows
    /// every section that has one. To install packages is a matter of the distribution.
    #[test]
    fn every_command_of_the_guides_is_typed_by_a_scenario() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm");
        let read = |folder: &Path, extension: &str| -> Vec<(PathBuf, String)> {
            let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
            let files = entries.filter(|file| file.extension().is_some_and(|found| found == extension));
            files.map(|file| (file.clone(), fs::read_to_string(file).expect("a text"))).collect()
        };
        let scenarios = read(&scenarios, "rs").into_iter().map(|(_, text)| text).collect::<String>();
        let installs = |line: &str| line.starts_with("apt install ") || line.starts_with("dpkg -i ");
        for (guide, text) in read(&docs, "md") {
            let name = guide.file_stem().expect("a name").to_string_lossy().into_owned();
            for block in blocks(&text) {
                let Block { section, machines, text, file } = block;
                let followed = format!("\"{}\"", section.replace('"', "\\\""));
                if machines.is_empty() {
                    assert!(text.lines().all(installs), "docs/{name}.md, {section}: nobody types\n{text}");
                } else {
                    let is_used = file.is_some_and(|file| scenarios.contains(&format!("\"{file}\"")));
                    assert!(
                        is_used || scenarios.contains(&followed),
                        "docs/{name}.md, {section}: no scenario follows it"
                    );
                    assert!(scenarios.contains(&format!("\"{name}\"")), "no scenario opens docs/{name}.md");
                }
            }
        }
    }

    /// What a reader is told to install is what the scenarios run with.
    #[test]
    fn guides_install_what_the_machines_have() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
        let mut told = 0;
        let files = fs::read_dir(docs).expect("a folder of guides").map(|entry| entry.expect("an entry").path());
        for guide in files.filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
            let text = fs::read_to_string(guide).expect("a guide");
            for line in text.lines().filter_map(|line| line.strip_prefix("apt install ")) {
                for package in line.split_whitespace() {
                    assert!(PACKAGES.contains(&package), "{package} is not on the machines' root disk");
                    told += 1;
                }
            }
        }
        assert!(told > 0, "no guide installs anything");
    }
}
