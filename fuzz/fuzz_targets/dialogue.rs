//! See `ftp_helper_tests::fuzz::dialogue`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_helper_tests::fuzz::dialogue::run(data));
