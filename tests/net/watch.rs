//! What is seen of attached disks while they are used: `aoe-stat --watch` on a terminal, and the figures for Prometheus.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use aoe_common::target_status::{ExportStatus, LATENCY_BUCKETS, TargetStatus};
use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Host, Lab, PATIENCE, requires, tool, wait_for};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A program on a terminal of its own, in a folder of its own.
struct Terminal<'lab> {
    lab: &'lab Lab,
    program: Daemon,
    keys: File,
    size: (u16, u16),
}

impl<'lab> Terminal<'lab> {
    /// Starts a command line on a terminal with so many rows and columns. script(1) makes the terminal; its keyboard is a
    /// pipe, and what the program shows is in its output.
    fn open(lab: &'lab Lab, host: Host<'lab>, line: &str, (rows, columns): (u16, u16)) -> Self {
        requires(&["script", "stty"]);
        let pipe = lab.path("keys");
        mkfifo(&pipe, Mode::from_bits_truncate(0o600)).expect("a pipe");
        // With both ends open neither waits for the other.
        let keys = File::options().read(true).write(true).open(&pipe).expect("a pipe");
        let inside = format!(
            "tty >tty; stty rows {rows} cols {columns}; stty -g >before; {line}; code=$?; stty -g >after; exit $code"
        );
        let outside = "exec script --quiet --flush --return --command \"$0\" /dev/null <keys";
        let program = host.command("sh").args(["-c", outside, &inside]).spawn();
        Self { lab, program, keys, size: (rows, columns) }
    }

    /// What a terminal would show now.
    fn screen(&self) -> vt100::Parser {
        let output = self.program.output();
        let (output, _) = output.rsplit_once("--- stderr").expect("both streams");
        let output = output.strip_prefix("--- stdout\n").expect("both streams");
        let mut parser = vt100::Parser::new(self.size.0, self.size.1, 0);
        parser.process(output.as_bytes());
        parser
    }

