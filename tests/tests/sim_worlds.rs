//! Worlds of sessions in simulated time, by chance; `FTP_HELPER_SEED=N` reproduces a run.

use std::time::Instant;

use ftp_helper_tests::{
    gateway::full,
    sim::{self, Options, Summary, rng::seed},
};

#[test]
fn a_million_steps() {
    let begun = Instant::now();
    let seed = seed();
    println!("FTP_HELPER_SEED={seed}");
    let wanted = if full() { 50_000_000 } else { 1_000_000 };
    let mut sum = Summary::default();
    let mut worlds = 0;
    while sum.steps < wanted {
        let options = Options::of(seed.wrapping_add(worlds));
        match sim::run(options) {
            Ok(summary) => sum += summary,
            Err(failure) => panic!("FTP_HELPER_SEED={}: {failure}", seed.wrapping_add(worlds)),
        }
        worlds += 1;
    }
    println!("{worlds} worlds in {:.1?}: {sum:#?}", begun.elapsed());
}
