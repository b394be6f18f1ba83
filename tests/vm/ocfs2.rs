//! OCFS2 on two hosts with one of our disks, set up as docs/ocfs2.md says: alpha has it by Linux's own driver, beta by
//! `aoe-attach`. One of them dies while both write.

use std::fs;
use std::time::Duration;

use aoe_tests::net::{Lab, Switch, wait_for};
use aoe_tests::vm::guide::{Away, Guide, LabPlace, Place};
use aoe_tests::vm::{Guest, Job, Machine};
use serde_json::Value;

/// Seconds that a line may take the survivor: 20 until the dead one's heartbeat counts as missed, some for the recovery,
/// and the rest for a machine that is busy with other virtual ones.
const LONGEST_STALL: u64 = 90;

/// The same when a host is cut off, which takes 16 s until it ends itself.
const LONGEST_STALL_AFTER_CUT: u64 = 120;

/// For what ends before the longest stall does.
const PATIENCE: Duration = Duration::from_secs(150);

/// Lines that each host appends while both are well.
const LINES: u32 = 100;

/// Lines that show that a host writes.
const SOME: u32 = 20;

/// What both append to, in /shared: while both are well, and while one dies.
const IN_PEACE: &str = "peace";
const IN_DANGER: &str = "danger";

/// Two hosts that share a filesystem, and see each other's files.
fn two_hosts<'lab>(lab: &'lab Lab, guide: &Guide, storage: &LabPlace<'_>) -> [Guest<'lab>; 2] {
    let [alpha, beta] = Machine::boot_all(lab, [Machine::new("alpha", 1).lan(), Machine::new("beta", 2).lan()]);
    for section in ["The disk", "The cluster", "Attach", "Format", "Mount"] {
        guide.follow(section, &[("storage", storage), ("alpha", &alpha), ("beta", &beta)]);
    }
    // Two hosts that create the same file at the same moment may both be told that it exists: so is OCFS2.
    alpha.run(&format!("touch /shared/{IN_PEACE} /shared/{IN_DANGER}"));
    files_are_shared(&alpha, &beta);
    [alpha, beta]
}

/// Appends numbered lines to a file, each under lock and synchronised, from when /shared/start is there until there are
/// enough. Says on the console, which outlives the machine, which line is safe; in the end, how many seconds a line took
/// at most.
fn append<'guest>(guest: &'guest Guest<'_>, file: &str, lines: u32) -> Job<'guest> {
    let name = guest.name();
    guest.start(&format!(
        r#"perl -e '
            use Fcntl ":flock"; use IO::Handle;
            open my $file, "+<", "/shared/{file}" or die "open: $!";
            open my $console, ">", "/dev/console" or die "console: $!";
            $console->autoflush(1);
            $| = 1; print "ready\n";
            select undef, undef, undef, 0.05 until -e "/shared/start";
            my ($longest, $before) = (0, time);
            for (my $n = 1; $n <= {lines} and not -e "/tmp/enough"; $n++) {{
                flock $file, LOCK_EX or die "lock: $!";
                seek $file, 0, 2 or die "end: $!";
                print $file "{name} $n\n" or die "write: $!";
                $file->flush or die "write: $!";
                $file->sync or die "sync: $!";
                flock $file, LOCK_UN or die "unlock: $!";
                print $console "safe in {file}: {name} $n.\n";
                my $now = time;
                $longest = $now - $before if $longest < $now - $before;
                $before = $now;
                select undef, undef, undef, 0.02; # So that the other host gets its turn.
            }}
            print "$longest\n";
        '"#
    ))
}

/// The number of the last line of a host that was synchronised, dead or alive.
fn safe(lab: &Lab, host: &str, file: &str) -> u32 {
    let console = fs::read(lab.path(&format!("{host}.console"))).expect("a console");
    let console = String::from_utf8_lossy(&console);
    let begin = format!("safe in {file}: {host} ");
    let numbers = console.lines().filter_map(|line| line.split_once(&begin)?.1.split_once('.')?.0.parse().ok());
    numbers.max().unwrap_or(0)
}

