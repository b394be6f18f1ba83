//! GFS2 on two hosts, fenced at the disk by `fence_aoe`, as docs/gfs2.md sets it up.
//!
//! alpha uses the disk by aoe.ko, beta by aoe-attach. Beta's network to alpha is cut while both write; beta still
//! reaches the disk, and each tries to fence the other. That beta is out when it is said to be is proven twice: by the
//! target's own record of beta's writes, and by the bytes of a file that nobody but beta writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aoe_tests::net::{Lab, Switch, wait_for};
use aoe_tests::vm::guide::{Guide, LabPlace, Place};
use aoe_tests::vm::{Guest, Job, Machine};

const BETA_OUT: &str = "; 02:00:00:00:00:02 is out after ";
const BETA_RECORD: &str = "e0.1 station 02:00:00:00:00:02:";

/// How long alpha may be held up: 11 s until corosync is sure, the agent, the journal, and a slow machine.
const STALL_MAX: Duration = Duration::from_secs(40);

/// For what takes some seconds; a machine that does other things as well takes longer.
const PATIENCE: Duration = Duration::from_secs(90);

/// Appends lines to /mnt/FILE under a lock, each made durable before it is noted in /tmp/FILE, until /tmp/stop is
/// there. Prints the longest time from one line to the next in seconds.
const APPEND: &str = r#"
use IO::Handle;
my ($name, $file) = @ARGV;
sub now { my $time = pack 'qq', 0, 0; syscall 228, 1, $time; my ($s, $ns) = unpack 'qq', $time; $s + $ns / 1e9 }
open my $noted, '>', "/tmp/$file" or die $!;
$noted->autoflush;
my ($last, $longest) = (now, 0);
for (my $n = 1; !-e '/tmp/stop'; $n++) {
    open my $shared, '>>', "/mnt/$file" or die $!;
    flock $shared, 2 or die $!;
    syswrite $shared, "$name $n\n" or die $!;
    $shared->sync or die $!;
    close $shared or die $!;
    print $noted "$name $n\n";
    my $now = now;
    $longest = $now - $last if $now - $last > $longest;
    $last = $now;
}
printf "%.1f\n", $longest;
"#;

/// Fills the file that only beta writes with blocks that are recognised on the disk.
const FILL: &str = r#"perl -e 'print pack "A4096", "only beta writes block $_" for 0..4095' >/mnt/load && sync"#;
const FILLED_WITH: &[u8] = b"only beta writes block ";

/// Writes all over that file, around the page cache, for longer than the test lasts.
const LOAD: &str = "fio --name=load --filename=/mnt/load --size=16M --rw=randwrite --bs=4k --direct=1 \
                    --ioengine=libaio --iodepth=8 --refill_buffers --time_based --runtime=3600";

