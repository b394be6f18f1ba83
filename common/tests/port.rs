//! Ports on a real pair of virtual interfaces, in a network namespace that lives as long as the test.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use aoe_common::link::{Filter, Interface, LinkError, LinkWatch, Port, SEND_BATCH, ethernet_interfaces};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use pnet::util::MacAddr;

/// Runs a test in a namespace of its own, with the interfaces `left` and `right` joined back to back.
fn with_link(mtu: u32, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            match unshare(CloneFlags::CLONE_NEWNET) {
                Ok(()) => {}
                Err(Errno::EPERM) => return eprintln!("skipped: needs root"),
                Err(error) => panic!("no network namespace: {error}"),
            }
            ip(&format!("link add left mtu {mtu} type veth peer name right mtu {mtu}"));
            for name in ["left", "right"] {
                ip(&format!("link set {name} up"));
            }
            wait_until("both ends have a carrier", || interface("left").up && interface("right").up);
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A child of this thread is in its namespace.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("the ip command is installed");
    assert!(status.success(), "ip {arguments}: {status}");
}

fn interface(name: &str) -> Interface {
    let found = ethernet_interfaces().unwrap().into_iter().find(|interface| interface.name == name);
    found.unwrap_or_else(|| panic!("no interface {name}"))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Hears every request.
fn any_request() -> Filter {
    Filter::Target((0..100).map(|slot| (slot, 0)).collect())
}

fn open(name: &str, filter: &Filter) -> Port {
    Port::open(&interface(name), filter, 64).unwrap()
}

/// A request that carries a number, as tag and in every byte of the payload.
fn request(to: MacAddr, number: u32, length: usize) -> Vec<u8> {
    let mut frame = vec![number as u8; length];
    frame[..6].copy_from_slice(&to.octets());
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[12..20].copy_from_slice(&[0x88, 0xa2, 0x10, 0, 0, 7, 3, 0]);
    frame[20..24].copy_from_slice(&number.to_be_bytes());
    frame
}

fn tag(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[20..24].try_into().unwrap())
}

fn send(port: &mut Port, frames: &[Vec<u8>]) {
    let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    let mut rest = &frames[..];
    while !rest.is_empty() {
        let taken = port.send(rest).unwrap();
        assert!(taken <= SEND_BATCH);
        rest = &rest[taken..];
    }
}

/// Takes what waits, at least `least` frames.
fn receive(port: &mut Port, least: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    wait_until("frames arrive", || {
        port.receive(usize::MAX, |frame| frames.push(frame.to_vec())).unwrap();
        frames.len() >= least
    });
    frames
}

fn is_readable(port: &impl AsFd, within: u16) -> bool {
    let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(within)).unwrap() == 1
}

#[test]
fn frames_arrive_in_order_over_many_rounds_of_the_ring() {
    with_link(9000, || {
        let (mut left, mut right) = (open("left", &any_request()), open("right", &any_request()));
        let to = interface("right").mac;
        let rounds = 40;
        let batch = right.ring_frames() - 1;
        let mut expected = 0;
        for round in 0..rounds {
            let first = round * batch as u32;
            let length = [24, 60, 1514, 9014][round as usize % 4];
            let frames: Vec<_> = (first..).take(batch).map(|number| request(to, number, length)).collect();
            send(&mut left, &frames);
            assert!(is_readable(&right, 1000));
            // In parts, so that slots go back while others wait.
            let mut got = 0;
            while got < batch {
                got += right
                    .receive(7, |frame| {
                        assert_eq!(tag(frame), expected);
                        assert_eq!(frame, &frames[(expected - first) as usize][..]);
                        expected += 1;
                    })
                    .unwrap();
            }
            assert!(!right.is_waiting());
        }
        let stats = right.stats();
        assert_eq!((stats.received, stats.kernel_drops), (u64::from(rounds) * batch as u64, 0));
        assert_eq!(left.stats().sent, stats.received);
    });
}