    /// Waits until the screen is as wanted; returns its lines.
    fn wait_for(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        let began = Instant::now();
        loop {
            let lines: Vec<String> = self.screen().screen().contents().lines().map(str::to_owned).collect();
            if wanted(&lines) {
                return lines;
            }
            if seen != lines {
                seen = lines;
            }
            assert!(began.elapsed() < PATIENCE, "no {what} on the screen:\n{}", seen.join("\n"));
            sleep(Duration::from_millis(50));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a keyboard");
    }

    /// Changes the size of the terminal, and tells the program, as a window that is pulled does.
    fn resize(&mut self, rows: u16, columns: u16) {
        let name = fs::read_to_string(self.lab.path("tty")).expect("the terminal's name");
        let size = ["rows".to_owned(), rows.to_string(), "cols".to_owned(), columns.to_string()];
        let done = tool("stty").args(["-F", name.trim()]).args(size).status().expect("stty");
        assert!(done.success());
        self.size = (rows, columns);
    }

    /// Waits for the end, which must leave the terminal as it was; returns the exit code.
    fn end(mut self) -> i32 {
        assert!(self.program.ends_within(PATIENCE), "it does not end\n{}", self.program.output());
        let parser = self.screen();
        assert!(!parser.screen().alternate_screen(), "the old screen is back");
        assert!(!parser.screen().hide_cursor(), "the cursor is back");
        let [before, after] = ["before", "after"].map(|file| fs::read_to_string(self.lab.path(file)).unwrap());
        assert!(!before.trim().is_empty());
        assert_eq!(before, after, "settings of the terminal");
        self.program.stop().code
    }
}

/// The figure in a column of the table that has this head, in the row that begins with this word. Heads and cells are
/// right above each other at their ends.
fn figure(lines: &[String], row: &str, head: &str) -> Option<f64> {
    let heads = lines.iter().find(|line| line.contains(head) && line.starts_with("device"))?;
    let end = heads.find(head)? + head.len();
    let row = lines.iter().find(|line| line.split(' ').next() == Some(row))?;
    row.get(..end)?.rsplit(' ').next()?.parse().ok()
}

fn load(lab: &Lab, uri: &str, options: &[&str]) -> Daemon {
    let place = format!("--uri={uri}");
    let load = ["--name=load", "--ioengine=nbd", &place, "--iodepth=8", "--rw=randrw", "--bs=4k", "--size=8M"];
    lab.host("b").command("fio").args(load).args(["--time_based", "--runtime=60"]).args(options).spawn()
}

#[test]
fn net_watch_shows_disks_and_paths_under_load() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 16 << 20, 1);
    random_file(&lab.path("other.img"), 8 << 20, 2);
    let other = lab.export("a", "shelf 0 slot 2 other.img");
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let place = format!("unix:{}", lab.path("other.sock").display());
    lab.host("b").typed("aoe-attach --dead-after 1 e0.2").arg(place).run().succeeded();
    let fio = load(&lab, &uri, &[]);

    let mut terminal = Terminal::open(&lab, lab.host("b"), "aoe-stat --watch --interval 0.3", (24, 80));
    let runs = |lines: &[String]| {
        let rate = |head| figure(lines, "e0.1", head).is_some_and(|rate| rate > 0.0);
        rate("read/s") && rate("write/s") && rate("r MiB/s")
    };
    let lines = terminal.wait_for("rates at 80x24", runs);
    assert_eq!(lines[0], "aoe-stat  attached disks of this host: 2");
    assert_eq!((figure(&lines, "e0.2", "read/s"), figure(&lines, "e0.2", "errors")), (Some(0.0), Some(0.0)));
    assert!(lines.iter().any(|line| line == "paths of e0.1"), "{lines:?}");
    let is_path = |line: &String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.starts_with(&[lab.mac("a"), lab.interface("b"), "up"])
            && words.get(3).is_some_and(|rtt| rtt.contains('s'))
    };
    assert!(lines.iter().any(is_path), "{lines:?}");

    terminal.resize(40, 120);
    let lines = terminal.wait_for("rates at 120x40", |lines| {
        runs(lines) && lines.iter().any(|line| line.starts_with("device") && line.contains("size"))
    });
    let row = lines.iter().find(|line| line.starts_with("e0.1 ")).unwrap();
    assert!(row.contains("16.0 MiB"), "{row}");
    println!("{}", lines.join("\n"));

    terminal.press("\u{1b}[B");
    terminal.wait_for("the paths of the other disk", |lines| lines.iter().any(|line| line == "paths of e0.2"));
    terminal.press("?");
    terminal.wait_for("the help", |lines| lines.iter().any(|line| line.contains("requests completed")));
    terminal.press("?k");
    terminal.wait_for("the first disk", |lines| lines.iter().any(|line| line == "paths of e0.1"));

    drop(fio);
    other.kill();
    target.kill();
    // A request tells that it is gone.
    let mut copy = lab.host("b").command("nbdcopy").args([lab.nbd_uri("other.sock").as_str(), "null:"]).spawn();
    terminal
        .wait_for("a dead disk", |lines| lines.iter().any(|line| line.starts_with("e0.2 ") && line.contains(" dead ")));
    assert!(copy.ends_within(PATIENCE));
    terminal.resize(3, 20);
    terminal.wait_for("a tiny screen", |lines| lines.len() <= 3);
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn net_watch_leaves_the_terminal_as_it_was_when_it_is_told_to_end() {
    let lab = Lab::pair(1500);
    let line = "sh -c 'echo $$ >pid; exec aoe-stat --watch'";
    let terminal = Terminal::open(&lab, lab.host("b"), line, (24, 80));
    terminal.wait_for("the view", |lines| lines.iter().any(|line| line == "nothing is attached"));
    assert!(terminal.screen().screen().alternate_screen());
    let pid = fs::read_to_string(lab.path("pid")).unwrap();
    lab.host("b").command("kill").args(["-TERM", pid.trim()]).run().succeeded();
    assert_eq!(terminal.end(), 0);

    let refused = lab.host("b").typed("aoe-stat --watch").run().exited(1);
    assert!(refused.stderr.contains("needs a terminal"), "{}", refused.stderr);
}