#[test]
fn vm_gfs2_node_that_is_cut_off_is_fenced_at_the_disk() {
    let lab = Lab::switched(&["storage"], 9000);
    let storage = LabPlace::new(lab.host("storage"));
    let machines = [Machine::new("alpha", 1), Machine::new("beta", 2)].map(|machine| machine.lan().memory(448));
    let [alpha, beta] = Machine::boot_all(&lab, machines);
    let guide = Guide::open("gfs2");
    for section in ["The disk", "Who is let in", "The cluster", "The filesystem"] {
        guide.follow(section, &[("storage", &storage), ("alpha", &alpha), ("beta", &beta)]);
    }
    let target = storage.take_daemons().pop().expect("a target");

    // One filesystem.
    alpha.run("echo from alpha >/mnt/alpha");
    beta.run("echo from beta >/mnt/beta");
    assert_eq!(beta.run("cat /mnt/alpha"), "from alpha\n");
    assert_eq!(alpha.run("cat /mnt/beta"), "from beta\n");
    both_append_without_losing_a_line(&alpha, &beta);

    // Both write; what beta writes to its own file is found on the disk.
    beta.run(FILL);
    let file = FileOnDisk::find(&lab.path("disk.img"));
    let filled = file.bytes();
    let load = beta.start(LOAD);
    let own = append(&beta, "own");
    let [of_alpha, of_beta] = [&alpha, &beta].map(|guest| append(guest, "shared"));
    has_appended(&alpha, "shared", 30);
    has_appended(&beta, "own", 30);
    wait_for("the load", || (file.bytes() != filled).then_some(()));

    // The cut. Beta goes on writing until it is out.
    beta.cut(Switch::Lan);
    let cut = Instant::now();
    let before = file.bytes();
    let read = alpha.start("cat /mnt/own >/tmp/read");
    target.wait_for_line(|line| line.contains(BETA_OUT));
    let fenced = file.bytes();
    println!("beta is out {:.1?} after the cut", cut.elapsed());
    assert!(fenced != before, "beta wrote nothing after the cut");

    // Alpha, which waits for a lock of beta's, recovers, goes on, and has all that was durable on beta.
    read.finish(PATIENCE);
    let stall = cut.elapsed();
    println!("alpha was held up for {stall:.1?}");
    assert!(stall < STALL_MAX, "alpha was held up for {stall:.1?}");
    alpha.run("dmesg | grep 'jid=1: Journal replayed'");
    let lines = appended(&alpha, "shared").lines().count();
    has_appended(&alpha, "shared", lines + 30);
    alpha.run("touch /tmp/stop");
    let longest: f64 = of_alpha.finish(PATIENCE).trim().parse().expect("seconds");
    println!("alpha had {longest} s between two lines");
    assert!(longest < STALL_MAX.as_secs_f64(), "alpha had {longest} s between two lines");
    let shared = alpha.run("cat /mnt/shared");
    assert_eq!(lines_of("alpha", &shared), appended(&alpha, "shared"), "alpha's lines");
    assert_all_that_was_durable(&lines_of("beta", &shared), &appended(&beta, "shared"));
    assert_all_that_was_durable(&alpha.run("cat /mnt/own"), &appended(&beta, "own"));

    // Beta has tried to fence alpha too, and nobody listened; it still tries, and to write as well.
    let results = "dlm_tool dump | grep -o 'fence result 1 pid [0-9]* result .*'";
    beta.wait_until(PATIENCE, results);
    let results = beta.run(results);
    assert!(results.lines().all(|line| line.ends_with("result 1 exit status")), "{results}");
    assert_eq!(alpha.run("fence_aoe -o list -d e0.1"), "02:00:00:00:00:01,\n");
    assert!([load, own, of_beta].iter().all(Job::is_running), "beta has given up");

    // Nothing of beta landed.
    alpha.run("umount /mnt");
    alpha.run("fsck.gfs2 -n /dev/etherd/e0.1");
    let report = target.stop().succeeded().output();
    println!("{report}");
    let told = number(&report, BETA_OUT, " writes");
    let record = report.split_once(BETA_RECORD).expect("a record of beta").1;
    assert_eq!(number(record, " reads, ", " writes"), told, "beta's writes when it was out, and at the end\n{report}");
    assert!(number(record, " given up, ", " frames ignored since it was shut out") > 0, "beta tried\n{report}");
    assert!(file.bytes() == fenced, "beta's file has changed since beta was out");

    // Beta comes back, with the files of an installed machine.
    let machine = beta.kill();
    let _target = lab.export("storage", "shelf 0 slot 1 disk.img");
    alpha.run("mount -t gfs2 -o noatime /dev/etherd/e0.1 /mnt");
    let beta = machine.boot(&lab);
    for file in ["/etc/corosync/corosync.conf", "/etc/dlm/dlm.conf"] {
        beta.write(file, guide.file("beta", file));
    }
    let deaf = beta.fails("aoe-discover");
    assert!(deaf.contains("no AoE target answers"), "the list outlives the target\n{deaf}");
    guide.follow("Bringing it back", &[("alpha", &alpha), ("beta", &beta)]);
    assert_eq!(beta.run("cat /mnt/alpha"), "from alpha\n");
    beta.run("echo again >/mnt/beta");
    assert_eq!(alpha.run("cat /mnt/beta"), "again\n");
    beta.run("umount /mnt && aoe-detach e0.1");
    alpha.run("umount /mnt");
    alpha.run("fsck.gfs2 -n /dev/etherd/e0.1");
}

