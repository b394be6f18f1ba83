//! An export that grows while it is attached.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Lab, PATIENCE, wait_for};

const OLD: u64 = 8 << 20;
const NEW: u64 = 20 << 20;

const READ: u16 = 0;
const WRITE: u16 = 1;

/// An NBD client that negotiated once and stays, as a virtual machine does.
struct Client {
    stream: UnixStream,
    /// What it was told.
    size: u64,
}

impl Client {
    fn connect(lab: &Lab) -> Self {
        let mut stream = UnixStream::connect(lab.path("disk.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        // NBD_OPT_EXPORT_NAME with no name, without the 124 zeroes behind the answer.
        stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        Self { stream, size: u64::from_be_bytes(*answer.first_chunk().unwrap()) }
    }

    /// The error number of a request for one sector, and what was read.
    fn ask(&mut self, kind: u16, offset: u64, sector: &mut [u8; 512]) -> u32 {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend([0, 0]);
        request.extend(kind.to_be_bytes());
        request.extend(7u64.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(512u32.to_be_bytes());
        if kind == WRITE {
            request.extend(&sector[..]);
        }
        self.stream.write_all(&request).unwrap();
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).unwrap();
        let error = u32::from_be_bytes(*reply[4..].first_chunk().unwrap());
        if kind == READ && error == 0 {
            self.stream.read_exact(sector).unwrap();
        }
        error
    }
}

fn resize(lab: &Lab, bytes: u64) {
    File::options().write(true).open(lab.path("disk.img")).and_then(|file| file.set_len(bytes)).unwrap();
}

/// Waits until the attached disk, on which nothing is going on, has this size.
fn wait_for_size(lab: &Lab, bytes: u64) {
    wait_for("the new size", || (lab.stat("b")[0]["size_bytes"] == bytes).then_some(()));
}

#[test]
fn net_growth_reaches_clients_of_an_attached_disk() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), OLD, 1);
    random_file(&lab.path("more.img"), NEW - OLD, 2);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let told = || lab.host("b").command("nbdinfo").args(["--size", &uri]).run().succeeded().stdout;
    assert_eq!(told().trim(), OLD.to_string());
    let mut old_client = Client::connect(&lab);
    assert_eq!(old_client.size, OLD);
    assert_ne!(old_client.ask(READ, OLD, &mut [0; 512]), 0, "there is nothing yet");

    resize(&lab, NEW);
    wait_for_size(&lab, NEW);
    assert_eq!(told().trim(), NEW.to_string(), "what a new client is told");
    assert_eq!(old_client.ask(WRITE, NEW - 512, &mut [0x5a; 512]), 0);
    let mut sector = [0; 512];
    assert_eq!((old_client.ask(READ, NEW - 512, &mut sector), sector), (0, [0x5a; 512]));
    assert_ne!(old_client.ask(READ, NEW, &mut sector), 0);

    // All of what is new, in and out.
    let filter = |program: &str| {
        let offset = format!("offset={OLD}");
        let run =
            ["-U", "-", "--filter=offset", "nbd", &format!("uri={uri}"), &offset, "--run", program].map(str::to_owned);
        lab.host("b").command("nbdkit").args(run).run().succeeded();
    };
    filter("nbdcopy --flush more.img \"$uri\"");
    filter("nbdcopy \"$uri\" again.img");
    let more = std::fs::read(lab.path("more.img")).unwrap();
    assert!(std::fs::read(lab.path("again.img")).unwrap() == more, "what was written behind the old end is read");
    assert!(std::fs::read(lab.path("disk.img")).unwrap()[OLD as usize..] == more, "and is in the file");

    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    let report = target.stop().succeeded().output();
    assert!(report.contains(&format!("has {} sectors now, {} before", NEW / 512, OLD / 512)), "{report}");
}

#[test]
fn net_growth_is_not_taken_back_when_the_export_shrinks() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), NEW, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    lab.attach("b", "e0.1", "disk.sock");
    let mut client = Client::connect(&lab);
    resize(&lab, OLD);
    wait_for_size(&lab, OLD);
    let mut sector = [0; 512];
    assert_eq!(client.ask(READ, OLD - 512, &mut sector), 0);
    for kind in [READ, WRITE] {
        assert_ne!(client.ask(kind, OLD, &mut sector), 0, "there is no such sector");
    }
    assert_eq!(Client::connect(&lab).size, NEW, "clients of one disk are told one size");

    resize(&lab, NEW);
    wait_for_size(&lab, NEW);
    assert_eq!((client.ask(READ, OLD, &mut sector), sector), (0, [0; 512]));
}
