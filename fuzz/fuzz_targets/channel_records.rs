#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_outbox::fuzzing::channel_records(data));
