//! The keys of the configuration file of `aoe-target serve`, each with what it takes, what holds without it, and what it is for:
//! messages, `--help` and the manual page come from here.

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the top of the file.
    Top,
    /// In `[defaults]`, for all exports, and in an `[[export]]`, for that one.
    Each,
    /// In an `[[export]]`.
    Export,
    /// In `edits`.
    Edits,
}

/// One key of the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Where it may stand.
    pub place: Place,
    /// What it takes: "takes ...".
    pub kind: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, in one or more sentences.
    pub about: &'static str,
}

/// All keys, in the order in which they are explained.
pub const KEYS: &[Key] = &[
    Key {
        name: "interfaces",
        place: Place::Top,
        kind: "a list of names of interfaces, such as [\"eth1\", \"storage*\"]",
        default: "every Ethernet interface",
        about: "Serve on these interfaces only. A name may have the wildcards *, ? and [...]. An interface that is not there \
                yet is waited for. A bond stands for its members, unless they are named.",
    },
    Key {
        name: "threads",
        place: Place::Top,
        kind: "a number from 1 to 64",
        default: "1",
        about: "Serving threads. Each serves its share of the exports.",
    },
    Key {
        name: "io",
        place: Place::Top,
        kind: "\"auto\", \"io_uring\" or \"sync\"",
        default: "\"auto\"",
        about: "How disks are reached: by io_uring, by plain system calls, or by io_uring where the kernel allows it.",
    },
    Key {
        name: "poll",
        place: Place::Top,
        kind: "a number of microseconds from 0 to 1000",
        default: "50",
        about: "Look out for the next request for so long before sleeping, after a shorter pause than that. Takes a processor \
                up to so long for each pause, and saves what it costs to sleep and be woken. 0: never.",
    },
    Key {
        name: "hold",
        place: Place::Top,
        kind: "true or false",
        default: "true",
        about: "After a restart writes wait until the last process is gone for 10 s. Without that, a copy of an older write \
                that the network still holds may undo a newer one.",
    },
    Key {
        name: "wildcard-edits",
        place: Place::Top,
        kind: "true or false",
        default: "false",
        about: "Let clients change settings of many exports, or write to them, with one frame (to shelf or slot \"any\").",
    },
    Key {
        name: "state-directory",
        place: Place::Top,
        kind: "a path",
        default: "$AOE_STATE_DIR, else /var/lib/aoe-target",
        about: "Keep settings that clients make (config string, mask list, reservation) here.",
    },
    Key {
        name: "control",
        place: Place::Top,
        kind: "a path",
        default: "$AOE_TARGET_CONTROL, else /run/aoe-target/control.sock",
        about: "The socket for aoe-target ctl and aoe-stat.",
    },
    Key {
        name: "metrics",
        place: Place::Top,
        kind: "\"unix:PATH\" or \"ADDRESS:PORT\"",
        default: "none",
        about: "Give out figures for Prometheus here: on a unix socket, or on a TCP port such as \"127.0.0.1:9655\". Whoever \
                reaches it can read who uses which disk.",
    },
    Key {
        name: "sandbox",
        place: Place::Top,
        kind: "true or false",
        default: "true",
        about: "Give up all rights that serving does not need, once it has started (capabilities, landlock, seccomp).",
    },
    Key {
        name: "defaults",
        place: Place::Top,
        kind: "a table: [defaults]",
        default: "none",
        about: "What holds for every export that does not say otherwise.",
    },
    Key {
        name: "export",
        place: Place::Top,
        kind: "tables: [[export]], one for each export or family of exports",
        default: "none; exports can be added by aoe-target ctl",
        about: "A file or block device to serve, or a family of files.",
    },
    Key {
        name: "cache",
        place: Place::Each,
        kind: "\"auto\", \"writeback\" or \"writethrough\"",
        default: "\"auto\"",
        about: "When a write is acknowledged: once it is durable (writethrough), once this host's cache has it, durable after \
                a FLUSH (writeback), or as writethrough for a client until it sends a FLUSH, then as writeback (auto).",
    },
    Key {
        name: "direct",
        place: Place::Each,
        kind: "true or false",
        default: "false",
        about: "Bypass the page cache of this host (O_DIRECT).",
    },
    Key { name: "read-only", place: Place::Each, kind: "true or false", default: "false", about: "Take no writes." },
    Key {
        name: "allow",
        place: Place::Each,
        kind: "a list of MAC addresses, such as [\"02:00:00:00:00:0a\"]",
        default: "[], everybody",
        about: "Serve only stations with these addresses; others get no answer. No frame changes this list. A MAC address \
                proves nothing: whoever can send frames can borrow one.",
    },
    Key {
        name: "buffers",
        place: Place::Each,
        kind: "a number from 2 to 1024",
        default: "64",
        about: "Requests an export says it can queue. aoe.ko has no more than so many under way.",
    },
    Key {
        name: "model",
        place: Place::Each,
        kind: "a text of 1 to 40 plain characters",
        default: "\"AoE toolkit disk\"",
        about: "Model of the disk, as clients see it.",
    },
    Key {
        name: "edits",
        place: Place::Each,
        kind: "a table, such as { config = \"none\", mask = [\"02:00:00:00:00:0a\"], reservation = \"all\" }",
        default: "everybody may make all of them",
        about: "Who may make edits over the wire. Others are refused with AoE error 2; reading is always allowed.",
    },
    Key {
        name: "shelf",
        place: Place::Export,
        kind: "a number from 0 to 65534",
        default: "it must be given",
        about: "The shelf number: the 7 in e7.1. Linux refuses 4095.",
    },
    Key {
        name: "slot",
        place: Place::Export,
        kind: "a number from 0 to 254",
        default: "it must be given, or slot-from",
        about: "The slot number: the 1 in e7.1.",
    },
    Key {
        name: "slot-from",
        place: Place::Export,
        kind: "a number from 0 to 254",
        default: "none",
        about: "Serve every file whose name fits the pattern in path: the first in the order of their names in this slot, each \
                further one in the next. A new name that sorts in between moves all behind it by a slot when the file is read \
                again, so number the names. Folders and names that begin with a dot are left out.",
    },
    Key {
        name: "path",
        place: Place::Export,
        kind: "a path; with slot-from, one whose last part has *, ? or [...]",
        default: "it must be given",
        about: "The file or block device. One that is not absolute starts at the folder of this file. Stable names, as in \
                /dev/disk/by-id, are best for devices. An image file that grows makes a larger disk within seconds.",
    },
    Key {
        name: "serial",
        place: Place::Export,
        kind: "a text of 1 to 20 plain characters",
        default: "made from address and path",
        about: "Serial number of the disk, as clients see it. Not for families.",
    },
    Key {
        name: "offset",
        place: Place::Export,
        kind: "a number of 512-byte sectors",
        default: "0",
        about: "Leave out so many sectors at the start of the file.",
    },
    Key {
        name: "length",
        place: Place::Export,
        kind: "a number of 512-byte sectors, at least 1",
        default: "all, and more as the file grows",
        about: "Export so many sectors.",
    },
    Key {
        name: "config",
        place: Place::Edits,
        kind: "\"all\", \"none\" or a list of MAC addresses",
        default: "\"all\"",
        about: "Who may set the config string.",
    },
    Key {
        name: "mask",
        place: Place::Edits,
        kind: "\"all\", \"none\" or a list of MAC addresses",
        default: "\"all\"",
        about: "Who may edit the MAC mask list. Fence agents do.",
    },
    Key {
        name: "reservation",
        place: Place::Edits,
        kind: "\"all\", \"none\" or a list of MAC addresses",
        default: "\"all\"",
        about: "Who may reserve and release.",
    },
];

impl Place {
    /// Whether keys of this place may stand in a table of that place.
    pub(crate) fn is_in(self, table: Self) -> bool {
        self == table || self == Self::Each && table == Self::Export
    }

    /// Where that is, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Top => "at the top of the file, above the first [table]",
            Self::Each => "in [defaults] or an [[export]]",
            Self::Export => "in an [[export]]",
            Self::Edits => "in edits",
        }
    }
}
