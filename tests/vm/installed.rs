//! An installed Debian: systemd is its first program, packages come and go by dpkg, and what it writes to its disk is
//! there when it boots again.
//!
//! It is installed once by mmdebstrap, from where this machine's packages come; each guest has a copy.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::apt;
use super::image::{LISTEN, MODULES, cache, make_image, write_program};
use super::kernel::Kernel;
use super::said;
use crate::net::tool;

/// What is installed beside what Debian calls essential.
const PACKAGES: &str = "e2fsprogs,iproute2,kmod,libgcc-s1,mount,procps,systemd,systemd-sysv,udev";

/// Units that take seconds under emulation, and that nothing here needs.
const MASKED: [&str; 25] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-tracing.mount",
    "systemd-firstboot.service",
    "systemd-logind.service",
    "systemd-network-generator.service",
    "systemd-networkd-wait-online.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// Takes commands of the test, from the moment there are devices until the machine is off.
const AGENT: &str = "\
[Unit]
Description=Commands of the test
DefaultDependencies=no
After=systemd-udevd.service
[Service]
ExecStart=/usr/local/sbin/listen
Restart=always
[Install]
WantedBy=sysinit.target
";

/// All cards are up, without addresses: AoE needs none.
const NETWORK: &str = "\
ACTION==\"add\", SUBSYSTEM==\"net\", KERNEL==\"eth*\", RUN+=\"/bin/ip link set %k addrgenmode none up\"
";

/// Programs that make units from files this system does not have. Each costs a moment at every change of units.
const GENERATORS: [&str; 12] = [
    "bless-boot",
    "cryptsetup",
    "debug",
    "getty",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "run",
    "system-update",
    "sysv",
    "veritysetup",
];

/// Makes a disk with the system for one guest, unless there is one.
pub(super) fn provide(disk: &Path, kernel: &Kernel) {
    if !disk.exists() {
        said(tool("cp").arg("--sparse=always").arg(image(kernel)).arg(disk));
    }
}

/// The image that is copied.
fn image(kernel: &Kernel) -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = cache();
        let lock = File::create(folder.join("lock")).expect("a lock file");
        lock.lock().expect("locking a file");
        let mut hasher = DefaultHasher::new();
        (include_str!("installed.rs"), include_str!("image.rs"), LISTEN, &kernel.version).hash(&mut hasher);
        let image = folder.join(format!("installed-{:016x}", hasher.finish()));
        if !image.exists() {
            for entry in fs::read_dir(&folder).expect("a folder").filter_map(Result::ok) {
                if entry.file_name().to_string_lossy().starts_with("installed-") {
                    fs::remove_file(entry.path()).expect("a file of ours");
                }
            }
            let work = tempfile::tempdir_in(&folder).expect("a temporary folder");
            install(kernel, work.path(), &image);
        }
        image
    })
}

fn install(kernel: &Kernel, work: &Path, image: &Path) {
    let root = work.join("root");
    let (codename, uri) = apt::release();
    let mut bootstrap = tool("mmdebstrap");
    bootstrap.args(["--quiet", "--variant=essential", "--include", PACKAGES]);
    // Nobody needs half an installation after a power cut.
    bootstrap.arg("--dpkgopt=force-unsafe-io");
    for left_out in ["doc", "man", "info", "locale"] {
        bootstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    said(bootstrap.arg(&codename).arg(&root).arg(format!("deb {uri} {codename} main")));
    kernel.install_modules(&MODULES, &root);
    write_program(&root.join("usr/local/sbin/listen"), LISTEN);
    let units = root.join("etc/systemd/system");
    fs::write(units.join("agent.service"), AGENT).expect("a file of ours");
    let generators = root.join("etc/systemd/system-generators");
    fs::create_dir_all(&generators).expect("a folder");
    let generators = GENERATORS.map(|name| generators.join(format!("systemd-{name}-generator")));
    for nothing in MASKED.map(|name| units.join(name)).iter().chain(&generators) {
        let _ = fs::remove_file(nothing);
        symlink("/dev/null", nothing).unwrap_or_else(|e| panic!("{}: {e}", nothing.display()));
    }
    fs::write(root.join("etc/udev/rules.d/70-cards.rules"), NETWORK).expect("a file of ours");
    said(tool("chroot").arg(&root).args(["systemctl", "enable", "agent"]));
    make_image(&root, work, image);
}