#[test]
fn a_full_ring_loses_the_newest_frames_and_counts_them() {
    with_link(1500, || {
        let (mut left, mut right) = (open("left", &any_request()), open("right", &any_request()));
        let to = interface("right").mac;
        let room = right.ring_frames() as u32;
        send(&mut left, &(0..room + 10).map(|number| request(to, number, 60)).collect::<Vec<_>>());
        wait_until("the last frames are dropped", || right.stats().kernel_drops == 10);
        let tags: Vec<_> = receive(&mut right, room as usize).iter().map(|frame| tag(frame)).collect();
        assert_eq!(tags, (0..room).collect::<Vec<_>>());
        assert_eq!(right.stats().kernel_drops, 10, "reading the count keeps it");

        send(&mut left, &[request(to, 7777, 60)]);
        assert_eq!(tag(&receive(&mut right, 1)[0]), 7777);
    });
}

#[test]
fn a_jumbo_frame_arrives_whole_and_a_longer_one_does_not_stop_the_rest() {
    with_link(9000, || {
        let (mut left, mut right) = (open("left", &any_request()), open("right", &any_request()));
        let to = interface("right").mac;
        let frames: Vec<_> =
            [60, 9015, 9014, 20_000, 20_000, 100].iter().zip(1..).map(|(&length, n)| request(to, n, length)).collect();
        let borrowed: Vec<_> = frames.iter().map(Vec::as_slice).collect();
        assert_eq!(left.send(&borrowed).unwrap(), 6);
        assert_eq!(receive(&mut right, 3), [&frames[0][..], &frames[2], &frames[5]]);
        assert_eq!((left.stats().sent, left.stats().too_long), (3, 3));
        assert_eq!(left.send(&[]).unwrap(), 0);
        assert_eq!(left.send(&borrowed[1..2]).unwrap(), 1, "too long and alone");
    });
}

#[test]
fn one_call_sends_no_more_than_a_batch() {
    with_link(1500, || {
        let mut left = open("left", &any_request());
        let frame = request(MacAddr::broadcast(), 1, 60);
        assert_eq!(left.send(&vec![&frame[..]; SEND_BATCH + 1]).unwrap(), SEND_BATCH);
    });
}

#[test]
fn a_frame_longer_than_the_ring_was_made_for_is_dropped_whole() {
    with_link(9000, || {
        let mut left = open("left", &any_request());
        let small = Interface { mtu: 1500, ..interface("right") };
        let mut right = Port::open(&small, &any_request(), 8).unwrap();
        send(&mut left, &[request(small.mac, 1, 9014), request(small.mac, 2, 1514), request(small.mac, 3, 1600)]);
        let frames = receive(&mut right, 1);
        assert_eq!((frames.len(), tag(&frames[0]), frames[0].len()), (1, 2, 1514));
        wait_until("the last is counted", || {
            right.receive(8, |_| panic!("cut frame")).unwrap();
            right.stats().truncated == 2
        });
    });
}

#[test]
fn only_what_passes_the_filter_is_heard_and_never_oneself() {
    with_link(1500, || {
        let mut left = open("left", &any_request());
        let mut right = open("right", &Filter::Target(vec![(7, 3)]));
        let to = interface("right").mac;
        let mut other_slot = request(to, 1, 60);
        other_slot[18] = 4;
        let mut response = request(to, 2, 60);
        response[14] = 0x18;
        let mut other_protocol = request(to, 3, 60);
        other_protocol[12..14].copy_from_slice(&[0x08, 0x00]);
        let all_slots = {
            let mut frame = request(to, 4, 60);
            frame[16..19].fill(0xff);
            frame
        };
        send(&mut left, &[other_slot.clone(), response, other_protocol, all_slots, request(to, 5, 60)]);
        let tags: Vec<_> = receive(&mut right, 2).iter().map(|frame| tag(frame)).collect();
        assert_eq!(tags, [4, 5]);
        assert!(!is_readable(&left, 50), "its own frames");

        right.set_filter(&Filter::Target(vec![(7, 4)])).unwrap();
        send(&mut left, &[request(to, 6, 60), other_slot]);
        assert_eq!(tag(&receive(&mut right, 1)[0]), 1);
        assert_eq!(right.stats().received, 3);
    });
}

