//! Which file of a crate imports from which, by the `use` declarations. Re-exports (`pub use`) are no imports: they say
//! where a thing is found, not what a file needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::sources::{code_before_tests, rust_files};

/// The path of a module in its crate; the crate itself is empty.
type Module = Vec<String>;

/// Modules that have a file, and the modules that each imports from.
pub(super) struct Imports(BTreeMap<Module, BTreeSet<Module>>);

impl Imports {
    /// Of the crate whose sources are in `folder`.
    pub(super) fn of(folder: &Path) -> Self {
        let files = rust_files(folder);
        let module = |file: &Path| -> Module {
            let path = file.strip_prefix(folder).expect("it is below").with_extension("");
            let mut parts: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if parts
                .last()
                .is_some_and(|last| ["lib", "main", "mod"].contains(&last.as_str()))
            {
                parts.pop();
            }
            parts
        };
        let known: BTreeSet<Module> = files.iter().map(|file| module(file)).collect();
        let imports = files.iter().map(|file| {
            let own = module(file);
            let lines: Vec<_> = code_before_tests(file).into_iter().map(|(_, line)| line).collect();
            let used = used_paths(&lines.join(" "));
            let used = used.iter().filter_map(|path| resolve(&own, path, &known));
            let used = used.filter(|used| *used != own).collect();
            (own, used)
        });
        Self(imports.collect())
    }

    /// Modules that import from each other, directly or over others.
    pub(super) fn circles(&self) -> Vec<Vec<String>> {
        let reached: BTreeMap<_, _> = self
            .0
            .keys()
            .map(|module| (module, self.reached_from(module)))
            .collect();
        let mut circles = BTreeSet::new();
        for (module, reach) in &reached {
            if reach.contains(*module) {
                let circle = reach.iter().filter(|other| reached[other].contains(*module));
                circles.insert(circle.map(|module| module.join("::")).collect());
            }
        }
        circles.into_iter().collect()
    }

    fn reached_from(&self, module: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<_> = self.0[module].iter().cloned().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next.clone()) {
                open.extend(self.0[&next].iter().cloned());
            }
        }
        reached
    }
}

/// The paths of all private `use` declarations, with their groups taken apart.
fn used_paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let declaration = statement.trim_start_matches(|c: char| !c.is_alphabetic());
        let declaration = declaration.rsplit("} ").next().unwrap_or(declaration);
        if let Some(tree) = declaration.trim().strip_prefix("use ") {
            take_apart(&[], tree, &mut paths);
        }
    }
    paths
}

fn take_apart(prefix: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    if let Some(group) = tree.strip_prefix('{').and_then(|tree| tree.strip_suffix('}')) {
        let mut depth = 0;
        let split = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        };
        group.split(split).for_each(|tree| take_apart(prefix, tree, paths));
    } else if let Some((first, rest)) = tree.split_once("::") {
        let prefix = [prefix, &[first.trim().to_owned()]].concat();
        take_apart(&prefix, rest, paths);
    } else if !tree.is_empty() {
        let name = tree.split(' ').next().unwrap_or(tree);
        paths.push([prefix, &[name.to_owned()]].concat());
    }
}

/// The module with a file that a path of the module `own` leads to, if it stays in the crate.
fn resolve(own: &Module, path: &[String], known: &BTreeSet<Module>) -> Option<Module> {
    let mut at = match path.first()?.as_str() {
        "crate" => Module::new(),
        "self" => own.clone(),
        "super" => own[..own.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    for part in &path[1..] {
        match part.as_str() {
            "super" => _ = at.pop(),
            "self" | "*" => {}
            name => at.push(name.to_owned()),
        }
    }
    // Its end is an item, not a module.
    while !known.contains(&at) {
        at.pop()?;
    }
    Some(at)
}

#[test]
fn declarations_are_read() {
    let code = "use crate::a::{B, c::{self, D}}; pub use self::e::F; fn f() {} use super::g; let x = 1;";
    let paths: Vec<String> = used_paths(code).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        ["crate::a::B", "crate::a::c::self", "crate::a::c::D", "super::g"]
    );
}

#[test]
fn circles_are_found() {
    let module = |name: &str| vec![name.to_owned()];
    let imports = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b"]), ("d", vec![])];
    let imports = imports.map(|(own, used)| (module(own), used.into_iter().map(module).collect()));
    assert_eq!(Imports(imports.into()).circles(), [["b", "c"]]);
}
