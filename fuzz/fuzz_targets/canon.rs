//! See `ftp_helper_tests::fuzz::canon`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_helper_tests::fuzz::canon::run(data));
