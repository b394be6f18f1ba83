//! What runs a guest's instructions: the processor itself by KVM, or qemu's emulation.
//!
//! KVM is used where a kernel really boots by it: on a machine that is itself virtual, /dev/kvm may open, and guests hang
//! or qemu crashes. That is tried once after each start of this machine.
#![allow(unsafe_code, reason = "the time stamp counter can only be read by an instruction")]

use std::arch::x86_64::_rdtsc;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::net::tool;

/// How long a kernel may take to its first program by KVM. By emulation it takes 3 s.
const TRIAL: Duration = Duration::from_secs(8);

/// What a kernel says when it starts the program that a trial gives it.
const STARTED: &str = "Run /bin/busybox as init process";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    Emulation,
}

impl Accelerator {
    /// The faster one that works here, by a trial with this kernel. One process at a time may ask.
    pub fn choose(folder: &Path, kernel: &Path, initramfs: &Path) -> Accelerator {
        if !Path::new("/dev/kvm").exists() {
            return Accelerator::Emulation;
        }
        let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the number of this machine's start");
        let known = folder.join("accelerator");
        let noted = fs::read_to_string(&known).unwrap_or_default();
        let works = match noted.strip_prefix(start.as_str()) {
            Some(works) => works == "kvm",
            None => {
                let works = boots(kernel, initramfs);
                let note = format!("{start}{}", if works { "kvm" } else { "emulation" });
                fs::write(known, note).expect("a file of ours");
                works
            }
        };
        if works { Accelerator::Kvm } else { Accelerator::Emulation }
    }

    /// The machine, as words for qemu. Without PCI it boots sooner.
    pub fn machine(self, has_pci: bool) -> String {
        let machine = if has_pci { "-M microvm,pcie=on" } else { "-M microvm" };
        match self {
            Accelerator::Kvm => format!("{machine} -accel kvm -cpu host"),
            Accelerator::Emulation => format!("{machine} -accel tcg,thread=multi,tb-size=192 -cpu qemu64"),
        }
    }

    /// What the kernel is told.
    pub fn command_line(self) -> String {
        let always = "console=ttyS0 panic=-1 random.trust_cpu=on mitigations=off";
        match self {
            Accelerator::Kvm => always.to_owned(),
            // The guest cannot calibrate its clocks reliably, so it is told what it would find out.
            Accelerator::Emulation => {
                format!("{always} lpj=4000000 tsc_early_khz={} tsc=reliable", counter_khz())
            }
        }
    }
}

/// Whether a kernel boots by KVM. A machine whose first program ends stops at once, so qemu ends by itself.
fn boots(kernel: &Path, initramfs: &Path) -> bool {
    let output = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut machine = tool("qemu-system-x86_64")
        .args(Accelerator::Kvm.machine(false).split(' '))
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "256", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &format!("{} rdinit=/bin/busybox", Accelerator::Kvm.command_line())])
        .stdin(Stdio::null())
        .stdout(output.reopen().expect("a file of ours"))
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu");
    let began = Instant::now();
    while machine.try_wait().expect("waiting for a child").is_none() && began.elapsed() < TRIAL {
        sleep(Duration::from_millis(50));
    }
    let _ = machine.kill();
    machine.wait().expect("the end of a child");
    String::from_utf8_lossy(&fs::read(output.path()).expect("a file of ours")).contains(STARTED)
}

/// Kilohertz of the time stamp counter. An emulated guest sees this very counter, and has no way to find its rate that
/// works every time.
fn counter_khz() -> u64 {
    let (began, first) = (Instant::now(), counter());
    sleep(Duration::from_millis(100));
    let (elapsed, ticks) = (began.elapsed(), counter() - first);
    u64::try_from(u128::from(ticks) * 1_000_000 / elapsed.as_nanos()).expect("a rate below 18 exahertz")
}

fn counter() -> u64 {
    // SAFETY: the instruction reads a register, and every x86-64 processor has it.
    unsafe { _rdtsc() }
}
