//! The file of `--groups`: resource groups as TOML.
//!
//! ```toml
//! [[group]]
//! name = "etl"
//! max_running = 2
//! user = "etl_*"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use squadron_scheduler::{GroupSpec, Groups, Selector};

use crate::config;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    group: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    #[serde(default = "one")]
    weight: u32,
    max_running: Option<usize>,
    max_queued: Option<usize>,
    memory: Option<String>,
    cpu_share: Option<u32>,
    user: Option<Texts>,
    tag: Option<Texts>,
    settings: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Boolean(bool),
    Number(i64),
}

fn one() -> u32 {
    1
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl Value {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Boolean(boolean) => boolean.to_string(),
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Table {
    fn into_spec(self) -> Result<GroupSpec, String> {
        let has_selector = self.user.is_some() || self.tag.is_some() || self.settings.is_some();
        let selector = Selector {
            users: self.user.map(Texts::into_vec).unwrap_or_default(),
            tags: self.tag.map(Texts::into_vec).unwrap_or_default(),
            settings: self
                .settings
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.into_text()))
                .collect(),
        };
        let memory_bytes = self.memory.map(|memory| {
            config::parse_size(&memory).map_err(|why| format!("memory = \"{memory}\" of group {} {why}", self.name))
        });
        Ok(GroupSpec {
            weight: self.weight,
            max_running: self.max_running,
            max_queued: self.max_queued,
            memory_bytes: memory_bytes.transpose()?,
            cpu_share_percent: self.cpu_share,
            selector: has_selector.then_some(selector),
            name: self.name,
        })
    }
}

/// The groups of a file.
///
/// # Errors
/// A sentence that names the flag, the file and what is wrong with it.
pub(super) fn read_groups(path: &Path) -> Result<Groups, String> {
    let named = |why: String| format!("--groups {}: {why}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| named(format!("cannot be read ({error}); name a readable TOML file")))?;
    parse(&text).map_err(named)
}

fn parse(text: &str) -> Result<Groups, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!(
            "line {line} is not a group ({}); correct it",
            error.message().replace('\n', " ")
        )
    })?;
    let specs: Result<Vec<_>, _> = file.group.into_iter().map(Table::into_spec).collect();
    Groups::new(specs?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_has_the_limits_of_its_file() {
        let groups = parse(
            r#"
            [[group]]
            name = "etl"
            weight = 2
            max_running = 4
            max_queued = 100
            memory = "8GB"
            cpu_share = 50
            user = "etl_*"

            [[group]]
            name = "etl.nightly"
            tag = ["nightly", "weekly"]
            settings = { "datafusion.execution.batch_size" = 1024 }
            "#,
        )
        .unwrap();
        let etl = groups.spec(1);
        assert_eq!((etl.weight, etl.max_running, etl.max_queued), (2, Some(4), Some(100)));
        assert_eq!(
            (etl.memory_bytes, etl.cpu_share_percent),
            (Some(8_000_000_000), Some(50))
        );
        assert_eq!(etl.selector.as_ref().unwrap().users, ["etl_*"]);
        let nightly = groups.spec(2).selector.as_ref().unwrap();
        assert_eq!(nightly.tags, ["nightly", "weekly"]);
        assert_eq!(nightly.settings["datafusion.execution.batch_size"], "1024");
        assert_eq!(groups.spec(2).weight, 1);
    }

    #[test]
    fn wrong_group_file_names_its_mistake() {
        for (text, says) in [
            ("[[group]]\nnam = \"a\"", "line 2"),
            ("[[group]]\nname = \"a\"\nmemory = \"lots\"", "is not a size"),
            ("[[group]]\nname = \"a.b\"", "define a first"),
            ("group = 3", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let error = read_groups(Path::new("/nowhere/groups.toml")).unwrap_err();
        assert!(error.contains("--groups /nowhere/groups.toml"), "{error}");
    }
}
