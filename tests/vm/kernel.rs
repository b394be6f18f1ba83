//! Debian's kernels as a virtual machine needs them: unpacked from their packages, not installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::apt::{self, Apt, Suite};
use super::said;
use crate::net::tool;

/// The package that names the newest kernel of a suite.
const NEWEST: &str = "linux-image-amd64";

/// What kernel packages' names begin with.
const PREFIX: &str = "linux-image-";

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
    pub fn fetch(folder: &Path, suite: Suite) -> Kernel {
        let apt = Apt::new(folder, suite);
        let version = apt.stands_for(NEWEST, PREFIX);
        let package = format!("{PREFIX}{version}");
        let unpacked = folder.join(&package);
        if !unpacked.exists() {
            let work = tempfile::tempdir_in(folder).expect("a temporary folder");
            let root = work.path().join("root");
            fs::create_dir_all(&root).expect("a folder");
            let place = work.path().join("package");
            fs::create_dir_all(&place).expect("a folder");
            apt::unpack(&[apt.download_alone(&package, &place)], &root);
            said(tool("depmod").arg("-b").arg(&root).arg(&version));
            unpack_vmlinux(&root.join("boot").join(format!("vmlinuz-{version}")), &root.join("vmlinux"));
            fs::rename(&root, &unpacked).expect("renaming within a folder");
        }
        Kernel { vmlinux: unpacked.join("vmlinux"), modules: unpacked.join("lib/modules").join(&version), version }
    }

    /// Copies modules and all they need into a root, with the lists by which modprobe finds them there.
    pub fn install_modules(&self, wanted: &[&str], root: &Path) {
        let [dependencies, builtin] = ["modules.dep", "modules.builtin"]
            .map(|list| fs::read_to_string(self.modules.join(list)).unwrap_or_else(|e| panic!("{list}: {e}")));
        let mut chosen = BTreeSet::new();
        for name in wanted {
            if builtin.lines().any(|path| stem(path) == *name) {
                continue;
            }
            let line = dependencies.lines().find(|line| line.split(':').next().is_some_and(|path| stem(path) == *name));
            let line = line.unwrap_or_else(|| panic!("kernel {} has no module {name}", self.version));
            chosen.extend(line.split([':', ' ']).filter(|path| !path.is_empty()));
        }
        let target = root.join("lib/modules").join(&self.version);
        for path in &chosen {
            let place = target.join(path);
            fs::create_dir_all(place.parent().expect("a folder of modules")).expect("a folder");
            fs::copy(self.modules.join(path), &place).unwrap_or_else(|e| panic!("{path}: {e}"));
            // Unpacking takes long under emulation.
            if path.ends_with(".xz") {
                said(tool("xz").arg("-d").arg(&place));
            }
        }
        for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            fs::copy(self.modules.join(list), target.join(list)).unwrap_or_else(|e| panic!("{list}: {e}"));
        }
        said(tool("depmod").arg("-b").arg(root).arg(&self.version));
    }
}

/// The name of a module by its file, as other lists have it.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().expect("a split has a part");
    file.split(".ko").next().expect("a split has a part").replace('-', "_")
}

/// Writes the ELF file inside a bzImage.
fn unpack_vmlinux(image: &Path, vmlinux: &Path) {
    let bytes = fs::read(image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let start = (usize::from(bytes[SETUP_SECTORS]) + 1) * 512 + number(PAYLOAD_OFFSET);
    // Behind the packed kernel is its unpacked length.
    let packed = &bytes[start..start + number(PAYLOAD_LENGTH) - 4];
    let unpacker = if packed.starts_with(b"\xfd7zXZ\0") {
        "xz"
    } else if packed.starts_with(b"\x28\xb5\x2f\xfd") {
        "zstd"
    } else {
        panic!("{} is packed neither by xz nor by zstd", image.display())
    };
    let packed_file = vmlinux.with_extension("packed");
    fs::write(&packed_file, packed).expect("disk space for a kernel");
    let [input, output] =
        [fs::File::open(&packed_file), fs::File::create(vmlinux)].map(|file| file.expect("a file of ours"));
    let unpacked = tool(unpacker).arg("-dc").stdin(input).stdout(output).status().expect("an unpacker");
    assert!(unpacked.success(), "{} does not unpack", image.display());
    fs::remove_file(packed_file).expect("a file of ours");
}