/// Somebody who answers as a target does, at a control socket, until this is dropped.
struct Answering {
    path: PathBuf,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// `exports` exports; all write 100 times a second, as long as this process answers.
    fn start(path: &Path, pid: u32, exports: u8) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let ends = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let thread = std::thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut line = String::new();
                    let _ = BufReader::new(&stream).read_line(&mut line);
                    assert_eq!(line, "{\"command\":\"status\"}\n");
                    let writes = began.elapsed().as_millis() as u64 / 10;
                    let exports: Vec<_> = (0..exports).map(|slot| export(slot, writes)).collect();
                    let status = TargetStatus { version: "9.9".into(), pid, exports, ..TargetStatus::default() };
                    let answer = serde_json::json!({ "ok": status }).to_string() + "\n";
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Self { path: path.to_owned(), ends, thread: Some(thread) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.path);
        fs::remove_file(&self.path).expect("a socket");
        self.thread.take().expect("a thread").join().expect("it asks nothing else");
    }
}

fn export(slot: u8, writes: u64) -> ExportStatus {
    let none = serde_json::json!({ "buckets": vec![0; LATENCY_BUCKETS], "sum_us": 0 });
    let station = serde_json::json!({ "mac": "02:00:00:00:00:0a", "reads": 0, "read_bytes": 0, "writes": writes, "write_bytes": 0,
            "ignored": 0 });
    let export = serde_json::json!({
        "device": format!("e7.{slot}"), "path": format!("/srv/{slot}.img"), "size_bytes": 1 << 30, "read_only": false,
        "cache": "auto", "direct": false, "buffers": 64, "serial": "S", "allow": [], "mask": [], "reservation": [],
        "config_string": "", "edits": { "config": "all", "mask": "none", "reservation": ["02:00:00:00:00:0a"] },
        "edits_refused": 0, "lost": null, "held_s": null, "draining": false, "in_flight": 0, "reads": 0,
        "read_bytes": 0, "writes": writes, "write_bytes": writes << 20, "flushes": 0, "trims": 0, "errors": 0,
        "repeats": 0, "stale": 0, "held": 0, "waits": 0, "refused": 0, "overflows": 0, "read_latency": none,
        "write_latency": none, "flush_latency": none, "stations": [station],
    });
    serde_json::from_value(export).expect("the status of an export")
}

/// A target with 200 exports that goes away, and comes back with counters that begin anew.
#[test]
fn net_watch_follows_a_target_that_comes_and_goes() {
    let lab = Lab::pair(1500);
    let socket = lab.path("control.sock");
    let line = format!("aoe-stat --watch --interval 0.3 --control {}", socket.display());
    let mut terminal = Terminal::open(&lab, lab.host("b"), &line, (24, 80));
    let has = |text: &'static str| move |lines: &[String]| lines.iter().any(|line| line.contains(text));
    terminal.wait_for("a target that is not there", has("no aoe-target answers"));

    let first = Answering::start(&socket, 4711, 200);
    let writes = |row: &'static str| {
        move |lines: &[String]| figure(lines, row, "write/s").is_some_and(|rate| (10.0..1000.0).contains(&rate))
    };
    let lines = terminal.wait_for("rates", writes("e7.0"));
    assert!(lines[0].starts_with("aoe-target 9.9  process 4711"), "{lines:?}");
    assert!(has(" of 200")(&lines), "{lines:?}");
    terminal.press("\u{1b}[F");
    terminal.wait_for("the last export", writes("e7.199"));
    terminal.wait_for("its stations", has("stations of e7.199"));

    drop(first);
    let lines = terminal.wait_for("that it is gone", has("no aoe-target answers"));
    assert!(has("e7.199")(&lines), "the last figures stay: {lines:?}");
    let again = Answering::start(&socket, 4712, 3);
    terminal.wait_for("the new one", has("process 4712"));
    terminal.wait_for("rates of the new one", writes("e7.2"));
    let once = lab.host("b").command("aoe-stat").args(["--json", "--control"]).arg(&socket).run().succeeded().json();
    assert_eq!((&once["pid"], &once["exports"][2]["device"]), (&4712.into(), &"e7.2".into()));
    let table = lab.host("b").command("aoe-stat").arg("--control").arg(&socket).run().succeeded().stdout;
    assert!(table.contains("/srv/2.img") && table.contains("02:00:00:00:00:0a"), "{table}");
    terminal.press("q");
    assert_eq!(terminal.end(), 0);
    drop(again);
    let gone = lab.host("b").command("aoe-stat").arg("--control").arg(&socket).run().exited(1);
    assert!(gone.stderr.contains("is it running?"), "{}", gone.stderr);
}

