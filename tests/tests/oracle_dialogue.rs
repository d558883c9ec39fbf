//! The engine against the oracle, an independent slow reading of the RFCs: over legal dialogues both open the same, over
//! bad ones the engine opens no more, and however segments come, the same opens. The generators are the fuzz targets'
//! (`dialogue` and `canon`), here with bytes of proptest's.

use ftp_helper_tests::fuzz::{canon, dialogue};
use proptest::prelude::*;

/// Bytes that make a dialogue.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 8..400)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn legal_dialogues_open_the_same(bytes in bytes()) {
        dialogue::run_legal(&bytes);
    }

    #[test]
    fn bad_dialogues_open_no_more(bytes in bytes()) {
        dialogue::run(&bytes);
    }

    #[test]
    fn the_recogniser_opens_no_more_than_the_engine(bytes in bytes()) {
        canon::run(&bytes);
    }
}

/// How many, where `FTP_HELPER_FULL` asks for the long form.
fn cases() -> u32 {
    if std::env::var_os("FTP_HELPER_FULL").is_some() { 200_000 } else { 20_000 }
}
