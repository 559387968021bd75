//! Resource groups: a tree of shares and limits, and which query belongs to which group.
//!
//! ```text
//! server ─┬─ etl ─┬─ etl.nightly      weight, max_running, max_queued, memory, cpu_share of each;
//!         │       └─ etl.backfill     a query counts for its group and all groups above it
//!         └─ people
//! ```
//!
//! A query belongs to the first group, in the order of their definition, whose selector matches; if none does, to the
//! server as a whole.

use std::collections::BTreeMap;

use crate::graph::QueryOptions;

/// How many groups there may be.
pub const MAX_GROUPS: usize = 256;
/// How deep groups may be nested.
pub const MAX_DEPTH: usize = 8;

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its name; the part before the last dot is the group above it.
    pub name: String,
    /// Its share relative to its siblings when they have work too; at least 1.
    pub weight: u32,
    /// How many of its queries may run at once.
    pub max_running: Option<usize>,
    /// How many of its queries may wait to run.
    pub max_queued: Option<usize>,
    /// How many bytes of the workers' memory its queries may reserve together.
    pub memory_bytes: Option<u64>,
    /// How many percent of all slots its queries may hold at once.
    pub cpu_share_percent: Option<u32>,
    /// Which queries belong to it; none: only the queries of the groups below it.
    pub selector: Option<Selector>,
}

/// Conditions that must all hold; a condition without values always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The user's name is one of these; `*` stands for any text.
    pub users: Vec<String>,
    /// `squadron.tag` is one of these; `*` stands for any text.
    pub tags: Vec<String>,
    /// These options of the session have these values; options with their default values never match.
    pub settings: BTreeMap<String, String>,
}

impl GroupSpec {
    /// A group without limits and without a selector.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            weight: 1,
            max_running: None,
            max_queued: None,
            memory_bytes: None,
            cpu_share_percent: None,
            selector: None,
        }
    }

    fn parent_name(&self) -> Option<&str> {
        self.name.rsplit_once('.').map(|(parent, _)| parent)
    }
}

impl Selector {
    fn matches(&self, options: &QueryOptions, settings: &[(String, String)]) -> bool {
        let named = |patterns: &[String], name: Option<&str>| {
            patterns.is_empty()
                || name.is_some_and(|name| patterns.iter().any(|pattern| matches_pattern(name, pattern)))
        };
        let is_set = |(key, value): (&String, &String)| {
            settings
                .iter()
                .any(|(set, to)| set == key && to.eq_ignore_ascii_case(value))
        };
        named(&self.users, options.user.as_deref())
            && named(&self.tags, options.tag.as_deref())
            && self.settings.iter().all(is_set)
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn matches_pattern(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A checked tree of groups. Number 0 is the server as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    specs: Vec<GroupSpec>,
    /// The number of each group's parent; smaller than the group's own.
    parents: Vec<Option<usize>>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            specs: vec![GroupSpec::new("server")],
            parents: vec![None],
        }
    }
}

impl Groups {
    /// Checks the groups and builds the tree.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence.
    pub fn new(specs: Vec<GroupSpec>) -> Result<Self, String> {
        let mut groups = Self::default();
        if specs.len() >= MAX_GROUPS {
            return Err(format!(
                "{} groups are more than the {MAX_GROUPS} there may be; merge some",
                specs.len()
            ));
        }
        for spec in specs {
            let name = &spec.name;
            if name.split('.').any(str::is_empty) {
                return Err(format!(
                    "group '{name}' has no proper name; write name = \"etl\", or \"etl.nightly\" for a group below it"
                ));
            }
            if groups.find(name).is_some() {
                return Err(format!("group {name} is there twice; give one another name"));
            }
            if name.split('.').count() > MAX_DEPTH {
                return Err(format!("group {name} is more than {MAX_DEPTH} levels deep; nest less"));
            }
            if spec.weight == 0 {
                return Err(format!("weight of group {name} is 0; give at least 1"));
            }
            if spec.max_running == Some(0) {
                return Err(format!(
                    "max_running of group {name} is 0, so nothing of it could ever run; give at least 1"
                ));
            }
            if !spec
                .cpu_share_percent
                .is_none_or(|percent| (1..=100).contains(&percent))
            {
                return Err(format!("cpu_share of group {name} must be from 1 to 100 percent"));
            }
            let parent = match spec.parent_name() {
                None => 0,
                Some(parent) => groups.find(parent).ok_or_else(|| {
                    format!("group {name} is below {parent}, which does not come before it; define {parent} first")
                })?,
            };
            groups.parents.push(Some(parent));
            groups.specs.push(spec);
        }
        Ok(groups)
    }

