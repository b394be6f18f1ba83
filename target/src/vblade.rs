//! vblade's configuration on a Debian host, and what it becomes in ours.
//!
//! vblade-persistence(5) keeps a file for each export, `/etc/vblade.conf.d/NAME.conf`: lines `name=value` in the shell's
//! quoting, of which systemd and the shell read the same. The older vblade-persist kept a folder for each:
//! `env/SHELF`, `env/SLOT`, `env/NETIF` and `env/SOURCE` with a value each, and an empty file in `macs/` for each station.
//!
//! Nothing is guessed. What has no meaning here, or none that is safe, becomes a comment and a note: above all an export
//! whose list of stations cannot be read is left out, since without the list it would be everybody's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aoe_common::addr::{Address, parse_shelf, parse_slot};
use toml::Value;

use crate::settings::EXPORTS_MAX;
use crate::settings::station;

/// Where Debian's packages keep them.
pub const FOLDERS: [&str; 2] = ["/etc/vblade.conf.d", "/var/lib/vblade-persist/vblades"];

/// Bytes of a file at the most.
const FILE_MAX: u64 = 64 << 10;

/// What an import made.
#[derive(Debug, Default)]
pub struct Imported {
    /// The configuration file.
    pub text: String,
    /// What it could not take over, one line each.
    pub notes: Vec<String>,
    /// Exports that it could not take over.
    pub left_out: usize,
}

/// An export of vblade's, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Blade {
    shelf: String,
    slot: String,
    netif: String,
    filename: String,
    options: Vec<String>,
    ionice: String,
}

/// What it means.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Export {
    address: Address,
    path: String,
    read_only: bool,
    direct: bool,
    sync: bool,
    buffers: Option<u16>,
    offset: u64,
    length: Option<u64>,
    allow: Vec<String>,
}

/// Reads files and folders.
pub fn import(paths: &[PathBuf]) -> Result<Imported> {
    let mut blades = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut entries = Vec::new();
            for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
                entries.push(entry?.path());
                if entries.len() > 2 * EXPORTS_MAX {
                    bail!("{}: holds too many names for a folder of vblade's", path.display());
                }
            }
            entries.sort();
            for entry in entries {
                if entry.join("env").is_dir() {
                    blades.push((entry.display().to_string(), read_persist(&entry)));
                } else if entry.extension().is_some_and(|extension| extension == "conf") && entry.is_file() {
                    blades.push((entry.display().to_string(), read_fragment(&entry)));
                }
            }
        } else {
            blades.push((path.display().to_string(), read_fragment(path)));
        }
    }
    // Debian's package brings one that sets nothing.
    blades.retain(|(_, blade)| *blade != Ok(Blade::default()));
    if blades.len() > EXPORTS_MAX {
        bail!("these are more than {EXPORTS_MAX} exports");
    }
    Ok(convert(blades))
}

/// The file that these become.
fn convert(blades: Vec<(String, Result<Blade, String>)>) -> Imported {
    let mut imported = Imported::default();
    let mut body = String::new();
    let mut interfaces: Vec<String> = Vec::new();
    let mut known: BTreeMap<Address, Export> = BTreeMap::new();
    let mut first_served_on: BTreeMap<Address, Vec<String>> = BTreeMap::new();
    for (source, blade) in blades {
        let _ = writeln!(body, "\n# {}", one_line(&source));
        let mut notes = Vec::new();
        let export = blade.and_then(|blade| {
            let export = Export::of(&blade, &mut notes)?;
            match known.get(&export.address) {
                // vblade has a process for each interface; here one export is on all of them.
                Some(same) if *same == export => {}
                Some(_) => return Err(format!("{} is another export already", export.address)),
                None => match known.values().find(|other| other.path == export.path) {
                    Some(other) if !(other.read_only && export.read_only) => {
                        return Err(format!(
                            "{} is {} already, and one of them could write",
                            export.path, other.address
                        ));
                    }
                    _ => {}
                },
            }
            if !interfaces.contains(&blade.netif) {
                interfaces.push(blade.netif.clone());
            }
            first_served_on.entry(export.address).or_default().push(blade.netif);
            Ok(export)
        });
        match export {
            Ok(export) if known.contains_key(&export.address) => {
                let _ = writeln!(body, "# the same as {} above, on another interface", export.address);
            }
            Ok(export) => {
                for note in &notes {
                    let _ = writeln!(body, "# {}", one_line(note));
                }
                body += &export.emit();
                known.insert(export.address, export);
            }
            Err(reason) => {
                imported.left_out += 1;
                notes.push(format!("left out: {reason}"));
                for note in &notes {
                    let _ = writeln!(body, "# {}", one_line(note));
                }
            }
        }
        imported.notes.extend(notes.iter().map(|note| format!("{}: {}", one_line(&source), one_line(note))));
    }
    let mut head = "# Made by aoe-target import-vblade. aoe-target.toml(5) explains the keys.\n".to_owned();
    if first_served_on.values().any(|on| interfaces.iter().any(|name| !on.contains(name))) {
        let note =
            "vblade served each of these on an interface of its own; here every export is on all of the interfaces";
        let _ = writeln!(head, "# {note}.");
        imported.notes.push(note.to_owned());
    }
    if !interfaces.is_empty() {
        let list = Value::Array(interfaces.into_iter().map(Value::String).collect());
        let _ = writeln!(head, "interfaces = {list}");
    }
    imported.text = head + &body;
    imported
}

