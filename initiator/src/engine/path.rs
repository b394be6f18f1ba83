//! One way to a target: its MAC address over one of our ports.

use aoe_common::ata::CacheMemory;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::MacAddr;

use super::PortId;
use super::measuring::Measuring;
use super::recovery::{Kind, Recovery};
use super::rtt::Rtt;
use super::window::Window;

/// Paths of one device at the most; answers from further ones are ignored.
pub const PATHS_MAX: usize = 16;

/// Frames under way on one path at the most, whatever the target offers.
pub const WINDOW_MAX: u32 = 256;

/// Frames in a row that go unanswered before a path is given up for another.
pub const LOSSES_TO_FAIL: u32 = 6;

/// How long it has to be silent as well: many frames under way are all lost in one moment of a target that is busy.
pub const SILENCE_TO_FAIL: Duration = Duration::from_secs(1);

/// What a path is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// A target answered; whether it has our disk is being asked, then it is told who we are. Attempts so far,
    /// and when to ask again.
    Identifying {
        /// Requests sent.
        attempts: u32,
        /// When to send the next.
        again: Instant,
    },
    /// Carries requests.
    Live,
    /// Too many losses, or its port went away; asked now and then whether it is back.
    Failed,
    /// Another disk answers here under our address. Never used.
    Foreign,
}

/// A path and what is known about it.
#[derive(Clone, Debug)]
pub struct Path {
    /// Our port.
    pub port: PortId,
    /// The target's address.
    pub mac: MacAddr,
    /// Sectors per command that both ends take: what frames carry and what the target says.
    pub offered: u8,
    /// Sectors that were found to pass on the way; `u8::MAX` while there is no doubt.
    pub passes: u8,
    /// Finds that out.
    pub measuring: Option<Measuring>,
    /// When it may begin (again).
    pub measure_from: Instant,
    /// What it is good for.
    pub state: PathState,
    /// Round-trip time.
    pub rtt: Rtt,
    /// What tells of losses before a time-out does, for each [`Kind`].
    recoveries: [Recovery; Kind::ALL.len()],
    /// Frames that may be under way.
    pub window: Window,
    /// Frames under way.
    pub in_flight: u32,
    /// Losses since the last answer.
    pub losses: u32,
    /// When the first of these was sent.
    pub silent_since: Instant,
    /// Frames sent again.
    pub resends: u64,
    /// What is being asked, while it is being identified and, now and then, afterwards.
    pub question: Question,
    /// Tag of the question that is under way.
    pub question_tag: Option<u32>,
    /// When it was sent.
    pub asked_at: Instant,
    /// The target knows us by our identity on this path, not by our MAC address alone.
    pub registered: bool,
    /// Where its target keeps writes that are not durable, as it said last.
    pub memory: Option<CacheMemory>,
}

/// What a path is asked before it carries requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which disk it leads to.
    Identify,
    /// To know us by our identity.
    Register,
}

impl Path {
    /// A path that has just been heard of.
    pub fn new(now: Instant, port: PortId, mac: MacAddr, offered: u8, buffers: u16) -> Self {
        Self {
            port,
            mac,
            offered,
            passes: u8::MAX,
            measuring: None,
            measure_from: now,
            state: PathState::Identifying { attempts: 0, again: now },
            rtt: Rtt::default(),
            recoveries: Default::default(),
            window: Window::new(u32::from(buffers).min(WINDOW_MAX)),
            in_flight: 0,
            losses: 0,
            silent_since: now,
            resends: 0,
            question: Question::Identify,
            question_tag: None,
            asked_at: now,
            registered: false,
            memory: None,
        }
    }

    /// Sectors per command.
    pub fn sectors(&self) -> u8 {
        self.offered.min(self.passes)
    }

    /// What tells of losses among frames of this kind.
    pub fn recovery(&mut self, kind: Kind) -> &mut Recovery {
        &mut self.recoveries[kind as usize]
    }

    /// When a frame may count as lost, by what was answered since.
    pub fn recovery_due(&self) -> Option<Instant> {
        self.recoveries.iter().filter_map(Recovery::due).min()
    }

    /// Whether requests may be sent.
    pub fn is_live(&self) -> bool {
        self.state == PathState::Live
    }

    /// Whether one more request may be sent now.
    pub fn has_room(&self) -> bool {
        self.is_live() && self.in_flight < self.window.size()
    }

    /// To ask it (again) for its disk.
    pub fn identify(&mut self, now: Instant) {
        self.state = PathState::Identifying { attempts: 0, again: now };
        self.question = Question::Identify;
        self.question_tag = None;
        self.registered = false;
    }

    /// How long to wait for the answer to the IDENTIFY with that many attempts behind it.
    pub fn identify_timeout(attempts: u32) -> Duration {
        Duration::from_millis(200 << attempts.min(3))
    }
}
