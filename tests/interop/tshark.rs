//! Wireshark's dissector reads our traffic: nothing malformed, no field with a value it should not have.

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Lab, Recording};

/// ATA commands the tools send in this session: READ, WRITE and FUA (EXT), FLUSH EXT, IDENTIFY, DSM, ZERO EXT, and
/// WRITE LOG EXT, by which they say who they are.
const ATA_COMMANDS: [u8; 8] = [0x06, 0x24, 0x34, 0x3D, 0x3F, 0x44, 0xEA, 0xEC];

/// Everything our tools do, between our own programs, recorded at the client.
fn recorded_session(lab: &Lab) -> Recording<'_> {
    random_file(&lab.path("disk.img"), 2 << 20, 1);
    random_file(&lab.path("new.img"), 2 << 20, 2);
    let capture = lab.capture("b");
    let target = lab.export("a", "shelf 3 slot 4 disk.img");
    lab.host("b").typed("aoe-discover").run().succeeded();
    let uri = lab.attach("b", "e3.4", "disk.sock");
    lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
    lab.host("b").command("nbdcopy").args(["--flush", "new.img", &uri]).run().succeeded();
    let edits = ["-f", "raw", "-c", "write -f -P 1 0 512", "-c", "write -z 64k 64k", "-c", "discard 256k 64k", &uri];
    lab.host("b").command("qemu-io").args(edits).run().succeeded();
    lab.host("b").typed("aoecfg -t 1 -c set -s seen 3 4 eth0").run().succeeded();
    lab.host("b").typed("aoe-detach e3.4").run().succeeded();
    target.stop().succeeded();
    capture.stop()
}

fn number(field: &str) -> u64 {
    let (digits, radix) = field.strip_prefix("0x").map_or((field, 10), |hex| (hex, 16));
    u64::from_str_radix(digits, radix).unwrap_or_else(|_| panic!("{field:?} is no number"))
}

fn decodes_cleanly(mtu: u32) {
    let lab = Lab::pair(mtu);
    let recording = recorded_session(&lab);

    let complaints = recording.decode("_ws.malformed || _ws.expert || !aoe", &["frame.number", "_ws.col.Info"]);
    assert!(complaints.is_empty(), "{complaints:?}");

    let everything = recording.decode("", &["eth.src", "frame.len", "aoe.version", "aoe.response", "aoe.cmd"]);
    assert!(everything.len() > 100, "only {} frames", everything.len());
    for frame in &everything {
        let [source, length, version, _response, command] = &frame[..] else { panic!("{frame:?}") };
        assert!([lab.mac("a"), lab.mac("b")].contains(&source.as_str()), "{frame:?}");
        assert_eq!(number(version), 1, "{frame:?}");
        assert!(number(command) <= 3, "{frame:?}");
        // Every frame of ours is padded to what Ethernet carries, and none exceeds the MTU.
        assert!((60..=u64::from(mtu) + 14).contains(&number(length)), "{frame:?}");
    }

    // Answers carry the target's own address; only adverts (tag 0) are answers nobody asked for.
    let answers = recording.decode(
        "aoe.response == 1",
        &["eth.src", "aoe.major", "aoe.minor", "aoe.tag", "aoe.response_to", "aoe.error", "aoe.flags_error"],
    );
    assert!(answers.len() > 50, "only {} answers", answers.len());
    for answer in &answers {
        assert_eq!(answer[0], lab.mac("a"), "{answer:?}");
        assert_eq!((number(&answer[1]), number(&answer[2])), (3, 4), "{answer:?}");
        assert_eq!(answer[5], "", "{answer:?}");
        assert!(["0", "False"].contains(&answer[6].as_str()), "{answer:?}");
    }

    let requests = recording.decode("aoe.response == 0 && aoe.cmd == 0", &["aoe.ata.cmd", "aoe.tag", "eth.dst"]);
    assert!(requests.len() > 50, "only {} ATA requests", requests.len());
    for request in &requests {
        assert!(ATA_COMMANDS.contains(&(number(&request[0]) as u8)), "{request:?}");
        // Bit 31 tells a kernel driver on the same host that this tag is not one of its own.
        assert_ne!(number(&request[1]) & 1 << 31, 0, "{request:?}");
        assert_eq!(request[2], lab.mac("a"), "{request:?}");
    }

    // On a clean wire each ATA request is asked once and answered once.
    let unanswered = recording.decode("aoe.response == 0 && aoe.cmd == 0 && !aoe.response_in", &["aoe.tag"]);
    assert!(unanswered.is_empty(), "{unanswered:?}");
    let failed =
        recording.decode("aoe.response == 1 && aoe.cmd == 0 && aoe.ata.status & 0xaf", &["aoe.tag", "aoe.ata.status"]);
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn net_tshark_decodes_mtu_1500() {
    decodes_cleanly(1500);
}

#[test]
fn net_tshark_decodes_mtu_9000() {
    decodes_cleanly(9000);
}