/// How many lines each host has in the file; panics if one is torn, lost, doubled, or where it does not belong.
fn lines(text: &str) -> [u32; 2] {
    let mut counts = [0, 0];
    for line in text.lines() {
        let host = if line.starts_with("alpha ") { 0 } else { 1 };
        counts[host] += 1;
        let expected = format!("{} {}", ["alpha", "beta"][host], counts[host]);
        assert_eq!(line, expected, "in\n{text}");
    }
    counts
}

/// Each sees what the other writes, renames and deletes.
fn files_are_shared(alpha: &Guest<'_>, beta: &Guest<'_>) {
    for (writer, reader) in [(alpha, beta), (beta, alpha)] {
        let folder = format!("/shared/{}", writer.name());
        writer.run(&format!(
            "mkdir {folder} && cd {folder} && for n in 1 2 3 4; do head -c 1048579 /dev/urandom >$n; done && \
             sha256sum * >sums && echo draft >draft && echo waste >waste"
        ));
        reader.run(&format!("cd {folder} && sha256sum -c sums && rm waste && mv draft fair"));
        assert_eq!(writer.run(&format!("cd {folder} && ls && cat fair")), "1\n2\n3\n4\nfair\nsums\ndraft\n");
    }
}

/// Both append to one file at the same time, and no line is lost.
fn lock_keeps_lines(alpha: &Guest<'_>, beta: &Guest<'_>) {
    let jobs = [append(alpha, IN_PEACE, LINES), append(beta, IN_PEACE, LINES)];
    jobs.iter().for_each(|job| job.wait_for_line("ready", PATIENCE));
    alpha.run("touch /shared/start");
    jobs.into_iter().for_each(|job| drop(job.finish(PATIENCE)));
    let text = alpha.run(&format!("cat /shared/{IN_PEACE}"));
    assert_eq!(beta.run(&format!("cat /shared/{IN_PEACE}")), text);
    assert_eq!(lines(&text), [LINES, LINES]);
    let hosts: Vec<&str> = text.lines().map(|line| &line[..1]).collect();
    let turns = hosts.windows(2).filter(|pair| pair[0] != pair[1]).count();
    println!("the lock went {turns} times to the other host");
    assert!(turns >= 20, "they hardly met: {turns}");
}

/// Starts to append on both hosts. Returns when both do, with the job of the second.
fn both_append<'guest>(lab: &Lab, dying: &Guest<'_>, survivor: &'guest Guest<'_>) -> Job<'guest> {
    append(dying, IN_DANGER, u32::MAX);
    let job = append(survivor, IN_DANGER, u32::MAX);
    survivor.run("touch /shared/start");
    for guest in [dying, survivor] {
        wait_for("both to write", || (safe(lab, guest.name(), IN_DANGER) >= SOME).then_some(()));
    }
    job
}

/// The survivor evicts the other, a node of this number, repairs what that one left half done, and goes on; what was
/// safe is there.
fn survive(lab: &Lab, survivor: &Guest<'_>, job: Job<'_>, (dead, node): (&str, u32), longest: u64) -> String {
    for event in [format!("evicted node {node} from domain"), format!("End replay journal (node {node},")] {
        survivor.wait_until(PATIENCE, &format!("dmesg | grep -qF '{event}'"));
    }
    let by_now = safe(lab, survivor.name(), IN_DANGER);
    wait_for("the survivor to go on", || (safe(lab, survivor.name(), IN_DANGER) >= by_now + SOME).then_some(()));
    survivor.run("touch /tmp/enough");
    let stall: u64 = job.finish(PATIENCE).lines().last().and_then(|line| line.parse().ok()).expect("seconds");
    println!("the survivor's longest stall: {stall} s");
    assert!(stall <= longest, "a line took {stall} s");

    survivor.run(
        "echo 3 >/proc/sys/vm/drop_caches; cd /shared/alpha && sha256sum -c sums && cd ../beta && sha256sum -c sums",
    );
    let text = survivor.run(&format!("cat /shared/{IN_DANGER}"));
    let counts = lines(&text);
    let [mine, other] = if node == 0 { [counts[1], counts[0]] } else { counts };
    assert_eq!(mine, safe(lab, survivor.name(), IN_DANGER), "lines of the survivor");
    let promised = safe(lab, dead, IN_DANGER);
    assert!(promised >= SOME && other >= promised, "{promised} lines of {dead} were safe, {other} are there");
    text
}

