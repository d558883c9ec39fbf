//! See `ftp_helper_tests::fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_helper_tests::fuzz::config::run(data));
