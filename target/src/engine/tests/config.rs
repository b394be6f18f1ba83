//! Config strings.

use super::*;

const HEADER: &str = "0001 02 01 00001234";

fn vector(bench: &mut Bench, request: &str, response_flags: &str, response: &str) {
    bench.vector(A, &format!("10 00 {HEADER} {request}"), &format!("{response_flags} {HEADER} {response}"));
}

#[test]
fn a_read_shows_the_numbers_and_the_string() {
    let mut bench = Bench::new();
    vector(&mut bench, "0000 0000 00 10 0000", "18 00", "0010 0001 02 10 0000");
}

#[test]
fn set_needs_an_empty_string() {
    let mut bench = Bench::new();
    vector(&mut bench, "0000 0000 00 13 0003 616263", "18 00", "0010 0001 02 13 0003 616263");
    vector(&mut bench, "0000 0000 00 13 0003 78797a", "1c 04", "0010 0001 02 13 0003 616263");
    vector(&mut bench, "0000 0000 00 13 0003 616263", "18 00", "0010 0001 02 13 0003 616263");
    vector(&mut bench, "0000 0000 00 14 0003 78797a", "18 00", "0010 0001 02 14 0003 78797a");
    vector(&mut bench, "0000 0000 00 14 0000", "18 00", "0010 0001 02 14 0000");
}

#[test]
fn tests_are_answered_only_on_a_match() {
    let mut bench = Bench::new();
    bench.answer(&config(A, 1, ConfigCommand::Set, b"abc"));
    vector(&mut bench, "0000 0000 00 12 0002 6162", "18 00", "0010 0001 02 12 0003 616263");
    vector(&mut bench, "0000 0000 00 11 0003 616263", "18 00", "0010 0001 02 11 0003 616263");
    for (command, string) in [
        (ConfigCommand::Prefix, &b"abcd"[..]),
        (ConfigCommand::Prefix, b"b"),
        (ConfigCommand::Test, b"ab"),
        (ConfigCommand::Test, b""),
    ] {
        bench.silent(&config(A, 2, command, string));
    }
}

#[test]
fn an_undefined_command_is_a_bad_argument() {
    let mut bench = Bench::new();
    vector(&mut bench, "0000 0000 00 15 0000", "1c 02", "0010 0001 02 15 0000");
}

#[test]
fn a_length_beyond_the_frame_or_the_protocol_is_met_with_silence() {
    let mut bench = Bench::new();
    let mut beyond = config(A, 1, ConfigCommand::ForceSet, b"abc");
    beyond[31] = 4;
    bench.silent(&beyond);
    let mut too_long = config(A, 2, ConfigCommand::ForceSet, &[b'x'; 1024]);
    too_long.push(b'x');
    too_long[30..32].copy_from_slice(&1025u16.to_be_bytes());
    bench.silent(&too_long);
    assert_eq!(bench.export().config_string, b"");
    assert_eq!(bench.target.counters().malformed, 2);
}

#[test]
fn the_longest_string_fits_an_answer() {
    let mut bench = Bench::new();
    let longest = [b'x'; 1024];
    assert_eq!(bench.answer(&config(A, 1, ConfigCommand::Set, &longest)).string(), longest);
    assert_eq!(bench.answer(&config(A, 2, ConfigCommand::Read, b"")).bytes.len(), 32 + 1024);
}

#[test]
fn filler_in_a_read_request_is_ignored() {
    let mut bench = Bench::new();
    let mut frame = config(A, 1, ConfigCommand::Read, b"");
    frame[30..32].copy_from_slice(&1024u16.to_be_bytes());
    frame.extend([0xed; 100]);
    assert_eq!(bench.answer(&frame).string(), b"");
}

#[test]
fn an_edit_is_reported_and_answered_when_it_is_stored() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&config(A, 1, ConfigCommand::Set, b"abc"));
    assert_eq!((bench.stores.len(), bench.take()), (1, vec![]));
    assert_eq!(bench.stores[0].state.config_string, b"abc");
    bench.stored(true);
    assert_eq!(bench.one().string(), b"abc");
    let state = StoredState { config_string: b"abc".to_vec(), ..StoredState::default() };
    let address = Address::new(1, 2);
    assert_eq!(bench.events(), [Event::Edited { address, station: Some(A), state, shut_out: vec![] }]);
    assert_eq!(bench.ask(&config(A, 2, ConfigCommand::Set, b"abc")).len(), 1, "nothing new, nothing to store");
}

#[test]
fn a_string_that_cannot_be_stored_is_taken_back() {
    let mut bench = Bench::with(PERSISTENT, []);
    bench.add(export(2), StoredState { config_string: b"old".to_vec(), ..StoredState::default() });
    bench.take();
    bench.receive(&config(A, 1, ConfigCommand::ForceSet, b"new"));
    bench.stored(false);
    let answer = bench.one();
    assert_eq!((answer.error(), answer.string()), (Some(ErrorCode::DeviceUnavailable), &b"old"[..]));
    assert_eq!(bench.events(), [Event::NotStored { address: Address::new(1, 2) }]);
}