fn both_append_without_losing_a_line(alpha: &Guest<'_>, beta: &Guest<'_>) {
    let both = [alpha, beta];
    let jobs = both.map(|guest| append(guest, "shared"));
    both.iter().for_each(|guest| has_appended(guest, "shared", 100));
    both.iter().for_each(|guest| drop(guest.run("touch /tmp/stop")));
    jobs.into_iter().for_each(|job| drop(job.finish(PATIENCE)));
    let shared = alpha.run("cat /mnt/shared");
    assert_eq!(beta.run("cat /mnt/shared"), shared);
    for guest in both {
        assert_eq!(lines_of(guest.name(), &shared), appended(guest, "shared"));
    }
    let names: Vec<_> = shared.lines().map(|line| line.split(' ').next()).collect();
    let turns = names.windows(2).filter(|pair| pair[0] != pair[1]).count();
    println!("{} lines, {turns} changes of turn", names.len());
    assert!(turns > 10, "they did not write at the same time");
    both.iter().for_each(|guest| drop(guest.run("rm -f /tmp/stop /mnt/shared")));
}

/// Starts to append to a file, with the guest's name in each line.
fn append<'guest>(guest: &'guest Guest<'guest>, file: &str) -> Job<'guest> {
    guest.start(&format!("cat >/tmp/append <<'END'\n{APPEND}END\nexec perl /tmp/append {} {file}", guest.name()))
}

/// Waits until so many lines are durable.
fn has_appended(guest: &Guest<'_>, file: &str, lines: usize) {
    guest.wait_until(PATIENCE, &format!("[ -e /tmp/{file} ] && [ $(wc -l </tmp/{file}) -ge {lines} ]"));
}

/// The lines that are durable, as the one that wrote them knows it.
fn appended(guest: &Guest<'_>, file: &str) -> String {
    guest.run(&format!("cat /tmp/{file}"))
}

fn lines_of(name: &str, text: &str) -> String {
    text.split_inclusive('\n').filter(|line| line.starts_with(name)).collect()
}

/// All lines that were known to be durable are there, and at most the one that was being written.
fn assert_all_that_was_durable(found: &str, durable: &str) {
    assert!(found.starts_with(durable), "found {found:?} of {durable:?}");
    let more = found.lines().count() - durable.lines().count();
    assert!(more <= 1, "{more} lines more than {durable:?}");
}

/// The number between two texts, somewhere in a text.
fn number(text: &str, before: &str, after: &str) -> u64 {
    let found = text.split(before).skip(1).find_map(|rest| rest.split_once(after)?.0.parse().ok());
    found.unwrap_or_else(|| panic!("no {before:?} NUMBER {after:?} in\n{text}"))
}

/// A file of the guests, as it is on the target's disk.
struct FileOnDisk {
    disk: File,
    /// Where its blocks begin, in bytes.
    blocks: Vec<u64>,
}

const BLOCK: usize = 4096;

impl FileOnDisk {
    /// Finds the blocks that [`FILL`] has written.
    fn find(disk: &Path) -> FileOnDisk {
        let disk = File::open(disk).expect("the target's disk");
        let length = disk.metadata().expect("a file").len();
        let mut chunk = vec![0; 1 << 20];
        let mut blocks = Vec::new();
        for start in (0..length).step_by(chunk.len()) {
            disk.read_exact_at(&mut chunk, start).expect("a disk of whole MiB");
            let filled = chunk.chunks(BLOCK).enumerate().filter(|(_, block)| block.starts_with(FILLED_WITH));
            blocks.extend(filled.map(|(at, _)| start + (at * BLOCK) as u64));
        }
        assert_eq!(blocks.len(), 4096, "blocks of the file that were found on the disk");
        FileOnDisk { disk, blocks }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.blocks.len() * BLOCK];
        for (block, start) in bytes.chunks_mut(BLOCK).zip(&self.blocks) {
            self.disk.read_exact_at(block, *start).expect("reading the target's disk");
        }
        bytes
    }
}
