fn main() {
    let obj = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ftp-helper-ebpf"));
    let mut l = aya::EbpfLoader::new();
    let lvl: u8 = std::env::args().nth(1).map_or(0, |a| a.parse().unwrap());
    l.override_global("AYA_LOG_LEVEL", &lvl, true);
    let mut e = match l.load(obj) {
        Ok(e) => e,
        Err(x) => {
            println!("load: {x:?}");
            return;
        }
    };
    for (n, p) in e.programs_mut() {
        let p: &mut aya::programs::SchedClassifier = p.try_into().unwrap();
        let t = std::time::Instant::now();
        match p.load() {
            Ok(()) => println!(
                "{n}: ok {:?} insns {:?} jited {:?}",
                t.elapsed(),
                p.info().unwrap().verified_instruction_count(),
                p.info().unwrap().size_jitted()
            ),
            Err(aya::programs::ProgramError::LoadError { io_error, verifier_log }) => {
                println!("{n}: {io_error}");
                let s = verifier_log.to_string();
                std::fs::write(format!("/tmp/log/{n}.vlog"), &s).unwrap();
                let v: Vec<_> = s.lines().collect();
                for l in &v[v.len().saturating_sub(60)..] {
                    println!("  {l}");
                }
            }
            Err(x) => println!("{n}: {x:?}"),
        }
    }
}
