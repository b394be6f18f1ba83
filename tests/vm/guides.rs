//! Guides that need no more than two machines, typed as they stand.

use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::vm::guide::{Guide, Place};
use aoe_tests::vm::{Guest, Machine};

/// What a target may take to end.
const STOP: Duration = Duration::from_secs(30);

#[test]
fn vm_guides_of_two_machines() {
    let lab = Lab::switched(&[], 9000);
    let [alpha, storage] = Machine::boot_all(
        &lab,
        [("alpha", 1), ("storage", 2)].map(|(name, number)| Machine::new(name, number).e1000()),
    );
    let places: [(&str, &dyn Place); 2] = [("alpha", &alpha), ("storage", &storage)];

    // An installed system has it.
    storage.run("mkdir -p /srv");
    let guide = Guide::open("getting-started");
    guide.follow("Try it", &places);
    assert_eq!(alpha.run("cat /mnt/hello"), "hello\n");
    guide.follow("Let go", &places);
    end_target(&storage);

    let guide = Guide::open("tuning");
    for section in ["MTU", "Pause frames", "Receive rings", "Depth"] {
        guide.follow(section, &places);
    }
    end_target(&storage);

    let guide = Guide::open("control");
    for section in [
        "Start",
        "Look",
        "Add, change, remove",
        "Who may use it",
        "Before maintenance",
        "Read the file again",
        "By hand",
    ] {
        guide.follow(section, &places);
    }
    assert!(storage.run("aoe-target ctl status e0.1").contains("rack 7"), "a config string");
    end_target(&storage);

    let guide = Guide::open("security");
    guide.follow("A VLAN for storage", &places);
    let found = alpha.run("aoe-discover");
    assert_eq!(found.matches("e0.1").count(), 1, "it is on the VLAN, and not on the card's own network\n{found}");
    end_target(&storage);
    let outside = storage.start("aoe-target export --interface eth0 shelf 0 slot 2 disk.img");
    alpha.wait_until(STOP, "aoe-discover | grep 'e0.2.*eth0'");
    alpha.run("! aoe-discover --interface storage | grep e0.2");
    end_target(&storage);
    drop(outside);
    guide.follow("Who may use a disk", &places);
    let mask = alpha.run("aoe-cfg e0.1 mask list");
    assert!(mask.contains(&alpha.mac()), "{mask}");
    end_target(&storage);
    guide.follow("MACsec", &places);
    let received = alpha.run("ip -s macsec show macsec0");
    assert!(received.contains("macsec0"), "{received}");
    end_target(&storage);

    storage.run("mkdir -p /etc/vblade.conf.d; truncate -s 16M /srv/old.img");
    storage.run(
        "printf 'shelf=3\\nslot=7\\nnetif=eth0\\nfilename=/srv/old.img\\noptions=\"-m 02:00:00:00:00:01 -r\"\\n' \
         >/etc/vblade.conf.d/old.conf",
    );
    Guide::open("migrating").follow("Convert Debian's vblade configuration", &places);
    let _served = storage.start("aoe-target serve");
    alpha.wait_until(STOP, "aoe-discover | grep e3.7");
}

/// As Ctrl-C does.
fn end_target(storage: &Guest<'_>) {
    storage.run("pkill -INT -x aoe-target");
    storage.wait_until(STOP, "! pgrep -x aoe-target");
}
