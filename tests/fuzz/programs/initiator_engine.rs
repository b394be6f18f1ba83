#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aoe_tests::fuzz::initiator_engine::run(data));