#[test]
fn frames_of_a_vlan_or_for_another_station_are_dropped_and_counted() {
    with_link(1500, || {
        let (mut left, mut right) = (open("left", &any_request()), open("right", &any_request()));
        let to = interface("right").mac;
        let tagged = |number, vlan: u16| {
            let mut frame = request(to, number, 60);
            frame.splice(12..12, [0x81, 0x00].into_iter().chain(vlan.to_be_bytes()));
            frame
        };
        let elsewhere = request(MacAddr::new(2, 9, 9, 9, 9, 9), 2, 60);
        let priority_only = tagged(3, 0xe000);
        let mut tagged_broadcast = tagged(5, 6);
        tagged_broadcast[..6].fill(0xff);
        let broadcast = request(MacAddr::broadcast(), 4, 60);
        send(&mut left, &[tagged(1, 5), tagged_broadcast, elsewhere, priority_only, broadcast]);
        let frames = receive(&mut right, 2);
        assert_eq!(frames.iter().map(|frame| tag(frame)).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(frames[0], request(to, 3, 60), "the tag is taken out");
        let stats = right.stats();
        assert_eq!((stats.received, stats.foreign_vlan, stats.other_host), (2, 2, 1));
    });
}

/// As a VLAN's interface does it, which not every kernel has: that, too, has the address of the one below, and takes
/// frames from it once their tag is forgotten.
#[test]
fn frames_of_an_interface_on_top_are_not_those_of_the_one_below() {
    with_link(1500, || {
        ip("link add link right name top type macvlan mode passthru");
        ip("link set top up");
        wait_until("it has a carrier", || interface("top").up);
        let to = interface("top").mac;
        assert_eq!(to, interface("right").mac);
        let (mut left, mut right, mut top) =
            (open("left", &any_request()), open("right", &any_request()), open("top", &any_request()));
        right.set_filter(&any_request()).unwrap();
        send(&mut left, &[request(to, 1, 60), request(to, 2, 60)]);
        assert_eq!(receive(&mut top, 2).iter().map(|frame| tag(frame)).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(right.receive(8, |_| panic!("it is not for the one below")).unwrap(), 0);
        assert!(!is_readable(&right, 0), "nobody is woken for it");
    });
}

#[test]
fn a_port_outlives_the_loss_of_its_link() {
    with_link(9000, || {
        let watch = LinkWatch::open().unwrap();
        let (mut left, mut right) = (open("left", &any_request()), open("right", &any_request()));
        let to = interface("right").mac;
        send(&mut left, &[request(to, 1, 60)]);
        assert_eq!(tag(&receive(&mut right, 1)[0]), 1);
        wait_until("the links are quiet", || !watch.drain());

        ip("link set right down");
        assert!(is_readable(&watch, 1000) && watch.drain());
        wait_until("both ends lose the carrier", || !interface("right").up && !interface("left").up);
        assert!(is_readable(&right, 1000), "an error is told like a frame");
        assert!(matches!(right.receive(8, |_| {}), Err(LinkError::Down)));
        assert_eq!(right.receive(8, |_| {}).unwrap(), 0, "it is told once");
        assert!(!is_readable(&right, 0));
        let frame = request(to, 2, 60);
        assert!(matches!(right.send(&[&frame]), Err(LinkError::Down)));
        assert_eq!(left.send(&[&frame]).unwrap(), 1, "without carrier the kernel takes frames and drops them");

        ip("link set right up");
        wait_until("the carrier is back", || interface("left").up && interface("right").up);
        send(&mut left, &[request(to, 3, 9014)]);
        let frames = receive(&mut right, 1);
        assert_eq!((tag(&frames[0]), frames[0].len()), (3, 9014));
        send(&mut right, &[request(interface("left").mac, 4, 60)]);
        assert_eq!(tag(&receive(&mut left, 1)[0]), 4);
    });
}

#[test]
fn a_port_may_be_opened_on_a_link_that_is_down() {
    with_link(1500, || {
        ip("link set right down");
        let mut right = open("right", &any_request());
        assert!(matches!(right.receive(8, |_| {}), Err(LinkError::Down)));
        ip("link set right up");
        wait_until("the carrier is back", || interface("left").up);
        send(&mut open("left", &any_request()), &[request(interface("right").mac, 1, 60)]);
        assert_eq!(receive(&mut right, 1).len(), 1);
    });
}

#[test]
fn a_removed_interface_is_gone() {
    with_link(1500, || {
        let mut right = open("right", &any_request());
        let gone = interface("right");
        ip("link del left");
        assert!(matches!(right.receive(8, |_| {}), Err(LinkError::Gone | LinkError::Down)));
        let frame = request(gone.mac, 1, 60);
        assert!(matches!(right.send(&[&frame]), Err(LinkError::Gone)));
        assert!(matches!(Port::open(&gone, &any_request(), 8), Err(LinkError::Gone)));
        assert!(ethernet_interfaces().unwrap().iter().all(|interface| interface.index != gone.index));
    });
}

#[test]
fn a_panic_while_a_frame_is_looked_at_costs_that_frame_only() {
    with_link(1500, || {
        let (mut left, mut right) = (open("left", &any_request()), open("right", &any_request()));
        let to = interface("right").mac;
        let room = right.ring_frames() as u32;
        for round in 0..3 {
            let first = round * room;
            send(&mut left, &(first..first + room).map(|number| request(to, number, 60)).collect::<Vec<_>>());
            wait_until("a frame waits", || right.is_waiting());
            let outcome = catch_unwind(AssertUnwindSafe(|| right.receive(8, |_| panic!("on purpose"))));
            assert!(outcome.is_err());
            let tags: Vec<_> = receive(&mut right, room as usize - 1).iter().map(|frame| tag(frame)).collect();
            assert_eq!(tags, (first + 1..first + room).collect::<Vec<_>>());
        }
        assert_eq!(right.stats().kernel_drops, 0);
    });
}

#[test]
fn interfaces_are_listed_as_they_are() {
    with_link(9000, || {
        ip("link add top type bridge");
        ip("link set left address 02:00:00:00:00:0a mtu 4000");
        let left = interface("left");
        assert_eq!((left.mac, left.mtu, left.up, left.slave), (MacAddr::new(2, 0, 0, 0, 0, 10), 4000, true, false));
        assert_eq!(interface("right").mtu, 9000);
        assert!(!interface("top").up);
        let list = ethernet_interfaces().unwrap();
        assert!(list.is_sorted_by_key(|interface| interface.index) && list.len() == 3, "{list:?}");
    });
}

#[test]
fn nothing_is_lost_between_two_stations_that_answer_each_other() {
    const EXCHANGES: u32 = 20_000;
    const WINDOW: u32 = 48;
    with_link(9000, || {
        let (mut client, mut server) = (open("left", &any_request()), open("right", &any_request()));
        let (client_mac, server_mac) = (interface("left").mac, interface("right").mac);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut answered, start) = (0, Instant::now());
                while answered < EXCHANGES {
                    assert!(start.elapsed() < Duration::from_secs(60), "stuck after {answered}");
                    is_readable(&server, 100);
                    let mut replies = Vec::new();
                    server.receive(SEND_BATCH, |frame| replies.push(request(client_mac, tag(frame), 4132))).unwrap();
                    answered += replies.len() as u32;
                    send(&mut server, &replies);
                }
            });
            let (mut sent, mut received, start) = (0, 0, Instant::now());
            while received < EXCHANGES {
                assert!(start.elapsed() < Duration::from_secs(60), "stuck after {received}");
                let until = EXCHANGES.min(received + WINDOW);
                send(&mut client, &(sent..until).map(|number| request(server_mac, number, 60)).collect::<Vec<_>>());
                sent = until;
                is_readable(&client, 100);
                client
                    .receive(SEND_BATCH, |frame| {
                        assert_eq!((tag(frame), frame.len()), (received, 4132));
                        received += 1;
                    })
                    .unwrap();
            }
            eprintln!("{EXCHANGES} exchanges of 4132 bytes in {:?}", start.elapsed());
        });
        assert_eq!((client.stats().kernel_drops, server.stats().kernel_drops), (0, 0));
    });
}
