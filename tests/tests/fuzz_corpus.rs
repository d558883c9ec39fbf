//! Replays the seeds of the fuzz targets, and the inputs that have found something, through the targets' functions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use ftp_helper_tests::fuzz::{TARGETS, Target, dialogue, seed};

#[test]
fn every_seed_passes() {
    let mut count = 0;
    for Target { name: target, run } in TARGETS {
        for (name, path) in files(&seeds().join(target)) {
            // The name of a seed that fails is the last one told.
            println!("{target}/{name}");
            run(&fs::read(&path).expect("a seed is a file"));
            count += 1;
        }
    }
    assert!(count >= 65, "{count} seeds");
}

/// What a seed is worth: the dialogue that it is made of is the one that it is to be.
#[test]
fn dialogues_are_what_they_are_to_be() {
    let mut wrong = String::new();
    for seed in seed::dialogues() {
        let (verdict, said) = dialogue::verdict(&seed.dialogue()).expect("bytes make a dialogue");
        let ways: Vec<_> = verdict.opened.iter().map(|hole| hole.way).collect();
        if (&ways[..], verdict.barred.is_some()) != (seed.opens, seed.barred) {
            wrong += &format!("{}: {verdict:?}\n{said}\n", seed.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The files are those that `fuzz::seed` makes; with `FTP_HELPER_WRITE_SEEDS=1` they are written.
#[test]
fn made_seeds_are_current() {
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    for seed in seed::dialogues() {
        made.push((format!("dialogue/{}", seed.name), seed.dialogue()));
        made.push((format!("canon/{}", seed.name), seed.canon()));
    }
    made.extend(seed::segments().into_iter().map(|(name, bytes)| (format!("segments/{name}"), bytes)));
    for (name, bytes) in made {
        let path = seeds().join(&name);
        if std::env::var_os("FTP_HELPER_WRITE_SEEDS").is_some() {
            fs::write(&path, &bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        let there = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(there, bytes, "{name}: write it anew with FTP_HELPER_WRITE_SEEDS=1");
    }
}

/// `fuzz/seeds/index` tells what each is, one a line.
#[test]
fn every_seed_is_explained() {
    let text = fs::read_to_string(seeds().join("index")).expect("an index");
    let mut index = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, what) = line.split_once(": ").unwrap_or_else(|| panic!("no explanation: {line}"));
        assert!(what.len() > 10, "{line}");
        assert_eq!(index.insert(name.to_owned(), what), None, "{name} is there twice");
    }
    let mut there = BTreeSet::new();
    for Target { name: target, .. } in TARGETS {
        there.extend(files(&seeds().join(target)).into_keys().map(|name| format!("{target}/{name}")));
    }
    assert_eq!(index.into_keys().collect::<BTreeSet<_>>(), there);
}

/// The names of the targets are those of the programs.
#[test]
fn every_target_is_replayed() {
    let programs = files(&root().join("fuzz/fuzz_targets"));
    let programs: Vec<_> = programs.keys().filter_map(|name| name.strip_suffix(".rs")).collect();
    assert_eq!(programs, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the tree")
}

fn seeds() -> PathBuf {
    root().join("fuzz/seeds")
}

fn files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path))
        .collect()
}
