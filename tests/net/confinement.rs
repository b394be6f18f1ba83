//! What a target's threads may still do while it serves, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs;

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Lab, wait_for};

/// What /proc says of a thread.
#[derive(Debug, PartialEq, Eq)]
struct Confinement {
    no_new_privs: bool,
    has_call_list: bool,
    /// As a bit for each.
    capabilities: u64,
    /// What a thread could still get by executing something.
    bounding: u64,
}

fn confinement(status: &str) -> Option<(String, Confinement)> {
    let field = |name: &str| {
        status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    };
    let bits = |name| u64::from_str_radix(&field(name)?, 16).ok();
    let confinement = Confinement {
        no_new_privs: field("NoNewPrivs")? == "1",
        has_call_list: field("Seccomp")? == "2",
        capabilities: bits("CapEff")? | bits("CapPrm")? | bits("CapInh")? | bits("CapAmb")?,
        bounding: bits("CapBnd")?,
    };
    Some((field("Name")?, confinement))
}

/// By name of the thread. Those that io_uring has in the kernel are no threads of the program.
fn threads(target: &Daemon) -> BTreeMap<String, Confinement> {
    let folder = fs::read_dir(format!("/proc/{}/task", target.id())).expect("a process that runs");
    let statuses = folder.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    statuses.filter_map(|status| confinement(&status)).filter(|(name, _)| !name.starts_with("iou-")).collect()
}

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const FOWNER: u64 = 1 << 3;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

#[test]
fn net_threads_of_a_target_are_confined() {
    let lab = Lab::pair(9000);
    for name in ["a.img", "b.img"] {
        random_file(&lab.path(name), 1 << 20, 1);
    }
    let exports = "shelf 0 slot 1 a.img shelf 0 slot 2 b.img --threads 2";
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let (_, own) = confinement(&own).unwrap();

    let target = lab.export("a", exports);
    let bounding = (DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER | NET_ADMIN | NET_RAW) & own.bounding;
    let expected: BTreeMap<_, _> = [
        ("aoe-target", DAC_OVERRIDE | DAC_READ_SEARCH),
        ("aoe-worker-0", NET_RAW | NET_ADMIN),
        ("aoe-worker-1", NET_RAW | NET_ADMIN),
        ("aoe-state", DAC_OVERRIDE),
        ("aoe-marker", FOWNER),
    ]
    .map(|(name, wanted)| {
        let capabilities = wanted & own.capabilities;
        (name.to_owned(), Confinement { no_new_privs: true, has_call_list: true, capabilities, bounding })
    })
    .into();
    // The small threads confine themselves when they get to run.
    let mut found = BTreeMap::new();
    wait_for("threads that are confined", || {
        found = threads(&target);
        (found == expected || found.values().all(|thread| thread.has_call_list)).then_some(())
    });
    assert_eq!(found, expected);
    target.stop().succeeded();

    let target = lab.export("a", &format!("--no-sandbox {exports}"));
    let found = threads(&target);
    assert_eq!(found.len(), expected.len());
    assert!(found.values().all(|thread| !thread.has_call_list && thread.capabilities == own.capabilities), "{found:?}");
    target.stop().succeeded();
}
