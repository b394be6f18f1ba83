//! A virtual machine with Debian's kernel, which has one disk of our target twice: by aoe.ko, its own AoE client, and
//! by aoe-attach on nbd.ko. In turn, the same load goes through either.
//!
//! Where qemu has to emulate the machine, everything in it is slow, the kernel as much as we: what can be compared is
//! one with the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::net::image::random_file;
use aoe_tests::vm::{Guest, Machine};
use serde_json::Value;

use crate::figures::{Measured, Metric, Sample};
use crate::rounds::Results;
use crate::rows::About;

/// What `--only` calls it, and what the document says of it.
pub const ABOUT: About = About {
    name: "guest",
    title: "In a virtual machine: aoe.ko and aoe-attach",
    text: "Debian's kernel in qemu, with the target on the other side of its network card at MTU 9000 (`--cache writeback`). One \
           export is there twice: as `/dev/etherd/e0.1` of aoe.ko, and as `/dev/nbd1` of aoe-attach; fio (libaio, direct) \
           loads them in turn. Under emulation a system call costs many times what it does elsewhere, so only the ratios say \
           anything: taken within a round, aoe-attach to aoe.ko.",
    shown: &[Metric::Requests, Metric::Mebibytes, Metric::Median, Metric::Tail, Metric::BesideKernel],
    axis: None,
};

/// Bytes of the disk; the guest's page cache is gone around.
const BYTES: u64 = 128 << 20;

/// One measurement, in seconds. fio itself needs as long again to start, emulated.
const SECONDS: u32 = 2;

/// Rounds at the most, as each takes a minute.
const ROUNDS_MAX: usize = 3;

/// What fio is to do, and how the rows of the table are called.
struct Load {
    aoe_ko: &'static str,
    attached: &'static str,
    rw: &'static str,
    options: &'static str,
}

const LOADS: [Load; 5] = [
    Load {
        aoe_ko: "random reads of 4 KiB, depth 32: aoe.ko",
        attached: "random reads of 4 KiB, depth 32: aoe-attach",
        rw: "randread",
        options: "--bs=4k --iodepth=32",
    },
    Load {
        aoe_ko: "random writes of 4 KiB, depth 32: aoe.ko",
        attached: "random writes of 4 KiB, depth 32: aoe-attach",
        rw: "randwrite",
        options: "--bs=4k --iodepth=32",
    },
    Load {
        aoe_ko: "random reads of 4 KiB, depth 1: aoe.ko",
        attached: "random reads of 4 KiB, depth 1: aoe-attach",
        rw: "randread",
        options: "--bs=4k --iodepth=1",
    },
    Load {
        aoe_ko: "random writes of 4 KiB, depth 1: aoe.ko",
        attached: "random writes of 4 KiB, depth 1: aoe-attach",
        rw: "randwrite",
        options: "--bs=4k --iodepth=1",
    },
    Load {
        aoe_ko: "sequential reads of 128 KiB, depth 8: aoe.ko",
        attached: "sequential reads of 128 KiB, depth 8: aoe-attach",
        rw: "read",
        options: "--bs=128k --iodepth=8",
    },
];

const KERNELS_DISK: &str = "/dev/etherd/e0.1";
const OUR_DISK: &str = "/dev/nbd1";

/// Boots the machine and measures. Nothing is measured when that fails; what went wrong has been said.
pub fn run(rounds: usize) -> Results {
    let measured = catch_unwind(AssertUnwindSafe(|| measure(rounds.min(ROUNDS_MAX))));
    Results { about: ABOUT, measured: measured.unwrap_or_default() }
}

fn measure(rounds: usize) -> Vec<Measured> {
    let lab = Lab::switched(&["target"], 9000);
    random_file(&lab.path("disk.img"), BYTES, 1);
    let _target = lab.export("target", "--cache writeback shelf 0 slot 1 disk.img");
    let guest = Machine::new("guest", 1).boot(&lab);
    guest.run("modprobe aoe; modprobe nbd; aoe-attach e0.1 /dev/nbd1");
    guest.wait_until(Duration::from_secs(60), &format!("[ -b {KERNELS_DISK} ]"));

    let rows = LOADS.iter().flat_map(|load| [load.aoe_ko, load.attached]);
    let mut measured: Vec<_> = rows.map(|contender| Measured { contender, step: 0.0, samples: Vec::new() }).collect();
    for _ in 0..rounds {
        for (load, pair) in LOADS.iter().zip(measured.chunks_exact_mut(2)) {
            let aoe_ko = fio(&guest, load, KERNELS_DISK);
            let mut attached = fio(&guest, load, OUR_DISK);
            let ratio = attached[&Metric::Requests] / aoe_ko[&Metric::Requests];
            attached.insert(Metric::BesideKernel, ratio);
            pair[0].samples.push(aoe_ko);
            pair[1].samples.push(attached);
        }
    }
    guest.run("aoe-detach e0.1");
    measured
}

fn fio(guest: &Guest<'_>, load: &Load, disk: &str) -> Sample {
    let said = guest.run(&format!(
        "fio --name=bench --filename={disk} --rw={} {} --size={BYTES} --direct=1 --ioengine=libaio --randrepeat=0 \
         --norandommap --time_based --runtime={SECONDS} --output-format=json",
        load.rw, load.options
    ));
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("fio reports {said}: {e}"));
    let way = &report["jobs"][0][if load.rw.ends_with("write") { "write" } else { "read" }];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number is missing in {said}"));
    let latency = |quantile: &str| number(&way["clat_ns"]["percentile"][quantile]) / 1e3;
    let requests = number(&way["iops"]);
    assert!(requests > 0.0, "fio did nothing: {said}");
    Sample::from([
        (Metric::Requests, requests),
        (Metric::Mebibytes, number(&way["bw_bytes"]) / f64::from(1 << 20)),
        (Metric::Median, latency("50.000000")),
        (Metric::Tail, latency("99.000000")),
    ])
}
