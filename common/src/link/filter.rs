//! Socket filters: classic BPF programs that keep frames for others out of a port.
//!
//! They spare work; they are no guard. Everything they let through is checked again by who receives it, but for one thing:
//! a frame that an interface on top has taken for itself is not for who listens on the one below. The kernel hands a frame
//! of a VLAN to both, to the lower one as if it had no tag, and tells them apart by its interface only.
//!
//! A program sees the frame from its Ethernet header on, without the VLAN tag, and answers how many bytes to keep.
//! A frame that ends before a byte the program reads is rejected by the kernel.

use std::collections::BTreeSet;

use libc::sock_filter;

/// Which AoE frames a port takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// For a target that owns these (shelf, slot) addresses: requests to one of them, wildcards included, and
    /// advertisements of other stations that claim one of them. With more than 64 addresses, all requests and all
    /// advertisements.
    Target(Vec<(u16, u8)>),
    /// For an initiator: responses with tag bit 31 set, as our requests have it, and advertisements.
    Initiator,
}

/// Addresses compared one by one in a program. Keeps all jumps within their 8 bits.
const MAX_ADDRESSES: usize = 64;

/// Kept of an accepted frame: all of it, whatever its length.
const WHOLE: u32 = 0x4_0000;

/// Where a program finds the number of the interface that the frame belongs to.
const INTERFACE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX).cast_unsigned();

const RESPONSE: u32 = 0x08;
const CONFIG: u32 = 1;
const ANY_SHELF: u32 = 0xffff;
const ANY_SLOT: u32 = 0xff;
const USERLAND_TAG: u32 = 0x8000_0000;

/// Loads of the fields of the AoE header into the accumulator.
const FLAGS: Step = Step::Load { size: libc::BPF_B, offset: 14 };
const SHELF: Step = Step::Load { size: libc::BPF_H, offset: 16 };
const SLOT: Step = Step::Load { size: libc::BPF_B, offset: 18 };
const COMMAND: Step = Step::Load { size: libc::BPF_B, offset: 19 };
const TAG: Step = Step::Load { size: libc::BPF_W, offset: 20 };
/// Shelf, slot and command in one word, of which the next step drops the command.
const ADDRESS_AND_COMMAND: Step = Step::Load { size: libc::BPF_W, offset: 16 };

impl Filter {
    /// The program for the kernel, for a port on this interface.
    pub(super) fn program(&self, interface: u32) -> Vec<sock_filter> {
        let own = [Step::Load { size: libc::BPF_W, offset: INTERFACE }, is(interface, Go::Next, Go::Reject)];
        let wanted = match self {
            Self::Initiator => initiator(),
            Self::Target(addresses) => {
                let addresses: BTreeSet<_> = addresses.iter().copied().collect();
                if addresses.len() <= MAX_ADDRESSES { target(&addresses) } else { any_target() }
            }
        };
        assemble(&[&own[..], &wanted].concat())
    }
}

fn initiator() -> Vec<Step> {
    vec![
        FLAGS,
        has(RESPONSE, Go::Next, Go::Reject),
        TAG,
        has(USERLAND_TAG, Go::Accept, Go::Next),
        COMMAND,
        is(CONFIG, Go::Accept, Go::Reject),
    ]
}

/// Needs the tag only to reject what has no whole header.
fn any_target() -> Vec<Step> {
    vec![TAG, FLAGS, has(RESPONSE, Go::Next, Go::Accept), COMMAND, is(CONFIG, Go::Accept, Go::Reject)]
}

fn target(addresses: &BTreeSet<(u16, u8)>) -> Vec<Step> {
    let shelves: BTreeSet<_> = addresses.iter().map(|&(shelf, _)| shelf).collect();
    let slots: BTreeSet<_> = addresses.iter().map(|&(_, slot)| slot).collect();

    let mut steps = vec![TAG, FLAGS, has(RESPONSE, Go::Next, Go::Skip(2)), COMMAND, is(CONFIG, Go::Next, Go::Reject)];
    steps.extend([ADDRESS_AND_COMMAND, Step::ShiftRight(8)]);
    steps.extend(addresses.iter().map(|&(shelf, slot)| is_one(u32::from(shelf) << 8 | u32::from(slot))));
    steps.extend([FLAGS, has(RESPONSE, Go::Reject, Go::Next)]);

    let mut slot_of_any_shelf = vec![SHELF, is(ANY_SHELF, Go::Next, Go::Reject), SLOT];
    slot_of_any_shelf.extend(slots.iter().map(|&slot| is_one(slot.into())));
    slot_of_any_shelf.push(Step::Reject);
    steps.extend([SLOT, is(ANY_SLOT, Go::Skip(slot_of_any_shelf.len()), Go::Next)]);
    steps.extend(slot_of_any_shelf);

    steps.extend([SHELF, is_one(ANY_SHELF)]);
    steps.extend(shelves.iter().map(|&shelf| is_one(shelf.into())));
    steps.push(Step::Reject);
    steps
}