/// A file of vblade-persistence(5).
fn read_fragment(path: &Path) -> Result<Blade, String> {
    parse_fragment(&read(path)?)
}

fn parse_fragment(text: &str) -> Result<Blade, String> {
    let mut blade = Blade::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |problem: String| format!("line {}: {problem}", number + 1);
        let (name, value) = line.split_once('=').ok_or_else(|| at("is no assignment".into()))?;
        let value = unquote(value).map_err(at)?;
        // vblade-persist-convert of Debian writes names with capitals.
        match name.trim_start_matches("export ").to_ascii_lowercase().as_str() {
            "shelf" => blade.shelf = value,
            "slot" => blade.slot = value,
            "netif" => blade.netif = value,
            "filename" => blade.filename = value,
            "options" => blade.options = value.split_whitespace().map(str::to_owned).collect(),
            "ionice" => blade.ionice = value,
            _ => return Err(at(format!("{name} means nothing to vblade"))),
        }
    }
    Ok(blade)
}

/// The value of an assignment in the shell's quoting. What the shell would expand is not known here.
fn unquote(text: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut letters = text.chars().peekable();
    let expansion = |letter| format!("{letter} is for the shell to expand; write the value itself");
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => loop {
                match letters.next().ok_or("a quote is not closed")? {
                    '\'' => break,
                    inner => value.push(inner),
                }
            },
            '"' => loop {
                match letters.next().ok_or("a quote is not closed")? {
                    '"' => break,
                    letter @ ('$' | '`') => return Err(expansion(letter)),
                    '\\' if letters.peek().is_some_and(|next| "\\\"$`".contains(*next)) => value.extend(letters.next()),
                    inner => value.push(inner),
                }
            },
            '\\' => value.push(letters.next().ok_or("the line goes on in the next; write it as one")?),
            '$' | '`' => return Err(expansion(letter)),
            ';' | '&' | '|' | '<' | '>' | '(' | ')' => {
                return Err(format!("{letter} is for the shell; write values only"));
            }
            letter if letter.is_whitespace() => {
                let rest: String = letters.collect();
                if rest.trim().is_empty() || rest.trim_start().starts_with('#') {
                    break;
                }
                return Err("there are words behind the value; quote it".into());
            }
            letter => value.push(letter),
        }
    }
    Ok(value)
}

/// A folder of vblade-persist.
fn read_persist(folder: &Path) -> Result<Blade, String> {
    let value = |name: &str| read(&folder.join("env").join(name)).map(|text| text.trim().to_owned());
    let mut macs = Vec::new();
    if let Ok(entries) = fs::read_dir(folder.join("macs")) {
        for entry in entries.take(EXPORTS_MAX) {
            let name = entry.map_err(|error| error.to_string())?.file_name();
            macs.push(name.into_string().map_err(|name| format!("macs/{}: no text", name.display()))?);
        }
        macs.sort();
    }
    let options = if macs.is_empty() { vec![] } else { vec!["-m".into(), macs.join(",")] };
    let (shelf, slot, netif, filename) = (value("SHELF")?, value("SLOT")?, value("NETIF")?, value("SOURCE")?);
    Ok(Blade { shelf, slot, netif, filename, options, ionice: String::new() })
}

