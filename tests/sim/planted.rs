//! Proof that the simulator can fail: how many seeds it takes to find each planted fault.

use std::fmt::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aoe_common::planted::{Fault, plant};

use super::world::{Options, run};

/// The longest account of how a fault showed, in characters.
const ACCOUNT_MAX: usize = 90;

/// Looks for one fault: after how many seeds it showed, and how.
fn find(fault: Fault, seeds: Range<u64>) -> Option<(u64, String)> {
    plant(Some(fault));
    let first = seeds.start;
    let found = seeds.into_iter().find_map(|seed| {
        let account = match catch_unwind(AssertUnwindSafe(|| run(seed, &Options::default()))) {
            Ok(Ok(_)) => return None,
            Ok(Err(failure)) => failure.what,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                format!("an assertion: {}", text.unwrap_or("no words"))
            }
        };
        Some((seed - first + 1, account))
    });
    plant(None);
    found
}

/// A table of all faults, and whether each was found. Progress goes to standard error.
pub fn table(seeds: &Range<u64>) -> (String, bool) {
    // An assertion that fires is a find, not a crash.
    std::panic::set_hook(Box::new(|_| {}));
    let mut table = "| fault | what goes wrong | seeds | how it showed |\n|---|---|---|---|\n".to_owned();
    let mut all = true;
    for (fault, what) in Fault::ALL {
        let what = what.trim().trim_end_matches('.');
        let found = find(*fault, seeds.clone());
        all &= found.is_some();
        let (count, account) = match found {
            Some((count, account)) => (count.to_string(), account),
            None => ("not found".to_owned(), format!("{} seeds ran clean", seeds.end - seeds.start)),
        };
        let mut short: String = account.chars().take(ACCOUNT_MAX).collect();
        if short.len() < account.len() {
            short.push_str("...");
        }
        eprintln!("{fault:?}: {count}");
        writeln!(table, "| {fault:?} | {what} | {count} | {short} |").expect("texts take what is written");
    }
    let _ = std::panic::take_hook();
    (table, all)
}