#[derive(Clone, Copy)]
enum Step {
    Load { size: u32, offset: u32 },
    ShiftRight(u32),
    Branch { test: u32, value: u32, yes: Go, no: Go },
    Reject,
}

/// Where a branch leads. All jumps in BPF are forward.
#[derive(Clone, Copy)]
enum Go {
    Next,
    /// Past this many of the following steps.
    Skip(usize),
    Accept,
    Reject,
}

/// Branches on whether the accumulator equals `value`.
fn is(value: u32, yes: Go, no: Go) -> Step {
    Step::Branch { test: libc::BPF_JEQ, value, yes, no }
}

/// Accepts when the accumulator equals `value`.
fn is_one(value: u32) -> Step {
    is(value, Go::Accept, Go::Next)
}

/// Branches on whether the accumulator has a bit of `mask` set.
fn has(mask: u32, yes: Go, no: Go) -> Step {
    Step::Branch { test: libc::BPF_JSET, value: mask, yes, no }
}

/// Turns steps into a program that ends in `return WHOLE` and `return 0`.
fn assemble(steps: &[Step]) -> Vec<sock_filter> {
    let jump = |from: usize, go: Go| {
        let distance = match go {
            Go::Next => 0,
            Go::Skip(count) => count,
            Go::Accept => steps.len() - from - 1,
            Go::Reject => steps.len() - from,
        };
        u8::try_from(distance).expect("no program is so long that a jump does not fit")
    };
    let instruction = |code: u32, value: u32, yes: u8, no: u8| {
        let code = u16::try_from(code).expect("operation codes have 16 bits");
        sock_filter { code, jt: yes, jf: no, k: value }
    };
    let keep = |length| instruction(libc::BPF_RET | libc::BPF_K, length, 0, 0);
    let mut program: Vec<_> = steps
        .iter()
        .enumerate()
        .map(|(at, step)| match *step {
            Step::Load { size, offset } => instruction(libc::BPF_LD | libc::BPF_ABS | size, offset, 0, 0),
            Step::ShiftRight(bits) => instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, bits, 0, 0),
            Step::Branch { test, value, yes, no } => {
                instruction(libc::BPF_JMP | libc::BPF_K | test, value, jump(at, yes), jump(at, no))
            }
            Step::Reject => keep(0),
        })
        .collect();
    program.extend([keep(WHOLE), keep(0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: u32 = 3;

    /// Whether a port's filter takes a frame of its own interface.
    fn accepts(filter: &Filter, frame: &[u8]) -> bool {
        accepts_from(OWN, filter, frame)
    }

    /// Runs a program as the kernel would on a frame of an interface; refuses what the kernel would refuse.
    fn accepts_from(interface: u32, filter: &Filter, frame: &[u8]) -> bool {
        let program = filter.program(OWN);
        assert!(program.len() <= 4096);
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            match code & 0x07 {
                libc::BPF_LD if k == INTERFACE => {
                    assert_eq!(code, libc::BPF_LD | libc::BPF_ABS | libc::BPF_W);
                    accumulator = interface;
                }
                libc::BPF_LD => {
                    assert_eq!(code & 0xe0, libc::BPF_ABS);
                    let size = match code & 0x18 {
                        libc::BPF_W => 4,
                        libc::BPF_H => 2,
                        libc::BPF_B => 1,
                        _ => panic!("no such size"),
                    };
                    let Some(bytes) = frame.get(k as usize..k as usize + size) else { return false };
                    accumulator = bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
                }
                libc::BPF_ALU => {
                    assert_eq!(code, libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K);
                    accumulator >>= k;
                }
                libc::BPF_JMP => {
                    let yes = match code & 0xf0 {
                        libc::BPF_JEQ => accumulator == k,
                        libc::BPF_JSET => accumulator & k != 0,
                        _ => panic!("no such jump"),
                    };
                    at += usize::from(if yes { jt } else { jf });
                }
                libc::BPF_RET => return k >= frame.len() as u32,
                _ => panic!("no such class"),
            }
        }
    }

    fn frame(flags: u8, shelf: u16, slot: u8, command: u8, tag: u32) -> Vec<u8> {
        let mut frame = vec![0xff; 12];
        frame.extend([0x88, 0xa2, flags, 0]);
        frame.extend(shelf.to_be_bytes());
        frame.extend([slot, command]);
        frame.extend(tag.to_be_bytes());
        frame
    }

    #[test]
    fn a_target_hears_requests_to_its_addresses_and_wildcards() {
        let filter = Filter::Target(vec![(0, 1), (7, 3), (7, 3)]);
        let heard = |shelf, slot| accepts(&filter, &frame(0x10, shelf, slot, 0, 0));
        assert!(heard(0, 1) && heard(7, 3));
        assert!(!heard(0, 3) && !heard(7, 1) && !heard(1, 0));
        assert!(heard(0xffff, 0xff) && heard(0xffff, 1) && heard(0xffff, 3) && heard(0, 0xff) && heard(7, 0xff));
        assert!(!heard(0xffff, 2) && !heard(1, 0xff));
    }

    #[test]
    fn a_target_hears_a_colleague_that_claims_its_address() {
        let filter = Filter::Target(vec![(7, 3)]);
        assert!(accepts(&filter, &frame(0x18, 7, 3, 1, 0)));
        assert!(!accepts(&filter, &frame(0x18, 7, 3, 0, 0)), "an answer to a read is of no interest");
        assert!(!accepts(&filter, &frame(0x18, 7, 2, 1, 0)));
        assert!(!accepts(&filter, &frame(0x18, 0xffff, 0xff, 1, 0)), "nobody owns the wildcard");
    }

    #[test]
    fn an_initiator_hears_its_answers_and_advertisements_only() {
        let heard = |flags, command, tag| accepts(&Filter::Initiator, &frame(flags, 1, 1, command, tag));
        assert!(heard(0x18, 0, 0x8000_0001) && heard(0x18, 1, 0) && heard(0x08, 1, 0));
        assert!(!heard(0x18, 0, 0x7fff_ffff), "an answer to the kernel's own driver");
        assert!(!heard(0x10, 1, 0x8000_0000) && !heard(0x10, 0, 0x8000_0000), "a request");
    }

    #[test]
    fn a_frame_without_a_whole_header_is_rejected() {
        for filter in [Filter::Initiator, Filter::Target(vec![(0, 1)]), many(65)] {
            for flags in [0x10, 0x18] {
                let whole = frame(flags, 0, 1, 1, 0x8000_0000);
                for length in 0..whole.len() {
                    assert!(!accepts(&filter, &whole[..length]), "{filter:?} takes {length} bytes");
                }
            }
        }
    }

    #[test]
    fn a_frame_of_an_interface_on_top_is_for_nobody_below() {
        let answer = frame(0x18, 0, 1, 1, 0x8000_0000);
        for filter in [Filter::Initiator, Filter::Target(vec![(0, 1)]), many(65)] {
            assert!(accepts_from(OWN, &filter, &answer));
            assert!(!accepts_from(OWN + 1, &filter, &answer), "{filter:?}");
        }
    }

    fn many(count: u16) -> Filter {
        Filter::Target((0..count).map(|n| (n, (n % 200) as u8)).collect())
    }

    #[test]
    fn a_target_with_very_many_addresses_hears_every_request() {
        assert!(accepts(&many(65), &frame(0x10, 4000, 9, 0, 0)));
        assert!(accepts(&many(65), &frame(0x18, 4000, 9, 1, 0)));
        assert!(!accepts(&many(65), &frame(0x18, 4000, 9, 0, 0)));
        assert!(!accepts(&many(64), &frame(0x10, 4000, 9, 0, 0)));
        assert!(accepts(&many(64), &frame(0x10, 63, 63, 0, 0)));
    }

    proptest! {
        #[test]
        fn a_target_filter_agrees_with_its_definition(
            addresses in prop::collection::vec((0..40u16, 0..8u8), 0..=MAX_ADDRESSES),
            flags: u8,
            shelf in prop_oneof![0..42u16, Just(0xffff)],
            slot in prop_oneof![0..9u8, Just(0xff)],
            command in 0..3u8,
            tag: u32,
        ) {
            let expected = if flags & 0x08 != 0 {
                command == 1 && addresses.contains(&(shelf, slot))
            } else {
                shelf == 0xffff && slot == 0xff
                    || addresses.iter().any(|&(own_shelf, own_slot)| {
                        (shelf == own_shelf || shelf == 0xffff) && (slot == own_slot || slot == 0xff)
                    })
            };
            prop_assert_eq!(accepts(&Filter::Target(addresses), &frame(flags, shelf, slot, command, tag)), expected);
        }
    }
}
