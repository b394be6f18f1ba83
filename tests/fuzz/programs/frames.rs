#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aoe_tests::fuzz::frames::run(data));
