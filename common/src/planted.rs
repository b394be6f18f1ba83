//! Faults for the simulator to find: proof that it can fail.
//!
//! In a build with `--cfg planted`, which only `tests/sim/planted` makes, one fault at a time can be switched on for the
//! calling thread. In every other build each question is answered "no" by the compiler, and nothing is left of it.

macro_rules! faults {
    ($(#[doc = $what:literal] $name:ident,)+) => {
        /// A fault, named after what goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $(#[doc = $what] $name,)+
        }

        impl Fault {
            /// All of them, and what goes wrong.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $what),)+];
        }
    };
}

faults! {
    /// Target: no memory of repeats: every copy runs.
    NoMemory,
    /// Target: a write is forgotten when it is answered.
    MemoryTooShort,
    /// Target: a copy of a write that still runs is run, too.
    RunningForgotten,
    /// Target: stations are known by their MAC address alone.
    IdentityIgnored,
    /// Target: what an address was known by before is forgotten at once.
    FormerForgotten,
    /// Target: late attempts of aoe.ko are run.
    StaleRun,
    /// Target: overlapping operations run together.
    NoOrder,
    /// Target: reads do not wait for writes.
    ReadsOvertake,
    /// Target: a write is answered when it is taken in.
    AnsweredBeforeDisk,
    /// Target: a flush is answered at once.
    FlushSkipped,
    /// Target: a flush is answered by a sync that began before it came.
    FlushJoins,
    /// Target: FUA and write-through are forgotten.
    DurableForgotten,
    /// Target: every station is taken to flush.
    AutoTrusts,
    /// Target: a failed sync is forgotten.
    PoisonForgotten,
    /// Target: an edit is answered while writes of whom it shut out still run.
    EditNotDrained,
    /// Target: requests that wait are run though their station was shut out.
    WaitingKept,
    /// Target: an edit is answered before it is stored.
    EditNotStored,
    /// Target: a copy of an old edit is applied again.
    EditsRepeated,
    /// Target: writes run at once after a restart.
    NoHold,
    /// Target: after a loss of power its memory is named as before.
    LossHidden,
    /// Initiator: no quarantine.
    NoQuarantine,
    /// Initiator: each stray answer counts for two copies.
    StraysCountTwice,
    /// Initiator: an answer that ends a quarantine may come from anybody.
    StraysOfAnybody,
    /// Initiator: no quarantine after a write moved from one target to another.
    TwinsTrusted,
    /// Initiator: no quarantine after a write was given up.
    DoubtForgotten,
    /// Initiator: one that takes over writes at once.
    TakesOverAtOnce,
    /// Initiator: tags come round again after 256.
    TagsReused,
    /// Initiator: what is sent again has a new tag.
    NewTags,
    /// Initiator: parts behind the first begin one sector early.
    SplitOffByOne,
    /// Initiator: an answer may come by a path that was not asked.
    AnyPathAnswers,
    /// Initiator: another disk under the same address is used.
    ForeignUsed,
    /// Initiator: a part that failed counts as done.
    ErrorSwallowed,
    /// Initiator: a lost cache is not noticed.
    LossIgnored,
}

/// Whether the fault is there.
#[cfg(not(planted))]
#[inline(always)]
pub const fn planted(_: Fault) -> bool {
    false
}

#[cfg(planted)]
mod switch {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Whether the fault is there.
    pub fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// Plants a fault in this thread, or removes it.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }
}

#[cfg(planted)]
pub use switch::{plant, planted};
