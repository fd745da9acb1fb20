//! Every file of the corpora in `fuzz/` goes through its target once more; `scripts/fuzz` looks for others.

use std::fs;
use std::path::Path;

use tower_outbox::fuzzing::TARGETS;

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn no_file_of_a_corpus_breaks_a_promise() {
    for (target, run) in TARGETS {
        let folder = fuzz().join("corpus").join(target);
        for name in names(&folder) {
            // The output of a test that fails says which.
            println!("{target}/{name}");
            run(&fs::read(folder.join(name)).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), targets);
    let programs: Vec<_> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"\n")), "{target}");
    }
}
