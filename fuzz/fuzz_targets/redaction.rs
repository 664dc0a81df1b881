#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hipchat_notifier_fuzz::redaction::check(input));
