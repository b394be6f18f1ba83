//! What a guest starts from: an archive in memory that finds the root disk, and the root disk.
//!
//! The root disk holds programs of this machine with their libraries, and ours. It is read-only and shared by all
//! guests; each lays a memory filesystem over it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::kernel::Kernel;
use super::said;
use crate::net::{OURS, bin_dir, find_tool, tool};

/// Modules for the way to the root disk.
const BOOT_MODULES: [&str; 5] = ["virtio_mmio", "virtio_blk", "ext4", "crc32c_generic", "overlay"];

/// Modules for what the tests are about.
const MODULES: [&str; 6] = ["virtio_net", "virtio_console", "ext4", "crc32c_generic", "aoe", "nbd"];

/// Programs taken from this machine. busybox stands in for what is not among them.
const PROGRAMS: [&str; 24] = [
    "bash",
    "ip",
    "cat",
    "stat",
    "sleep",
    "mke2fs",
    "mkfs.ext4",
    "e2fsck",
    "fsck.ext4",
    "fio",
    "nbd-client",
    "lsblk",
    "blockdev",
    "blkdiscard",
    "fstrim",
    "mount",
    "umount",
    "findmnt",
    "sha256sum",
    "cmp",
    "dd",
    "timeout",
    "cp",
    "sync",
];

/// Those of aoetools, which are called by their full paths: some have the names of ours.
const AOETOOLS: [&str; 4] = ["aoe-stat", "aoe-sancheck", "aoe-revalidate", "aoe-discover"];

/// Files that a guest boots from.
pub(super) struct Image {
    pub kernel: Kernel,
    pub initramfs: PathBuf,
    pub root: PathBuf,
}

impl Image {
    /// Builds what is missing or out of date; one process at a time does it.
    pub fn build() -> Image {
        let folder = cache();
        fs::create_dir_all(&folder).expect("a folder for virtual machines");
        let lock = File::create(folder.join("lock")).expect("a lock file");
        lock.lock().expect("locking a file");
        let kernel = Kernel::fetch(&folder);
        let files = root_files();
        let key = key(&kernel, &files);
        let [initramfs, root] = ["initramfs", "root"].map(|name| folder.join(format!("{name}-{key:016x}")));
        if !initramfs.exists() || !root.exists() {
            for entry in fs::read_dir(&folder).expect("a folder").filter_map(Result::ok) {
                let name = entry.file_name();
                if ["initramfs-", "root-"].iter().any(|old| name.to_string_lossy().starts_with(old)) {
                    fs::remove_file(entry.path()).expect("a file of ours");
                }
            }
            let work = tempfile::tempdir_in(&folder).expect("a temporary folder");
            build_root(&kernel, &files, work.path(), &root);
            build_initramfs(&kernel, work.path(), &initramfs);
        }
        Image { kernel, initramfs, root }
    }
}

/// Where kernels and images are kept.
fn cache() -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder is in the tree");
    tree.join(".build/vm")
}

/// The files of this machine on the root disk, and where they are there.
fn root_files() -> BTreeSet<(PathBuf, PathBuf)> {
    let mut files = BTreeSet::new();
    for program in PROGRAMS.iter().chain(&AOETOOLS) {
        let found = find_tool(program);
        // Some are reached by a link only, and behave by their name.
        files.insert((found.clone(), in_guest(&found)));
        files.extend(libraries(&found));
    }
    for program in OURS {
        let found = bin_dir().join(program);
        assert!(found.is_file(), "{} is not built; run tests/run, or cargo build --bins", found.display());
        files.extend(libraries(&found));
        files.insert((found, Path::new("usr/local/bin").join(program)));
    }
    let settings = Path::new("/etc/mke2fs.conf");
    files.insert((settings.to_owned(), in_guest(settings)));
    files
}

/// The libraries a program needs, and its loader. A script needs none.
fn libraries(program: &Path) -> Vec<(PathBuf, PathBuf)> {
    let listed = tool("ldd").arg(program).output().expect("ldd");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    paths.map(|path| (path.clone(), in_guest(&path))).collect()
}

