//! Manual pages and completions, made from the very definitions by which the programs read their command lines and
//! configuration files. Nothing of it is committed: what is packaged says what the program does.

mod page;

use std::fs;
use std::io;
use std::path::Path;

use aoe_initiator::attach_config;
use aoe_target::config;
use aoe_target::config_keys::{self, Place};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};

pub use self::page::{ConfigFile, ConfigKey, Page};

/// The section of the manual for the system's administration.
const ADMINISTRATION: &str = "8";

/// What is packaged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// For hosts with disks.
    Target,
    /// For hosts that want them.
    Initiator,
}

impl Package {
    /// Both.
    pub const ALL: [Package; 2] = [Package::Target, Package::Initiator];

    /// Its name, also that of the crate.
    pub fn name(self) -> &'static str {
        match self {
            Package::Target => "aoe-target",
            Package::Initiator => "aoe-initiator",
        }
    }

    /// The command lines of its programs.
    pub fn commands(self) -> Vec<Command> {
        match self {
            Package::Target => vec![aoe_target::cli::Args::command()],
            Package::Initiator => aoe_initiator::cli::programs().into(),
        }
    }

    /// Its configuration files.
    pub fn files(self) -> Vec<ConfigFile> {
        match self {
            Package::Target => vec![target_toml()],
            Package::Initiator => vec![attach_toml()],
        }
    }

    /// Its pages: one for each program, for each of a program's commands, and for each configuration file.
    pub fn pages(self, date: &str) -> Vec<Page> {
        let mut pages = Vec::new();
        for command in self.commands() {
            // "aoe-target help export" is in "aoe-target export --help", too.
            let mut command = command.disable_help_subcommand(true);
            command.build();
            add_pages(&command, date, &mut pages);
        }
        pages.extend(self.files().iter().map(|file| Page::of_file(file, date)));
        pages
    }
}

fn target_toml() -> ConfigFile {
    let keys_of = |place: Place| {
        let keys = config_keys::KEYS.iter().filter(|key| key.place == place);
        keys.map(|&config_keys::Key { name, kind, default, about, .. }| ConfigKey { name, kind, default, about })
            .collect()
    };
    ConfigFile {
        name: "aoe-target.toml",
        path: config::DEFAULT_FILE,
        about: "what an AoE target serves, and how",
        description: "\
The file says which files and block devices \"aoe-target serve\" exports, and how. Its language is TOML: keys at the top, a
table [defaults] for what exports have in common, and a table [[export]] for each export or family of exports.

A file with a mistake is refused as a whole. \"aoe-target serve --check\" tells the mistake, with line and column. A
target that runs takes over a changed file on \"aoe-target ctl reload\" or SIGHUP; exports that are the same in both go on
without a pause.

aoe-target.service runs as a user of its own, of the group disk. It can use block devices, and files below /srv that this
group may read and write; other folders after \"systemctl edit aoe-target\" and a line ReadWritePaths=/the/folder below
[Service].",
        sections: vec![
            ("Keys at the top", keys_of(Place::Top)),
            ("Keys of [defaults] and [[export]]", keys_of(Place::Each)),
            ("Keys of [[export]] only", keys_of(Place::Export)),
            ("Keys of edits", keys_of(Place::Edits)),
        ],
        installed: include_str!("../../systemd/target.toml"),
    }
}

fn attach_toml() -> ConfigFile {
    let keys = attach_config::KEYS.map(|attach_config::Key { name, kind, default, about, of_one }| {
        (of_one, ConfigKey { name, kind, default, about })
    });
    let (of_one, common): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(of_one, _)| *of_one);
    let without_mark = |keys: Vec<(bool, ConfigKey)>| keys.into_iter().map(|(_, key)| key).collect();
    ConfigFile {
        name: "aoe-attach.toml",
        path: attach_config::PATH,
        about: "how the AoE disks of this host are attached",
        description: "\
The file says for each disk where it is attached, and how. It is read by aoe-attach@.service, and by aoe-attach when it is
not told where to attach. Its language is TOML: a table [[attach]] for each disk, and a table [defaults] for what they
have in common. What is typed at aoe-attach comes first, then the disk's own table, then the defaults.

A file with a mistake attaches nothing. \"aoe-attach --check\" tells all mistakes, with line and column.

A disk is attached at boot after \"systemctl enable aoe-attach@e0.1\". A filesystem on it is mounted then, and unmounted
before the disk goes, by a line in /etc/fstab such as

/dev/aoe/e0.1 /srv ext4 _netdev,x-systemd.requires=aoe-attach@e0.1.service 0 2

/dev/aoe/e0.1 leads to the kernel device at which the disk is. While no target has the disk, the attempt is repeated;
the filesystem is mounted when there is one.",
        sections: vec![
            ("Keys of [[attach]] only", without_mark(of_one)),
            ("Keys of [[attach]] and [defaults]", without_mark(common)),
        ],
        installed: include_str!("../../systemd/attach.toml"),
    }
}

fn add_pages(command: &Command, date: &str, pages: &mut Vec<Page>) {
    if command.is_hide_set() {
        return;
    }
    pages.push(Page::of_command(command, ADMINISTRATION, date));
    command.get_subcommands().for_each(|command| add_pages(command, date, pages));
}

/// Writes `FOLDER/PACKAGE/manN/*` and `FOLDER/PACKAGE/{bash,zsh,fish}/*`. The pages' date is written like 2026-11-22.
pub fn write_all(folder: &Path, date: &str) -> io::Result<()> {
    let mut all = Package::ALL.map(|package| (package, package.pages(date)));
    let whole = all.iter().flat_map(|(_, pages)| pages).filter(|page| !page.is_part);
    let names: Vec<String> = whole.map(Page::name).collect();
    for (package, pages) in &mut all {
        let place = folder.join(package.name());
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        for page in pages {
            page.see_also(&names);
            let section = place.join(format!("man{}", page.section));
            fs::create_dir_all(&section)?;
            fs::write(section.join(page.file_name()), &page.text)?;
        }
        for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            let section = place.join(name);
            fs::create_dir_all(&section)?;
            for mut command in package.commands() {
                let program = command.get_name().to_owned();
                let script = generate_to(shell, &mut command, program, &section)?;
                if shell == Shell::Bash {
                    let text = fs::read_to_string(&script)?;
                    fs::write(script, with_alike_names(text, &command, ""))?;
                }
            }
        }
    }
    Ok(())
}

/// clap_complete writes a name with a hyphen, of a program or a command, in two ways: where bash finds out which command
/// is typed, and where it looks up what that command takes. Here the second becomes as the first, also for what is below.
fn with_alike_names(script: String, command: &Command, above: &str) -> String {
    const SEPARATOR: &str = "__subcmd__";
    let path = if above.is_empty() { command.get_name().to_owned() } else { format!("{above} {}", command.get_name()) };
    let found = path.replace([' ', '-'], SEPARATOR);
    let meant = path.replace('-', "__").replace(' ', SEPARATOR);
    let script = script.replace(&format!(" {found})\n"), &format!(" {meant})\n"));
    command.get_subcommands().fold(script, |script, command| with_alike_names(script, command, &path))
}
