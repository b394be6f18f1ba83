//! What a guest starts from: an archive in memory that finds the root disk, the root disk, and a disk with our programs.
//!
//! The root disk holds Debian packages and both kernels' modules. It is read-only and shared by all guests; each lays a
//! memory filesystem over it. It is made once; our programs are on a disk of their own, as they change often.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::accelerator::Accelerator;
use super::apt::{self, Apt, Suite};
use super::kernel::Kernel;
use super::said;
use crate::net::{OURS, bin_dir, find_tool, tool};

/// Modules for the way to the root disk.
const BOOT_MODULES: [&str; 5] = ["virtio_mmio", "virtio_blk", "ext4", "crc32c_generic", "overlay"];

/// Modules for what the tests are about.
pub(super) const MODULES: [&str; 27] = [
    "virtio_net",
    "virtio_console",
    "ext4",
    "crc32c_generic",
    "aoe",
    "nbd",
    "ocfs2",
    "ocfs2_dlmfs",
    "ocfs2_stack_o2cb",
    "gfs2",
    "dlm",
    "drbd",
    "fuse",
    "raid1",
    "dm_mod",
    "dm_flakey",
    "loop",
    "nfsd",
    "nfsv4",
    "sctp",
    "configfs",
    "e1000",
    "8021q",
    "macsec",
    "gcm",
    "ctr",
    "ghash_generic",
];

/// Packages on the root disk, with all they depend on.
pub(super) const PACKAGES: [&str; 36] = [
    // A system to work in.
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "debianutils",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "kmod",
    "mawk",
    "mount",
    "netbase",
    "perl-base",
    "procps",
    "sed",
    "tar",
    "util-linux",
    // What the scenarios are about.
    "aoetools",
    "corosync",
    "dlm-controld",
    "drbd-utils",
    "e2fsprogs",
    "ethtool",
    "fio",
    "gfs2-utils",
    "glusterfs-server",
    "lvm2",
    "mdadm",
    "nbd-client",
    "nfs-kernel-server",
    "ocfs2-tools",
    "socat",
];

/// The name by which a guest finds the disk with our programs.
pub(super) const OURS_SERIAL: &str = "ours";

/// Files that a guest boots from.
pub(super) struct Image {
    pub kernel: Kernel,
    pub initramfs: PathBuf,
    pub root: PathBuf,
    pub accelerator: Accelerator,
}

impl Image {
    /// The image with the kernel of a suite. Apt takes a second to tell whether there is a newer one, so it is asked
    /// once, however many machines boot.
    pub fn of(suite: Suite) -> &'static Image {
        static IMAGES: OnceLock<[Image; 2]> = OnceLock::new();
        let [own, backports] = IMAGES.get_or_init(Image::build);
        match suite {
            Suite::Own => own,
            Suite::Backports => backports,
        }
    }

    /// Builds what is missing or out of date; one process at a time does it.
    fn build() -> [Image; 2] {
        let folder = cache();
        fs::create_dir_all(&folder).expect("a folder for virtual machines");
        let lock = File::create(folder.join("lock")).expect("a lock file");
        lock.lock().expect("locking a file");
        let kernels = [Suite::Own, Suite::Backports].map(|suite| Kernel::fetch(&folder, suite));
        let key = key(&kernels);
        let root = folder.join(format!("root-{key:016x}"));
        let initramfs =
            kernels.each_ref().map(|kernel| folder.join(format!("initramfs-{key:016x}-{}", kernel.version)));
        if !root.exists() || !initramfs.iter().all(|path| path.exists()) {
            for entry in fs::read_dir(&folder).expect("a folder").filter_map(Result::ok) {
                let name = entry.file_name();
                if ["initramfs-", "root-"].iter().any(|old| name.to_string_lossy().starts_with(old)) {
                    fs::remove_file(entry.path()).expect("a file of ours");
                }
            }
            let work = tempfile::tempdir_in(&folder).expect("a temporary folder");
            for (kernel, archive) in kernels.iter().zip(&initramfs) {
                build_initramfs(kernel, work.path(), archive);
            }
            build_root(&folder, &kernels, work.path(), &root);
        }
        let accelerator = Accelerator::choose(&folder, &kernels[0].vmlinux, &initramfs[0]);
        let mut initramfs = initramfs.into_iter();
        kernels.map(|kernel| Image {
            kernel,
            initramfs: initramfs.next().expect("one for each kernel"),
            root: root.clone(),
            accelerator,
        })
    }
}