fn read(path: &Path) -> Result<String, String> {
    let name = path.file_name().unwrap_or(path.as_os_str()).display();
    let of = |error: io::Error| format!("{name}: {error}");
    if !fs::metadata(path).map_err(of)?.is_file() {
        return Err(format!("{name} is no file"));
    }
    let mut text = String::new();
    let length = File::open(path).map_err(of)?.take(FILE_MAX + 1).read_to_string(&mut text).map_err(of)?;
    if length as u64 > FILE_MAX {
        return Err(format!("{name} is larger than {} KiB", FILE_MAX >> 10));
    }
    Ok(text)
}

impl Export {
    /// What vblade would do, given this. Notes are what it means no more.
    fn of(blade: &Blade, notes: &mut Vec<String>) -> Result<Self, String> {
        for (name, value) in
            [("shelf", &blade.shelf), ("slot", &blade.slot), ("netif", &blade.netif), ("filename", &blade.filename)]
        {
            if value.is_empty() {
                return Err(format!("{name} is not set, vblade ignores this file, too"));
            }
        }
        let shelf = parse_shelf(&blade.shelf).map_err(|error| error.to_string())?;
        let slot = parse_slot(&blade.slot).map_err(|error| error.to_string())?;
        if glob::Pattern::escape(&blade.netif) != blade.netif {
            return Err(format!("netif: {} is no name of an interface", blade.netif));
        }
        let mut export = Self {
            address: Address::new(shelf, slot),
            // Its services start in the root folder.
            path: Path::new("/").join(&blade.filename).display().to_string(),
            read_only: false,
            direct: false,
            sync: false,
            buffers: None,
            offset: 0,
            length: None,
            allow: vec![],
        };
        if export.path.contains(['*', '?']) {
            return Err(format!("filename: {} would be taken for a pattern; give the file another name", export.path));
        }
        for (option, value) in options(&blade.options)? {
            match (option, value.as_str()) {
                ('r', _) => export.read_only = true,
                ('d', _) => export.direct = true,
                ('s', _) => export.sync = true,
                ('b', number) => {
                    let number: u64 = number.parse().map_err(|_| format!("-b {number} is no number"))?;
                    let buffers = number.clamp(2, 1024) as u16;
                    if u64::from(buffers) != number {
                        notes.push(format!("-b {number} became buffers = {buffers}; it goes from 2 to 1024"));
                    }
                    export.buffers = Some(buffers);
                }
                ('o', number) => export.offset = sectors("-o", number)?,
                ('l', number) => export.length = Some(sectors("-l", number)?).filter(|length| *length > 0),
                ('m', list) => {
                    for mac in list.split(',').filter(|mac| !mac.is_empty()) {
                        export.allow.push(mac_address(mac)?);
                    }
                }
                _ => unreachable!("options are of these"),
            }
        }
        if !blade.ionice.is_empty() {
            notes.push(format!("ionice {} has no counterpart: one process serves all exports", blade.ionice));
        }
        Ok(export)
    }

    fn emit(&self) -> String {
        let text = |text: &str| Value::String(text.to_owned()).to_string();
        let Self { address, path, read_only, direct, sync, buffers, offset, length, allow } = self;
        let mut lines = vec![
            "[[export]]".to_owned(),
            format!("shelf = {}", address.shelf),
            format!("slot = {}", address.slot),
            format!("path = {}", text(path)),
        ];
        let mut add = |is_set: bool, line: String| {
            if is_set {
                lines.push(line)
            }
        };
        add(*read_only, "read-only = true".into());
        add(*direct, "direct = true".into());
        add(*sync, "cache = \"writethrough\"".into());
        add(buffers.is_some(), format!("buffers = {}", buffers.unwrap_or_default()));
        add(*offset > 0, format!("offset = {offset}"));
        add(length.is_some(), format!("length = {}", length.unwrap_or_default()));
        add(
            !allow.is_empty(),
            format!("allow = [{}]", allow.iter().map(|mac| text(mac)).collect::<Vec<_>>().join(", ")),
        );
        lines.join("\n") + "\n"
    }
}

