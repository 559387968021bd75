//! Mutated input for everything that parses bytes from outside, and inputs that once did harm. The seed is fixed, so that
//! a failure can be repeated. `CONTRIBUTING.md` says how to look for more, guided by coverage.

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use squadron_integration::fuzz::{Server, TARGETS, target};

use crate::support::Mismatches;

const SEED: u64 = 20_261_129;
const ROUNDS: usize = 1_000;

/// A seed with a few bytes changed, removed, doubled or taken from another one.
fn mutated(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut StdRng| seeds[random.random_range(0..seeds.len())].clone();
    let mut bytes = pick(random);
    for _ in 0..random.random_range(1..6) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        let end = at + random.random_range(0..=(bytes.len() - at).min(32));
        match random.random_range(0..6) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.random_range(0..5)],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            4 => bytes.truncate(at),
            _ => {
                let other = pick(random);
                let from = random.random_range(0..=other.len());
                let until = (from + 64).min(other.len());
                bytes.splice(at..end, other[from..until].iter().copied());
            }
        }
    }
    bytes
}

/// Inputs that once did harm, one file each.
fn findings(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/findings").join(name);
    let Ok(files) = fs::read_dir(folder) else {
        return vec![];
    };
    let read = |file: std::io::Result<fs::DirEntry>| fs::read(file.unwrap().path()).unwrap();
    files.map(read).collect()
}

/// Judges findings, seeds and mutated seeds.
fn check(name: &str) {
    // The targets share it; it ends, and its folder goes, with the last of them.
    let _server = Server::get();
    let target = target(name);
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let mut random = StdRng::seed_from_u64(SEED);
    let mutations = (0..ROUNDS).map(|_| mutated(&mut random, &seeds));
    let mut inputs = findings(name);
    inputs.extend(seeds.iter().cloned());
    inputs.extend(mutations);
    let mut mismatches = Mismatches::default();
    for input in inputs {
        let outcome = (target.judge)(&input);
        mismatches.note(
            &format!("{name}, seed {SEED}: {:?}", input.escape_ascii().to_string()),
            outcome,
        );
    }
    let after = (target.judge)(&seeds[0]);
    mismatches.note(&format!("{name}: afterwards"), after);
    mismatches.assert_none();
}

/// Writes the seeds to where `cargo fuzz run` begins.
#[test]
#[ignore = "a tool for fuzzing, see CONTRIBUTING.md"]
fn write_seeds() {
    let _server = Server::get();
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

#[test]
fn mutated_sql_blames_the_caller() {
    check("sql");
}

#[test]
fn mutated_substrait_blames_the_caller() {
    check("substrait");
}

#[test]
fn mutated_flight_messages_blame_the_caller() {
    check("flight");
}

#[test]
fn mutated_tickets_blame_the_caller() {
    check("tickets");
}

#[test]
fn mutated_control_messages_blame_the_caller() {
    check("control");
}

#[test]
fn mutated_stages_do_not_end_a_worker() {
    check("worker");
}

#[test]
fn mutated_frames_are_refused() {
    check("frames");
}

#[test]
fn mutated_files_are_named() {
    check("files");
}
