//! Debian's kernel as a virtual machine needs it: unpacked from its package, not installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::said;
use crate::net::tool;

/// The package that names the newest kernel of this release.
const NEWEST: &str = "linux-image-amd64";

/// Where a bzImage says how much setup code precedes the kernel, and where its packed kernel lies and ends
/// (Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// A kernel that was unpacked.
pub(super) struct Kernel {
    /// The kernel without its unpacker, which would take seconds under emulation.
    pub vmlinux: PathBuf,
    /// Its version, as `uname -r` says it.
    pub version: String,
    modules: PathBuf,
}

impl Kernel {
    /// Fetches the kernel with apt, unless that was done before. To be called by one process at a time.
    pub fn fetch(folder: &Path) -> Kernel {
        let package = newest_package().or_else(|| update().and_then(|()| newest_package()));
        let package = package.unwrap_or_else(|| panic!("apt knows no {NEWEST}; its sources must have Debian's main"));
        let version = package.strip_prefix("linux-image-").expect("kernel packages are named so").to_owned();
        let unpacked = folder.join(&package);
        if !unpacked.exists() {
            let work = tempfile::tempdir_in(folder).expect("a temporary folder");
            // What apt's lists name may be gone from the archive since.
            let download = || apt(tool("apt-get").args(["-qq", "download", &package]).current_dir(work.path()));
            let downloaded = download().or_else(|| update().and_then(|()| download()));
            assert!(downloaded.is_some(), "apt-get download {package} failed, see above");
            let archive = fs::read_dir(work.path()).expect("a folder").next().expect("apt's download").expect("a file");
            let root = work.path().join("root");
            said(tool("dpkg").arg("-x").arg(archive.path()).arg(&root));
            said(tool("depmod").arg("-b").arg(&root).arg(&version));
            unpack_vmlinux(&root.join("boot").join(format!("vmlinuz-{version}")), &root.join("vmlinux"));
            fs::rename(&root, &unpacked).expect("renaming within a folder");
        }
        Kernel { vmlinux: unpacked.join("vmlinux"), modules: unpacked.join("lib/modules").join(&version), version }
    }

    /// Copies modules and all they need into a root, with the lists by which modprobe finds them there.
    pub fn install_modules(&self, wanted: &[&str], root: &Path) {
        let list = |name: &str| fs::read_to_string(self.modules.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let dependencies = list("modules.dep");
        let mut chosen = BTreeSet::new();
        for name in wanted {
            let line = dependencies.lines().find(|line| line.split(':').next().is_some_and(|path| stem(path) == *name));
            let line = line.unwrap_or_else(|| panic!("kernel {} has no module {name}", self.version));
            chosen.extend(line.split([':', ' ']).filter(|path| !path.is_empty()));
        }
        let target = root.join("lib/modules").join(&self.version);
        for path in &chosen {
            let place = target.join(path);
            fs::create_dir_all(place.parent().expect("a folder of modules")).expect("a folder");
            fs::copy(self.modules.join(path), place).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        let keep = |text: &str, is_kept: &dyn Fn(&str) -> bool| -> String {
            text.lines().filter(|line| is_kept(line)).flat_map(|line| [line, "\n"]).collect()
        };
        let names: BTreeSet<String> = chosen.iter().map(|path| stem(path)).collect();
        let needed = keep(&dependencies, &|line| line.split(':').next().is_some_and(|path| chosen.contains(path)));
        // alias PATTERN MODULE
        let last_is_chosen = |line: &str| line.split(' ').next_back().is_some_and(|name| names.contains(name));
        for (name, text) in [
            ("modules.dep", needed),
            ("modules.alias", keep(&list("modules.alias"), &last_is_chosen)),
            ("modules.symbols", keep(&list("modules.symbols"), &last_is_chosen)),
            ("modules.builtin", list("modules.builtin")),
        ] {
            fs::write(target.join(name), text).expect("a list of modules");
        }
    }
}

/// The name of a module by its file, as other lists have it.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().expect("a split has a part");
    file.split(".ko").next().expect("a split has a part").replace('-', "_")
}

fn newest_package() -> Option<String> {
    let depends = apt(tool("apt-cache").args(["depends", NEWEST]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))?;
    Some(format!("linux-image-{name}"))
}

fn update() -> Option<()> {
    apt(tool("apt-get").args(["-qq", "update"])).map(drop)
}

/// Runs a program of apt's; none when it fails, with its complaint in the test's output.
fn apt(command: &mut Command) -> Option<String> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        eprintln!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(text)
}

/// Writes the ELF file inside a bzImage.
fn unpack_vmlinux(image: &Path, vmlinux: &Path) {
    let bytes = fs::read(image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let start = (usize::from(bytes[SETUP_SECTORS]) + 1) * 512 + number(PAYLOAD_OFFSET);
    // Behind the packed kernel is its unpacked length.
    let packed = &bytes[start..start + number(PAYLOAD_LENGTH) - 4];
    assert!(packed.starts_with(b"\xfd7zXZ\0"), "{} is not packed by xz", image.display());
    let packed_file = vmlinux.with_extension("xz");
    fs::write(&packed_file, packed).expect("disk space for a kernel");
    let output = fs::File::create(vmlinux).expect("disk space for a kernel");
    let unpacked = tool("xz").arg("-dc").arg(&packed_file).stdout(output).status().expect("xz");
    assert!(unpacked.success(), "{} does not unpack", image.display());
    fs::remove_file(packed_file).expect("a file of ours");
}
