//! What a running process costs, as the kernel counts it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// The processor time of all threads of a process, those that have ended included, to the nanosecond.
pub fn processor_time(process: u32) -> Duration {
    let process = Pid::from_raw(i32::try_from(process).expect("the number of a process"));
    let time = ClockId::pid_cpu_clock_id(process).and_then(clock_gettime);
    time.unwrap_or_else(|e| panic!("the processor time of process {process}: {e}")).into()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_costs_and_threads_count() {
        let before = processor_time(std::process::id());
        let busy = || {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(30) {}
        };
        std::thread::spawn(busy).join().unwrap();
        let spent = processor_time(std::process::id()) - before;
        assert!(spent > Duration::from_millis(1), "{spent:?}");
    }
}
