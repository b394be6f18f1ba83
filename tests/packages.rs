//! What is packaged beside the programs: units, manual pages, completions, default configuration, and the lists of files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aoe_tests::net::{OURS, bin_dir, requires, tool};
use aoe_tests::packaging::{Package, write_all};
use serde_json::Value;

/// The date of pages in tests.
const DATE: &str = "2026-11-22";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder is in the tree")
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs a program that has nothing to say when all is well.
fn is_content(command: &mut Command) {
    let said = output(command);
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.trim().is_empty(), "{command:?}: {text}");
}

/// The units, with our programs where they are built; systemd looks whether they are there.
fn units(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("systemd")).expect("units").map(|entry| entry.expect("an entry").path());
    let units = entries.filter(|path| path.extension().is_some_and(|extension| extension == "service"));
    let place = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a unit");
        let copy = folder.join(path.file_name().expect("a file has a name"));
        fs::write(&copy, text.replace("/usr/bin/aoe-", &format!("{}/aoe-", bin_dir().display())))
            .expect("a file of ours");
        copy
    };
    let units: Vec<PathBuf> = units.map(place).collect();
    assert_eq!(units.len(), 3);
    units
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    requires(&["systemd-analyze"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    is_content(tool("systemd-analyze").args(["verify", "--man=no"]).args(units(folder.path())));
}

/// What a service that somebody has taken over could do to its host, as systemd sees it: 0 is nothing, 10 everything.
#[test]
fn the_services_are_exposed_no_more_than_they_need() {
    requires(&["systemd-analyze"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    units(folder.path());
    for (unit, tenths) in [("aoe-target.service", 20), ("aoe-attach@.service", 50)] {
        let mut command = tool("systemd-analyze");
        command.args(["security", "--offline=true", &format!("--threshold={tenths}")]).arg(folder.path().join(unit));
        let said = output(command.env("SYSTEMD_COLORS", "0"));
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(text.contains("Overall exposure level"), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{unit} is more exposed than {}.{}:\n{text}", tenths / 10, tenths % 10);
    }
}

#[test]
fn the_configuration_that_is_installed_is_right() {
    let file = |name: &str| root().join("systemd").join(name);
    for (program, arguments, name) in [
        ("aoe-target", &["serve", "--check", "--config"][..], "target.toml"),
        ("aoe-attach", &["--check", "--config"], "attach.toml"),
    ] {
        let said = output(Command::new(bin_dir().join(program)).args(arguments).arg(file(name)));
        assert!(said.status.success(), "{program}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

/// The files below a folder, by their paths from there.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut to_visit = vec![folder.to_owned()];
    while let Some(path) = to_visit.pop() {
        if path.is_dir() {
            to_visit.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else {
            found.insert(path.strip_prefix(folder).expect("it is below").display().to_string());
        }
    }
    found
}

#[test]
fn every_program_and_file_has_a_page() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_all(folder.path(), DATE).expect("pages");
    let found = files(folder.path());
    let has = |name: &str| found.iter().any(|path| Path::new(path).file_name().is_some_and(|file| file == name));
    for program in OURS {
        assert!(has(&format!("{program}.8")), "{program} has no page in {found:?}");
    }
    for page in ["aoe-target-export.8", "aoe-target-serve.8", "aoe-target.toml.5", "aoe-attach.toml.5"] {
        assert!(has(page), "no {page} in {found:?}");
    }
    // What was there before goes.
    let old = folder.path().join("aoe-target/man8/old.8");
    fs::write(&old, "").expect("a file of ours");
    write_all(folder.path(), DATE).expect("pages");
    assert_eq!(files(folder.path()), found);
}

#[test]
fn the_pages_are_set_without_a_complaint() {
    requires(&["groff", "mandoc"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_all(folder.path(), DATE).expect("pages");
    let pages: Vec<_> = files(folder.path()).into_iter().filter(|path| path.contains("/man")).collect();
    assert!(pages.len() > OURS.len());
    for page in pages.iter().map(|page| folder.path().join(page)) {
        let said = output(tool("groff").args(["-man", "-ww", "-Tutf8"]).arg(&page));
        let complaint = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && complaint.is_empty(), "{}: {complaint}", page.display());
        let text = fs::read_to_string(&page).expect("a page");
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "\"SEE ALSO\""] {
            assert!(text.contains(&format!(".SH {part}\n")), "no {part} in {}", page.display());
        }
        is_content(tool("mandoc").args(["-Tlint", "-Werror"]).arg(&page));
    }
}

#[test]
fn the_shells_complete_what_the_programs_take() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_all(folder.path(), DATE).expect("completions");
    let in_folder = |shell: &str| {
        let all = files(folder.path()).into_iter().filter(|path| path.contains(&format!("/{shell}/")));
        all.map(|path| folder.path().join(path)).collect::<Vec<_>>()
    };
    for (shell, option) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let scripts = in_folder(shell);
        assert_eq!(scripts.len(), OURS.len(), "a completion for each program: {scripts:?}");
        let is_there = Command::new(shell).arg("--version").output().is_ok();
        assert!(is_there || shell != "bash", "no bash");
        if is_there {
            scripts.iter().for_each(|script| is_content(Command::new(shell).arg(option).arg(script)));
        }
    }
    // As the shell asks when somebody presses the tabulator key.
    for (program, typed, expected) in [
        ("aoe-target", "aoe-target export --inter", "--interface"),
        ("aoe-target", "aoe-target export --cache write", "writeback"),
        ("aoe-attach", "aoe-attach --dead", "--dead-after"),
        ("fence_aoe", "fence_aoe --action o", "off"),
    ] {
        let script = in_folder("bash").into_iter().find(|script| script.ends_with(format!("{program}.bash")));
        let question = format!(
            "source {}; COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _$(complete -p {program} | sed 's/.*-F _\\([^ ]*\\).*/\\1/') {program} \"${{COMP_WORDS[-1]}}\" \
             \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.expect("a completion").display()
        );
        let said = output(Command::new("bash").args(["-c", &question]));
        let answer = String::from_utf8_lossy(&said.stdout);
        assert!(
            answer.lines().any(|line| line == expected),
            "{typed}: {answer}{}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
}

/// What a package has, as (source, place, mode), by the definition for a packager.
fn assets(package: Package, packager: &str) -> BTreeSet<[String; 3]> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--locked", "--format-version", "1"]).current_dir(root());
    let metadata: Value = serde_json::from_slice(&output(&mut command).stdout).expect("what cargo says");
    let packages = metadata["packages"].as_array().expect("packages");
    let found = packages.iter().find(|found| found["name"] == package.name()).expect("the package");
    let list = found["metadata"][packager]["assets"].as_array().expect("assets");
    let text = |value: &Value| value.as_str().expect("a text").trim_start_matches('/').to_owned();
    let of_list = |asset: &Value| ["0", "1", "2"].map(|at| text(&asset[at.parse::<usize>().expect("a number")]));
    let of_table = |asset: &Value| ["source", "dest", "mode"].map(|key| text(&asset[key]));
    list.iter().map(|asset| if asset.is_array() { of_list(asset) } else { of_table(asset) }).collect()
}

#[test]
fn the_packages_have_all_programs_and_both_kinds_the_same_files() {
    let mut programs = BTreeSet::new();
    for package in Package::ALL {
        let [deb, rpm] = ["deb", "generate-rpm"].map(|packager| assets(package, packager));
        for [source, place, _] in &deb {
            if place == "usr/bin/" {
                programs.insert(source.trim_start_matches("target/release/").to_owned());
            } else if let Some(committed) = source.strip_prefix("../") {
                assert!(root().join(committed).is_file(), "{source} of {package:?}");
            }
        }
        // Debian has a place of its own for what zsh completes.
        let as_elsewhere = |[source, place, mode]: &[String; 3]| {
            [source.clone(), place.replace("vendor-completions", "site-functions"), mode.clone()]
        };
        assert_eq!(deb.iter().map(as_elsewhere).collect::<BTreeSet<_>>(), rpm, "{package:?}");
    }
    assert_eq!(programs, OURS.map(str::to_owned).into());
}