    /// How many groups there are, including the server as a whole.
    pub fn count(&self) -> usize {
        self.specs.len()
    }

    /// The group with this number.
    pub fn spec(&self, group: usize) -> &GroupSpec {
        &self.specs[group]
    }

    /// The group above this one.
    pub(crate) fn parent(&self, group: usize) -> Option<usize> {
        self.parents[group]
    }

    /// Whether there is a group below this one.
    pub(crate) fn has_children(&self, group: usize) -> bool {
        self.parents.contains(&Some(group))
    }

    /// The group and all above it, up to the server.
    pub(crate) fn path(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(group), |&group| self.parent(group))
    }

    /// The group of a query. `settings`: the options that its session changed.
    pub fn select(&self, options: &QueryOptions, settings: &[(String, String)]) -> usize {
        let matches = |spec: &GroupSpec| {
            spec.selector
                .as_ref()
                .is_some_and(|selector| selector.matches(options, settings))
        };
        self.specs.iter().position(matches).unwrap_or(0)
    }

    fn find(&self, name: &str) -> Option<usize> {
        let numbered = self.specs.iter().zip(0..).skip(1);
        numbered
            .filter(|(spec, _)| spec.name == name)
            .map(|(_, number)| number)
            .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(name: &str, users: &[&str], tags: &[&str]) -> GroupSpec {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        GroupSpec {
            selector: Some(Selector {
                users: texts(users),
                tags: texts(tags),
                settings: BTreeMap::new(),
            }),
            ..GroupSpec::new(name)
        }
    }

    fn options(user: Option<&str>, tag: Option<&str>) -> QueryOptions {
        QueryOptions {
            user: user.map(Into::into),
            tag: tag.map(Into::into),
            ..QueryOptions::default()
        }
    }

    #[test]
    fn pattern_star_matches_any_text() {
        for (text, pattern, expected) in [
            ("ada", "ada", true),
            ("ada", "ad", false),
            ("ada", "a*", true),
            ("ada", "*", true),
            ("", "*", true),
            ("ada", "*a", true),
            ("ada", "a*a", true),
            ("a", "a*a", false),
            ("a1b2c", "a*b*c", true),
            ("a1b2", "a*b*c", false),
        ] {
            assert_eq!(matches_pattern(text, pattern), expected, "{text} {pattern}");
        }
    }

    #[test]
    fn first_matching_group_takes_query() {
        let mut by_option = GroupSpec::new("wide");
        by_option.selector = Some(Selector {
            settings: BTreeMap::from([("datafusion.execution.batch_size".into(), "1".into())]),
            ..Selector::default()
        });
        let groups = Groups::new(vec![
            selected("etl", &["etl_*"], &[]),
            selected("etl.nightly", &[], &["night"]),
            selected("people", &["ada", "bob"], &["adhoc"]),
            by_option,
        ])
        .unwrap();
        let name = |user, tag, settings: &[(String, String)]| {
            let number = groups.select(&options(user, tag), settings);
            groups.spec(number).name.clone()
        };
        assert_eq!(name(Some("etl_7"), Some("night"), &[]), "etl");
        assert_eq!(name(Some("ada"), Some("night"), &[]), "etl.nightly");
        assert_eq!(name(Some("ada"), Some("adhoc"), &[]), "people");
        assert_eq!(name(Some("ada"), None, &[]), "server");
        assert_eq!(name(None, Some("adhoc"), &[]), "server");
        let set = ("datafusion.execution.batch_size".into(), "1".into());
        assert_eq!(name(None, None, &[set]), "wide");
        assert_eq!(groups.path(2).collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn invalid_tree_is_refused_with_remedy() {
        let mut weightless = GroupSpec::new("a");
        weightless.weight = 0;
        let mut idle = GroupSpec::new("a");
        idle.max_running = Some(0);
        let mut greedy = GroupSpec::new("a");
        greedy.cpu_share_percent = Some(101);
        let named = |names: &[&str]| names.iter().map(|name| GroupSpec::new(name)).collect();
        for (specs, says) in [
            (named(&["a", "a"]), "twice"),
            (named(&["b.c"]), "define b first"),
            (named(&["a."]), "proper name"),
            (vec![weightless], "at least 1"),
            (vec![idle], "at least 1"),
            (vec![greedy], "1 to 100"),
            (named(&["x"; MAX_GROUPS]), "more than"),
        ] {
            let error = Groups::new(specs).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