/// Where kernels and images are kept.
pub(super) fn cache() -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder is in the tree");
    tree.join(".build/vm")
}

/// A number that differs when the images would.
fn key(kernels: &[Kernel]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (include_str!("image.rs"), include_str!("kernel.rs"), include_str!("apt.rs"), INIT).hash(&mut hasher);
    kernels.iter().for_each(|kernel| kernel.version.hash(&mut hasher));
    hasher.finish()
}

const INIT: &str = include_str!("init");
const AGENT: &str = include_str!("agent");
pub(super) const LISTEN: &str = include_str!("listen");

/// Folders that are links into /usr.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

fn build_root(folder: &Path, kernels: &[Kernel], work: &Path, image: &Path) {
    let root = work.join("root");
    for name in LINKS {
        fs::create_dir_all(root.join("usr").join(name)).expect("a folder");
        symlink(Path::new("usr").join(name), root.join(name)).expect("a link");
    }
    let apt = Apt::new(folder, Suite::Own);
    apt::unpack(&apt.download(&PACKAGES), &root);
    apt.forget();
    kernels.iter().for_each(|kernel| kernel.install_modules(&MODULES, &root));
    // What the packages' own scripts would have done.
    for folder in ["proc", "sys", "dev", "run", "tmp", "mnt", "usr/local"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for (link, place) in [("/proc/self/mounts", "etc/mtab"), ("/run", "var/run"), ("/run/lock", "var/lock")] {
        let place = root.join(place);
        let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir(&place));
        symlink(link, &place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
    }
    symlink("mawk", root.join("usr/bin/awk")).expect("a link named awk");
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").expect("a file of ours");
    for list in ["passwd", "group"] {
        let original = root.join(format!("usr/share/base-passwd/{list}.master"));
        fs::copy(&original, root.join("etc").join(list)).unwrap_or_else(|e| panic!("{}: {e}", original.display()));
    }
    // Python programs, which GlusterFS starts with, take half a minute under emulation to be compiled.
    let python = "python3 -m compileall -q /usr/lib/python3* /usr/lib/*/glusterfs/python";
    said(tool("chroot").arg(&root).args(["/usr/bin/bash", "-c", python]));
    link_busybox(&root.join("usr"));
    make_image(&root, work, image);
}

/// Gives busybox the name of everything that is not there.
fn link_busybox(usr: &Path) {
    let busybox = "/usr/bin/busybox";
    for name in said(tool("busybox").arg("--list")).lines() {
        if !["bin", "sbin"].iter().any(|folder| usr.join(folder).join(name).symlink_metadata().is_ok()) {
            symlink(busybox, usr.join("bin").join(name)).expect("a link");
        }
    }
}

fn build_initramfs(kernel: &Kernel, work: &Path, archive: &Path) {
    let root = work.join(format!("initramfs-{}", kernel.version));
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

/// Makes the disk with our programs, for a guest's /usr/local.
pub(super) fn build_ours(image: &Path) {
    let work = tempfile::tempdir_in(image.parent().expect("a folder of the image")).expect("a temporary folder");
    let root = work.path().join("local");
    for folder in ["bin", "sbin"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for program in OURS {
        let found = bin_dir().join(program);
        assert!(found.is_file(), "{} is not built; run tests/run, or cargo build --bins", found.display());
        fs::copy(&found, root.join("bin").join(program)).expect("copying a program");
    }
    write_program(&root.join("sbin/agent"), AGENT);
    write_program(&root.join("sbin/listen"), LISTEN);
    make_image(&root, work.path(), image);
}

/// Makes an ext4 image of a folder.
pub(super) fn make_image(root: &Path, work: &Path, image: &Path) {
    // Room for metadata; holes cost nothing.
    let bytes = tree_bytes(root);
    let size = format!("{}M", ((bytes + bytes / 4) >> 20) + 32);
    let built = work.join("image.ext4");
    said(tool("mke2fs").args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(root).arg(&built).arg(size));
    fs::rename(built, image).expect("renaming within a filesystem");
}

pub(super) fn write_program(path: &Path, text: &str) {
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
