//! The threat model's table is the data's: `UPDATE_DOCS=1 cargo test -p ftp-helper-tests --test catalogue_table` writes it.

use std::{collections::BTreeSet, fs, path::Path};

use ftp_helper_common::reason::Reason;
use ftp_helper_tests::catalogue::{self, table};

const BEGIN: &str = "<!-- table: generated -->\n";
const END: &str = "<!-- table: end -->\n";

fn tree(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

#[test]
fn the_page_holds_the_table() {
    let path = tree("docs/threat-model.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(END).expect("where the table ends");
    let right = format!("{before}{BEGIN}\n{}\n{END}{after}", table::markdown());
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        fs::write(&path, &right).unwrap();
        return;
    }
    assert_eq!(page, right, "run UPDATE_DOCS=1 cargo test -p ftp-helper-tests --test catalogue_table");
}

#[test]
fn every_id_is_there_and_every_test_exists() {
    assert_eq!(table::missing(), [""; 0]);
    let ids: BTreeSet<String> = table::ids().into_iter().collect();
    let stimuli = catalogue::all();
    for s in &stimuli {
        assert!(ids.contains(table::family(s.id)), "{} is no id of the catalogue", s.id);
        let reason = s.reason.map(Reason::from_name);
        assert!(reason != Some(None), "{}: no such reason: {:?}", s.id, s.reason);
        assert!(!s.steps.is_empty(), "{}: nothing happens", s.id);
    }
    for o in table::OTHERS {
        let source = fs::read_to_string(tree(o.file)).unwrap_or_else(|e| panic!("{}: {e}", o.file));
        let there = o.test == "*" || source.contains(&format!("fn {}()", o.test));
        assert!(there, "no test {} in {}", o.test, o.file);
        assert!(o.ids.iter().all(|id| ids.contains(*id)), "{:?}", o.ids);
    }
}
