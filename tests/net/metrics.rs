//! Figures for Prometheus, while load runs and after it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Lab, PATIENCE, wait_for};

/// Requests of the load, one frame each.
const REQUESTS: u64 = 4000;
const BLOCK: u64 = 4096;

/// The page on a unix socket.
fn scrape(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head and a page");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    page.to_owned()
}

/// The sum of the series of a name that have all these labels.
fn sum(page: &str, name: &str, labels: &[&str]) -> u64 {
    let of_name = page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let fitting: Vec<_> = of_name.filter(|line| labels.iter().all(|label| line.contains(label))).collect();
    assert!(!fitting.is_empty(), "no {name} with {labels:?} in\n{page}");
    fitting.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a count")).sum()
}

#[test]
fn net_metrics_agree_with_what_fio_did() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 64 << 20, 1);
    let socket = lab.path("metrics.sock");
    let target = lab.export("a", &format!("shelf 0 slot 1 disk.img --metrics unix:{}", socket.display()));
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let before = scrape(&socket);

    let bytes = REQUESTS * BLOCK;
    let mut fio = lab
        .host("b")
        .typed(
            "fio --name=load --ioengine=nbd --iodepth=16 --rw=randrw --rwmixread=50 --norandommap --output-format=json",
        )
        .args([format!("--uri={uri}"), format!("--bs={BLOCK}"), format!("--io_size={bytes}"), "--size=64m".to_owned()])
        .args(["--rate_iops=1000,1000"])
        .spawn();
    let operations = |page: &str| sum(page, "aoe_target_export_operations_total", &["device=\"e0.1\""]);
    let mut last = operations(&before);
    let mut seen_growing = 0;
    wait_for("the end of the load", || {
        let now = operations(&scrape(&socket));
        assert!(now >= last, "a counter went back from {last} to {now}");
        seen_growing += u32::from(now > last);
        last = now;
        std::thread::sleep(std::time::Duration::from_millis(50));
        fio.ends_within(std::time::Duration::ZERO).then_some(())
    });
    let report = fio.stop().succeeded().stdout;
    // The NBD engine says a line of its own before.
    let json = &report[report.find('{').expect("JSON")..];
    let report: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert!(seen_growing > 5, "grew {seen_growing} times");

    // A page is shown for 100 ms before there is a new one.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let page = scrape(&socket);
    let job = &report["jobs"][0];
    let (mut requests, mac) = (0, lab.mac("b"));
    let resends = lab.stat("b")[0]["resends"].as_u64().expect("a counter");
    assert!(resends < REQUESTS / 20, "{resends} frames were sent again");
    for kind in ["read", "write"] {
        let (count, data) = (job[kind]["total_ios"].as_u64().unwrap(), job[kind]["io_bytes"].as_u64().unwrap());
        requests += count;
        let labels = ["device=\"e0.1\"", &format!("kind=\"{kind}\"")];
        let grown = |name: &str| sum(&page, name, &labels) - sum(&before, name, &labels);
        // A read that comes again is done again, a write is not.
        let again = if kind == "read" { resends } else { 0 };
        for (name, did, each) in [
            ("aoe_target_export_operations_total", count, 1),
            ("aoe_target_export_data_bytes_total", data, BLOCK),
            ("aoe_target_export_latency_seconds_count", count, 1),
        ] {
            let grown = grown(name);
            assert!(
                (did..=did + again * each).contains(&grown),
                "{name} {kind}: {grown}, fio did {did}, {again} again"
            );
        }
        let of_station = |name| sum(&page, name, &[labels[0], labels[1], &format!("station=\"{mac}\"")]);
        assert!(of_station("aoe_target_station_operations_total") >= count, "{kind}");
        assert!(of_station("aoe_target_station_data_bytes_total") >= data, "{kind}");
    }
    assert_eq!(requests, REQUESTS);
    assert_eq!(sum(&page, "aoe_target_export_errors_total", &["device=\"e0.1\""]), 0);
    assert!(sum(&page, "aoe_target_interface_received_frames_total", &["interface=\"eth0\""]) >= requests);
    target.stop().succeeded();
    assert!(!socket.exists(), "the socket goes with the target");
}