/// The options of vblade(8), as getopt reads them.
fn options(words: &[String]) -> Result<Vec<(char, String)>, String> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty() && !letters.starts_with('-'));
        let letters = letters.ok_or_else(|| format!("{word} is no option of vblade"))?;
        for (at, letter) in letters.char_indices() {
            match letter {
                'd' | 's' | 'r' => found.push((letter, String::new())),
                'b' | 'm' | 'o' | 'l' => {
                    let glued = &letters[at + 1..];
                    let next = if glued.is_empty() { words.next().cloned() } else { Some(glued.to_owned()) };
                    found.push((letter, next.ok_or_else(|| format!("-{letter} lacks its value"))?));
                    break;
                }
                _ => return Err(format!("-{letter} is no option of vblade")),
            }
        }
    }
    Ok(found)
}

fn sectors(option: &str, number: &str) -> Result<u64, String> {
    let sectors = number.parse().ok().filter(|sectors| *sectors <= i64::MAX as u64 / 512);
    sectors.ok_or_else(|| format!("{option} {number} is no number of sectors"))
}

/// Upper or lower case, with or without colons.
fn mac_address(text: &str) -> Result<String, String> {
    let digits: Vec<char> = text.chars().filter(|letter| *letter != ':').collect();
    if digits.len() != 12 || !digits.iter().all(char::is_ascii_hexdigit) {
        return Err(format!("-m {text} is no MAC address"));
    }
    let pairs: Vec<String> =
        digits.chunks(2).map(|pair| pair.iter().collect::<String>().to_ascii_lowercase()).collect();
    let mac = pairs.join(":");
    station(&mac).map_err(|reason| format!("-m {text}: {reason}"))?;
    Ok(mac)
}