/// The same of a real one, that has real work and is told what to do meanwhile.
#[test]
fn net_watch_shows_what_a_target_does_and_is_told() {
    let lab = Lab::pair(9000);
    for (number, disk) in ["one.img", "two.img"].into_iter().enumerate() {
        random_file(&lab.path(disk), 8 << 20, number as u64);
    }
    let export = |slot: u8, disk: &str| format!("[[export]]\nshelf = 0\nslot = {slot}\npath = \"{disk}\"\n");
    let exports = [export(1, "one.img"), export(2, "two.img"), export(3, "gone.img")].concat();
    fs::write(lab.path("target.toml"), format!("control = \"control.sock\"\n{exports}")).unwrap();
    let serve = "aoe-target serve --config target.toml";
    let target = lab.host("a").typed(serve).spawn_ready(|line| line.starts_with("serving e0.2"));
    let fio = load(&lab, &lab.attach("b", "e0.1", "disk.sock"), &[]);

    let socket = lab.path("control.sock");
    let variable = format!("AOE_TARGET_CONTROL={}", socket.display());
    let line = format!("{variable} aoe-stat --watch --target --interval 0.3");
    let mut terminal = Terminal::open(&lab, lab.host("a"), &line, (40, 120));
    let runs = |lines: &[String]| {
        let rate = |head| figure(lines, "e0.1", head).is_some_and(|rate| rate > 0.0);
        rate("read/s") && rate("write/s") && rate("r MiB/s")
    };
    let lines = terminal.wait_for("rates", runs);
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(lines[0].contains(&format!("process {}, ", target.id())) && has(", 1 not served"), "{lines:?}");
    assert_eq!((figure(&lines, "e0.2", "read/s"), figure(&lines, "e0.1", "errors")), (Some(0.0), Some(0.0)));
    assert!(has("stations of e0.1") && has(lab.mac("b")) && has(lab.mac("a")), "{lines:?}");
    println!("{}", lines.join("\n"));

    let ctl = |words: &str| {
        drop(lab.host("a").typed(&format!("aoe-target ctl --control control.sock {words}")).run().succeeded())
    };
    let row = |name: &'static str, word: &'static str| {
        move |lines: &[String]| {
            lines.iter().any(|line| line.starts_with(name) && line.split_whitespace().any(|found| found == word))
        }
    };
    ctl("set e0.2 --read-only yes");
    terminal.wait_for("a disk that takes no writes", row("e0.2 ", "read-only"));
    ctl("drain e0.1");
    let is_drained = row("e0.1 ", "draining");
    terminal.wait_for("a disk without work", |lines| {
        is_drained(lines) && figure(lines, "e0.1", "read/s") == Some(0.0) && figure(lines, "e0.1", "busy") == Some(0.0)
    });
    ctl("undrain e0.1");
    terminal.wait_for("rates again", runs);
    ctl("remove e0.2");
    terminal.wait_for("one disk less", |lines| !lines.iter().any(|line| line.starts_with("e0.2 ")));
    terminal.press("q");
    assert_eq!(terminal.end(), 0);

    let once = |word: &str| lab.host("a").command("env").args([&variable, "aoe-stat", "--target"]).args([word]).run();
    let told = once("--json").succeeded().json();
    assert_eq!((&told["pid"], &told["not_served"][0]["device"]), (&target.id().into(), &"e0.3".into()));
    let disk = &told["exports"][0];
    let counts = |name: &str| disk[name].as_u64().is_some_and(|count| count > 0);
    assert!(counts("reads") && counts("write_bytes") && told["exports"].as_array().unwrap().len() == 1, "{told}");
    assert_eq!(disk["stations"][0]["mac"], lab.mac("b"));
    drop(fio);
    let table = lab.host("a").command("aoe-stat").arg("--control").arg(&socket).run().succeeded().stdout;
    assert!(
        table.contains("one.img") && table.contains("gone.img: no such file") && table.contains(lab.mac("b")),
        "{table}"
    );
    target.stop().succeeded();
}