/// The guide's check finds nothing; fsck's findings are lines that begin with a bracket.
fn check(guide: &Guide, machines: &[(&str, &dyn Place)], alpha: &Guest<'_>) {
    guide.follow("Check", machines);
    let found = alpha.run("fsck.ocfs2 -fn /dev/etherd/e0.1");
    assert!(found.contains("All passes succeeded") && !found.contains("\n["), "{found}");
    guide.follow("Take it down", machines);
}

#[test]
fn vm_ocfs2_outlives_a_killed_host() {
    let lab = Lab::switched(&["storage"], 9000);
    let storage = LabPlace::new(lab.host("storage"));
    let guide = Guide::open("ocfs2");
    let [alpha, beta] = two_hosts(&lab, &guide, &storage);
    lock_keeps_lines(&alpha, &beta);

    let job = both_append(&lab, &alpha, &beta);
    let alpha = alpha.kill();
    let text = survive(&lab, &beta, job, ("alpha", 0), LONGEST_STALL);

    // Each line that beta has synchronised was a flush, which made it durable on the target's disk.
    let stat: Value = serde_json::from_str(&beta.run("aoe-stat --json /dev/nbd1")).expect("JSON");
    let flushes = stat[0]["flushes"].as_u64().expect("a number");
    let synchronised = LINES + safe(&lab, "beta", IN_DANGER);
    assert!(flushes >= synchronised.into(), "{flushes} flushes for {synchronised} lines");

    // The dead one returns, and is a host like before.
    let alpha = alpha.boot(&lab);
    for section in ["The cluster", "Attach", "Mount"] {
        guide.follow(section, &[("alpha", &alpha), ("beta", &Away)]);
    }
    assert_eq!(alpha.run(&format!("cat /shared/{IN_DANGER}")), text);
    alpha.run("echo back >/shared/news");
    assert_eq!(beta.run("cat /shared/news"), "back\n");

    check(&guide, &[("alpha", &alpha), ("beta", &beta)], &alpha);
    for target in storage.take_daemons() {
        let report = target.stop().succeeded().output();
        assert!(report.contains("flushes; 0 failed"), "{report}");
    }
}

#[test]
fn vm_ocfs2_fences_a_host_that_is_cut_off() {
    let lab = Lab::switched(&["storage"], 9000);
    let storage = LabPlace::new(lab.host("storage"));
    let guide = Guide::open("ocfs2");
    let [alpha, beta] = two_hosts(&lab, &guide, &storage);

    // Both still reach the disk, but no longer each other. The one that is not the lowest node ends itself, and until
    // then the other does not take its locks.
    let job = both_append(&lab, &beta, &alpha);
    beta.cut(Switch::Lan);
    beta.wait_for_end(PATIENCE);
    assert!(!alpha.succeeds("dmesg | grep -q 'has evicted node'"), "alpha took over while beta could still write");
    let last_words = fs::read_to_string(lab.path("beta.console")).expect("a console");
    assert!(last_words.contains("sorry to be fencing this system"), "{last_words}");
    survive(&lab, &alpha, job, ("beta", 1), LONGEST_STALL_AFTER_CUT);

    check(&guide, &[("alpha", &alpha), ("beta", &Away)], &alpha);
}
