//! See `ftp_helper_tests::fuzz::grammar`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_helper_tests::fuzz::grammar::run(data));
