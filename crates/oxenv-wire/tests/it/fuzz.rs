//! The bodies of the fuzz targets on a stable toolchain: over every seed, and over a few thousand
//! mutations of the seeds that are the same on each run.
//!
//! Invariant: seeds, targets and bodies are the same set, so none is fuzzed nightly and forgotten here.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use crate::bodies;

/// Mutations per target; together they take a second or two without optimisation.
const MUTATIONS: usize = 4000;
/// A mutation that has grown beyond this is cut, so that time is spent on many texts, not on long ones.
const LONGEST: usize = 4096;

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 6] = [
    ("frame", bodies::frame),
    ("action", bodies::action),
    ("rpc", bodies::rpc),
    ("body", bodies::body),
    ("json", bodies::json),
    ("template", bodies::template),
];

#[test]
fn frames_hold_for_seeds_and_mutations() {
    run("frame");
}

#[test]
fn actions_hold_for_seeds_and_mutations() {
    run("action");
}

#[test]
fn json_rpc_holds_for_seeds_and_mutations() {
    run("rpc");
}

#[test]
fn bodies_hold_for_seeds_and_mutations() {
    run("body");
}

#[test]
fn json_holds_for_seeds_and_mutations() {
    run("json");
}

/// A seed of one target is fair input for every other.
#[test]
fn references_hold_for_seeds_and_mutations() {
    run("template");
}

#[test]
fn every_body_takes_every_seed() {
    for (target, _) in TARGETS {
        for seed in seeds(target) {
            for (_, body) in TARGETS {
                attempt(body, &seed);
            }
        }
    }
}

#[test]
fn every_body_takes_what_is_deep_long_or_no_text() {
    let deep = "[".repeat(100_000);
    let closed = format!("{{\"type\":\"step\",\"data\":{{\"a\":{deep}{}}}}}", "]".repeat(100_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let long = format!("{{\"type\":\"{}\"}}", "é".repeat(100_000));
    for text in [
        deep.as_bytes(),
        closed.as_bytes(),
        objects.as_bytes(),
        long.as_bytes(),
        b"\xff\xfe",
        b"{\"\xc3\":1}",
    ] {
        for (_, body) in TARGETS {
            attempt(body, text);
        }
    }
}

#[test]
fn targets_seeds_and_bodies_are_one_set() {
    let names = |folder: &str| -> BTreeSet<String> {
        files(&root().join(folder)).iter().map(|path| stem(path)).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    for target in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
    }
}

fn run(target: &str) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let seeds = seeds(target);
    assert!(seeds.len() >= 10, "{target} has seeds: {}", seeds.len());
    let words = words();
    let mut random = Random(target.bytes().map(u64::from).sum());
    for seed in &seeds {
        attempt(*body, seed);
    }
    for _ in 0..MUTATIONS {
        let mut text = random.pick(&seeds).clone();
        for _ in 0..=random.below(4) {
            mutate(&mut text, &mut random, &seeds, &words);
        }
        text.truncate(LONGEST);
        attempt(*body, &text);
    }
}

/// Runs a body and says which text it failed on.
fn attempt(body: Body, text: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(text))) {
        let shown = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]);
        eprintln!("failed on {} bytes: {shown:?}", text.len());
        resume_unwind(panic);
    }
}

fn mutate(text: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>], words: &[Vec<u8>]) {
    let at = random.below(text.len() + 1);
    let end = at + random.below((text.len() - at).min(16) + 1);
    match random.below(7) {
        0 => text.truncate(at),
        1 => drop(text.drain(at..end)),
        2 => drop(text.splice(at..at, random.pick(words).iter().copied())),
        3 => drop(text.splice(at..end, random.pick(words).iter().copied())),
        4 => {
            let other = random.pick(seeds);
            let from = random.below(other.len() + 1);
            text.truncate(at);
            text.extend_from_slice(&other[from..]);
        }
        5 => {
            let part = text[at..end].to_vec();
            drop(text.splice(end..end, part.repeat(1 + random.below(3))));
        }
        _ => {
            if let Some(byte) = text.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// The words of the fuzzer's dictionary.
fn words() -> Vec<Vec<u8>> {
    let text = fs::read_to_string(root().join("json.dict")).expect("the dictionary is there");
    let lines = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    let words: Vec<Vec<u8>> =
        lines.map(|word| word.replace("\\\"", "\"").replace("\\\\", "\\").into_bytes()).collect();
    assert!(words.len() > 20, "the dictionary has words");
    words
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    files(&root().join("seeds").join(target)).iter().map(|path| fs::read(path).expect("a seed")).collect()
}

/// What is in a folder, in an order that does not depend on the machine.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem().and_then(|stem| stem.to_str()).expect("names are Unicode").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>, written out so that a failing mutation comes
/// again on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0, below the bound.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("less than a usize")
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