/// The place of a file relative to the root. The guest has /bin, /lib and the like as links into /usr.
fn in_guest(path: &Path) -> PathBuf {
    let inside = path.strip_prefix("/").expect("an absolute path");
    let top = inside.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
    if LINKS.contains(&top) { Path::new("usr").join(inside) } else { inside.to_owned() }
}

const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A number that differs when the images would.
fn key(kernel: &Kernel, files: &BTreeSet<(PathBuf, PathBuf)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (include_str!("image.rs"), INIT, AGENT, &kernel.version).hash(&mut hasher);
    for (source, place) in files {
        let metadata = fs::metadata(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        (source, place, metadata.len(), changed).hash(&mut hasher);
    }
    hasher.finish()
}

const INIT: &str = include_str!("init");
const AGENT: &str = include_str!("agent");

fn build_root(kernel: &Kernel, files: &BTreeSet<(PathBuf, PathBuf)>, work: &Path, image: &Path) {
    let root = work.join("root");
    for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "usr/local/sbin", "etc", "root"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for folder in ["proc", "sys", "dev", "run", "tmp", "mnt", "var/lib"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for name in LINKS {
        symlink(Path::new("usr").join(name), root.join(name)).expect("a link");
    }
    symlink("/proc/self/mounts", root.join("etc/mtab")).expect("a link");
    kernel.install_modules(&MODULES, &root);
    let mut bytes = tree_bytes(&root);
    for (source, place) in files {
        let place = root.join(place);
        fs::create_dir_all(place.parent().expect("a folder of a file")).expect("a folder");
        bytes += fs::copy(source, &place).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    }
    install_busybox(&root.join("usr/bin"));
    write_program(&root.join("usr/local/sbin/agent"), AGENT);
    // Room for metadata; holes cost nothing.
    let size = format!("{}M", ((bytes + bytes / 4) >> 20) + 32);
    let built = work.join("root.ext4");
    said(tool("mke2fs").args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root).arg(&built).arg(size));
    fs::rename(built, image).expect("renaming within a folder");
}

fn build_initramfs(kernel: &Kernel, work: &Path, archive: &Path) {
    let root = work.join("initramfs");
    fs::create_dir_all(root.join("bin")).expect("a folder");
    // The kernel asks for modules by this name.
    fs::create_dir_all(root.join("sbin")).expect("a folder");
    symlink("/bin/busybox", root.join("sbin/modprobe")).expect("a link");
    fs::copy(find_tool("busybox"), root.join("bin/busybox")).expect("copying busybox");
    kernel.install_modules(&BOOT_MODULES, &root);
    write_program(&root.join("init"), INIT);
    let built = work.join("initramfs.cpio");
    let output = File::create(&built).expect("a file of ours");
    let packed = tool("sh").args(["-c", "find . | busybox cpio -o -H newc"]).current_dir(&root).stdout(output).output();
    assert!(packed.expect("sh").status.success(), "busybox cpio failed");
    fs::rename(built, archive).expect("renaming within a folder");
}

/// Adds busybox, and its name for everything that is not there yet.
fn install_busybox(folder: &Path) {
    let busybox = find_tool("busybox");
    fs::copy(&busybox, folder.join("busybox")).expect("copying busybox");
    let sbin = folder.with_file_name("sbin");
    for name in said(tool("busybox").arg("--list")).lines() {
        let place = folder.join(name);
        if !place.exists() && !sbin.join(name).exists() {
            symlink("/usr/bin/busybox", place).expect("a link");
        }
    }
    symlink("/usr/bin/busybox", sbin.join("modprobe")).expect("a link");
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("a file of ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
}

fn tree_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| {
            let metadata = fs::symlink_metadata(&path).expect("a file of ours");
            if metadata.is_dir() { tree_bytes(&path) } else { metadata.size() }
        })
        .sum()
}
