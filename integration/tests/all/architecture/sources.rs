//! The sources of this workspace as text.

use std::fs;
use std::path::{Path, PathBuf};

/// The workspace's folder.
pub(super) fn workspace() -> PathBuf {
    let integration = Path::new(env!("CARGO_MANIFEST_DIR"));
    integration.parent().expect("the workspace is above its crates").into()
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of the product at or below `path`: tests may use what the product may not.
pub(super) fn rust_files(path: &Path) -> Vec<PathBuf> {
    let mut files = all_rust_files(path);
    files.retain(|file| !is_test(file));
    files
}

/// All Rust files at or below `path`, in the order of their paths.
pub(super) fn all_rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.into()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let paths = entries.map(|entry| entry.expect("a folder is readable").path());
    let mut files: Vec<_> = paths
        .flat_map(|path| match path.is_dir() {
            true => all_rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    name.ends_with("tests") || name == "testing" || path.iter().any(|part| part == "tests")
}

/// The lines of code up to the test module, with their numbers.
pub(super) fn code_before_tests(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let lines = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line.trim().to_owned()));
    lines
        .take_while(|(_, line)| line != "#[cfg(test)]")
        .filter(|(_, line)| !line.starts_with("//"))
        .collect()
}
