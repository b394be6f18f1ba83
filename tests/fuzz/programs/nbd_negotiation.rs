#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aoe_tests::fuzz::nbd_negotiation::run(data));
