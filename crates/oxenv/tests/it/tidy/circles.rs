//! Circles: files of a crate of which each, directly or through others, uses names of all the others.
//!
//! A file uses another when a path in its code, or an import that it keeps to itself, leads to a name that
//! the other defines. Three things make no arrow: to declare a module, to re-export names, and to use a
//! module that the file itself declares, for the two are read together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::modules::{Crate, Target};
use super::{members, rust_files, shown};

/// How many circles the workspace may have.
const MAX_CIRCLES: usize = 4;

/// For each file the files that it uses, with the paths that it uses them by.
type Ties = BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>;

#[test]
fn files_seldom_use_each_other_in_circles() {
    let mut circles = String::new();
    let (mut count, mut users) = (0, 0);
    for ties in roots().iter().map(|root| ties(&Crate::read(root))) {
        users += ties.len();
        for circle in circles_of(&ties) {
            count += 1;
            circles += &format!("circle {count}, of {} files:\n", circle.len());
            for (from, to, paths) in ties_within(&ties, &circle) {
                circles += &format!("  {} -> {}: {paths}\n", shown(from), shown(to));
            }
        }
    }
    assert!(users > 300, "only {users} files were found that use another");
    assert!(count <= MAX_CIRCLES, "{count} circles, and {MAX_CIRCLES} is the most:\n{circles}");
}

/// The roots of all targets that are no tests.
fn roots() -> Vec<PathBuf> {
    let sources = members().into_iter().map(|member| member.join("src"));
    sources
        .flat_map(|src| {
            let bins = rust_files(&src.join("bin"));
            let bins = bins.into_iter().filter(|file| {
                file.ends_with("main.rs") || file.parent().is_some_and(|parent| parent.ends_with("bin"))
            });
            [src.join("lib.rs"), src.join("main.rs")].into_iter().filter(|file| file.exists()).chain(bins)
        })
        .collect()
}

fn ties(read: &Crate) -> Ties {
    let mut ties = Ties::new();
    for (index, module) in read.modules.iter().enumerate() {
        let imports = module.imports.iter().filter(|import| {
            matches!(import.visibility, syn::Visibility::Inherited) && import.name.is_some()
        });
        let paths = imports.map(|import| import.path.clone()).chain(module.paths());
        for path in paths {
            let Some(Target::Item(defining, _)) = read.resolve(index, &path) else { continue };
            let used = &read.modules[defining].file;
            if *used != module.file && read.declaring_file(defining) != module.file {
                let tie = ties.entry(module.file.clone()).or_default().entry(used.clone()).or_default();
                tie.insert(path.join("::"));
            }
        }
    }
    ties
}

/// The sets of two files or more that reach each other.
fn circles_of(ties: &Ties) -> BTreeSet<BTreeSet<PathBuf>> {
    let reach: BTreeMap<&Path, BTreeSet<&Path>> =
        ties.keys().map(|file| (file.as_path(), reachable(ties, file))).collect();
    let reaches = |from: &Path, to: &Path| reach.get(from).is_some_and(|reached| reached.contains(to));
    ties.keys()
        .filter(|file| reaches(file, file))
        .map(|file| {
            ties.keys().filter(|other| reaches(file, other) && reaches(other, file)).cloned().collect()
        })
        .collect()
}

fn reachable<'a>(ties: &'a Ties, from: &'a Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&Path> = vec![from];
    while let Some(file) = left.pop() {
        let used = ties.get(file).into_iter().flat_map(BTreeMap::keys);
        left.extend(used.filter(|used| reached.insert(used.as_path())).map(PathBuf::as_path));
    }
    reached
}

/// The ties between files of one circle, each with its paths.
fn ties_within<'a>(ties: &'a Ties, circle: &'a BTreeSet<PathBuf>) -> Vec<(&'a Path, &'a Path, String)> {
    let mut within = Vec::new();
    for from in circle {
        for (to, paths) in ties[from].iter().filter(|(to, _)| circle.contains(*to)) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            within.push((from.as_path(), to.as_path(), paths.join(", ")));
        }
    }
    within
}