/// For a comment or a note: on one line whatever is in it.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostFiles, parse};
    use crate::engine::durability::CacheMode;
    use crate::settings::Settings;

    /// What files of this text become, and the settings that this makes.
    fn converted(files: &[&str]) -> (Imported, Settings) {
        let blades = files.iter().enumerate().map(|(n, text)| (format!("{n}.conf"), parse_fragment(text))).collect();
        let imported = convert(blades);
        let settings = parse(&imported.text, Path::new("/t"), &HostFiles).unwrap_or_else(|error| {
            panic!("{error}\n{}", imported.text);
        });
        (imported, settings)
    }

    const PLAIN: &str = "shelf=10\nslot=3\nnetif=em3\nfilename=/dev/mapper/export\n";

    #[test]
    fn every_option_has_its_key() {
        let (imported, settings) = converted(&[
            "# a comment\n shelf=14\nslot='2'\nnetif=\"ens3\" # the fast one\nfilename=/srv/my\\ disk.img\n\
             options='-r -m 0211.22334455'\n",
            "shelf=14\nslot=2\nnetif=ens3\nfilename='/srv/my disk.img'\n\
             options='-rds -m 02:11:22:33:44:55,0A11223344FF -b16 -o 8 -l 2048'\nionice='-c2 -n7'\n",
        ]);
        assert_eq!(settings.interfaces, ["ens3"]);
        let [export] = &settings.exports[..] else { panic!("{}", imported.text) };
        assert_eq!((export.address, export.path.to_str()), (Address::new(14, 2), Some("/srv/my disk.img")));
        assert_eq!((export.read_only, export.direct, export.cache), (true, true, CacheMode::Writethrough));
        assert_eq!((export.buffers, export.offset, export.length), (16, 8, Some(2048)));
        let allow: Vec<_> = export.allow.iter().map(ToString::to_string).collect();
        assert_eq!(allow, ["02:11:22:33:44:55", "0a:11:22:33:44:ff"]);
        assert_eq!(imported.left_out, 1);
        assert_eq!(imported.notes[0], "0.conf: left out: -m 0211.22334455 is no MAC address");
        assert!(imported.notes[1].contains("1.conf: ionice -c2 -n7 has no counterpart"), "{:?}", imported.notes);
    }

    #[test]
    fn one_export_on_two_interfaces_is_one() {
        let other = PLAIN.replace("em3", "em4");
        let (imported, settings) = converted(&[PLAIN, &other]);
        assert_eq!((settings.exports.len(), &settings.interfaces[..]), (1, &["em3".to_owned(), "em4".to_owned()][..]));
        assert_eq!((imported.left_out, imported.notes.len()), (0, 0));
        // But one that was on one of them only is on both now, and that is told.
        let third = other.replace("slot=3", "slot=4").replace("export", "other");
        let (imported, settings) = converted(&[PLAIN, &third]);
        assert_eq!((settings.exports.len(), imported.left_out), (2, 0));
        assert!(imported.notes[0].contains("every export is on all of the interfaces"), "{:?}", imported.notes);
    }

    #[test]
    fn what_cannot_be_taken_over_is_told_and_left_out() {
        for (file, part) in [
            (PLAIN.replace("slot=3\n", ""), "slot is not set"),
            (PLAIN.replace("slot=3", "slot=255"), "slot 255 is out of range"),
            (PLAIN.replace("slot=3", "slot=$((1+2))"), "line 2: $ is for the shell to expand"),
            (PLAIN.replace("slot=3", "slot=3; reboot"), "line 2: ; is for the shell"),
            (PLAIN.replace("slot=3", "slot=3 reboot"), "line 2: there are words behind the value"),
            (PLAIN.replace("slot=3", "slot='3"), "line 2: a quote is not closed"),
            (PLAIN.replace("slot=3", "echo"), "line 2: is no assignment"),
            (PLAIN.replace("slot=3", "sloth=3"), "line 2: sloth means nothing to vblade"),
            (PLAIN.replace("em3", "em*"), "em* is no name of an interface"),
            (PLAIN.replace("export", "*"), "would be taken for a pattern"),
            (format!("{PLAIN}options=-x"), "-x is no option of vblade"),
            (format!("{PLAIN}options=-b"), "-b lacks its value"),
            (format!("{PLAIN}options='-o -1'"), "-o -1 is no number of sectors"),
            // The example of vblade's manual is the address of a group, which sends nothing.
            (format!("{PLAIN}options='-m 11:22:33:44:55:66'"), "it is no address of a single station"),
        ] {
            let (imported, settings) = converted(&[&file]);
            assert_eq!((settings.exports.len(), imported.left_out), (0, 1), "{file}");
            assert!(imported.notes[0].contains(part), "{file}: {:?}", imported.notes);
            assert!(imported.text.contains(part), "{}", imported.text);
        }
        let elsewhere = PLAIN.replace("slot=3", "slot=4");
        let (imported, settings) = converted(&[PLAIN, &elsewhere, &PLAIN.replace("export", "other")]);
        assert_eq!((settings.exports.len(), imported.left_out), (1, 2));
        assert!(imported.notes[0].contains("/dev/mapper/export is e10.3 already, and one of them could write"));
        assert!(imported.notes[1].contains("e10.3 is another export already"), "{:?}", imported.notes);
    }

    #[test]
    fn numbers_that_do_not_fit_are_moved_to_the_next_that_does() {
        let (imported, settings) = converted(&[&format!("{PLAIN}options='-b 1 -l 0'")]);
        assert_eq!((settings.exports[0].buffers, settings.exports[0].length), (2, None));
        assert_eq!(imported.notes, ["0.conf: -b 1 became buffers = 2; it goes from 2 to 1024"]);
    }

    #[test]
    fn folders_of_both_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("demo.conf"), PLAIN).unwrap();
        fs::write(path("skeleton.conf"), "# shelf=\n\n# slot=\n").unwrap();
        fs::write(path("notes.txt"), "no configuration").unwrap();
        let persist = path("vblades").join("e1.2");
        fs::create_dir_all(persist.join("env")).unwrap();
        fs::create_dir_all(persist.join("macs")).unwrap();
        for (name, value) in [("SHELF", "1\n"), ("SLOT", "2"), ("NETIF", "em3"), ("SOURCE", "/dev/sdb")] {
            fs::write(persist.join("env").join(name), value).unwrap();
        }
        fs::write(persist.join("macs/021122334455"), "").unwrap();
        fs::create_dir_all(path("vblades/e1.3/env")).unwrap();
        let imported = import(&[folder.path().to_owned(), path("vblades")]).unwrap();
        let settings = parse(&imported.text, Path::new("/t"), &HostFiles).unwrap();
        let devices: Vec<_> = settings.exports.iter().map(|export| export.address.to_string()).collect();
        assert_eq!(devices, ["e10.3", "e1.2"]);
        assert_eq!(settings.exports[1].allow.len(), 1);
        assert_eq!(imported.left_out, 1);
        assert!(imported.notes[0].contains("vblades/e1.3: left out: SHELF: No such file"), "{:?}", imported.notes);
    }
}