/// The page at a socket.
fn scrape(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("a socket for metrics");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, page) = text.split_once("\r\n\r\n").expect("a head and a page");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    page.to_owned()
}

/// The figures of a page by their names with labels, without those that all have.
fn figures(page: &str) -> BTreeMap<String, f64> {
    let figures = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let (name, labels) = name.trim_end_matches('}').split_once('{').expect("labels");
        let own = labels.split(',').filter(|label| !label.starts_with("device=") && !label.starts_with("where="));
        let own: Vec<_> = own.collect();
        (format!("{name} {}", own.join(",")).trim().to_owned(), value.parse().expect("a figure"))
    });
    figures.collect()
}

#[test]
fn net_watch_scraped_figures_agree_with_those_that_are_shown() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 16 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let (place, socket) = (format!("unix:{}", lab.path("disk.sock").display()), lab.path("metrics.sock"));
    let config = format!(
        "[[attach]]\ndevice = \"e0.1\"\nwhere = \"{place}\"\nmetrics = \"unix:{}\"\n[defaults]\nwait = 20\n",
        socket.display()
    );
    fs::write(lab.path("attach.toml"), config).unwrap();
    let checked = lab.host("b").typed("aoe-attach --config attach.toml --check").run().succeeded();
    assert_eq!(checked.stdout, "attach.toml: right, 1 disk\n");
    lab.host("b").typed("aoe-attach --config attach.toml e0.1").run().succeeded();
    let mut fio = load(&lab, &lab.nbd_uri("disk.sock"), &["--runtime=3", "--fsync=50"]);

    let operations = |page: &str, kind: &str| figures(page)[&format!("aoe_attach_operations_total kind=\"{kind}\"")];
    let first = scrape(&socket);
    wait_for("more reads and writes", || {
        let page = scrape(&socket);
        let grew = |kind| operations(&page, kind) > operations(&first, kind) + 100.0;
        (grew("read") && grew("write")).then_some(())
    });
    assert!(fio.ends_within(PATIENCE));
    // Nothing goes on any more; the last page may be as old as the one that is kept for a moment.
    sleep(Duration::from_millis(200));
    let stat = lab.stat("b");
    let shown = |name: &str| stat[0][name].as_f64().unwrap_or_else(|| panic!("{name} in {stat}"));
    let page = scrape(&socket);
    let told = figures(&page);
    for (name, field) in [
        ("aoe_attach_operations_total kind=\"read\"", "reads"),
        ("aoe_attach_operations_total kind=\"write\"", "writes"),
        ("aoe_attach_operations_total kind=\"flush\"", "flushes"),
        ("aoe_attach_data_bytes_total kind=\"read\"", "read_bytes"),
        ("aoe_attach_data_bytes_total kind=\"write\"", "write_bytes"),
        ("aoe_attach_latency_seconds_count kind=\"read\"", "reads"),
        ("aoe_attach_latency_seconds_count kind=\"write\"", "writes"),
        ("aoe_attach_latency_seconds_count kind=\"flush\"", "flushes"),
        ("aoe_attach_resends_total", "resends"),
        ("aoe_attach_errors_total", "errors"),
        ("aoe_attach_size_bytes", "size_bytes"),
    ] {
        assert_eq!(told[name], shown(field), "{name}\n{page}");
    }
    assert!(shown("flushes") > 0.0 && shown("errors") == 0.0);
    assert_eq!(told["aoe_attach_state state=\"up\""], 1.0);
    let path = format!("mac=\"{}\",interface=\"{}\"", lab.mac("a"), lab.interface("b"));
    assert_eq!(told[&format!("aoe_attach_path_state {path},state=\"up\"")], 1.0);
    assert!(told[&format!("aoe_attach_path_rtt_seconds {path}")] > 0.0);

    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    wait_for("the socket to go", || (!socket.exists()).then_some(()));
}
