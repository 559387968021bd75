//! The options of a session beside DataFusion's own, and the settings that a query sends to its workers.

pub mod session;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use datafusion::common::config_err;
use datafusion::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::error::{DataFusionError, Result};

use crate::config;

/// DataFusion's defaults: only options that differ are sent, since there are hundreds.
static DEFAULTS: LazyLock<HashMap<String, Option<String>>> = LazyLock::new(|| {
    ConfigOptions::default()
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect()
});

/// The options `squadron.*` of a session: `SET squadron.endpoints = parallel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SquadronOptions {
    /// How many endpoints a result has.
    pub endpoints: Endpoints,
    /// How long a query may take from its start to its last row; none: no limit.
    pub query_timeout: Option<Duration>,
    /// The priority of the session's queries; 10 more double a query's share.
    pub priority: i32,
    /// The purpose of the session's queries, by which resource groups may be selected.
    pub tag: Option<String>,
    /// How much of the workers' memory a query reserves, in bytes; it waits until so much is not reserved by others.
    pub reserved_memory: u64,
    /// Whether slow tasks get a second attempt on another worker.
    pub speculation: bool,
    /// Whether the plan of an equal statement before is used again.
    pub plan_cache: bool,
    /// Which rules make plans better.
    pub optimizer: OptimizerRules,
    /// Whether a few rows of tables are read to estimate a query before it runs.
    pub samples: bool,
    /// By how much the optimizer takes tables for larger or smaller than they are, to test what its mistakes cost.
    pub misestimate: u32,
}

/// The rules of the planner's own optimizer; all are on unless a session says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptimizerRules {
    /// Semi-joins filter tables before they are joined.
    pub semi_join_placement: bool,
    /// Groups are computed for the keys that a join asks for.
    pub correlated_aggregates: bool,
    /// `NOT IN` without NULL is a plain anti-join.
    pub not_in: bool,
    /// Inner joins are done in the order that makes the fewest rows.
    pub join_order: bool,
    /// Workers exchange fewer rows for joins that keep rows of their smaller side.
    pub semi_join_reducers: bool,
    /// The side of a join that becomes a table is chosen by the optimizer's estimates.
    pub join_sides: bool,
    /// Equal parts of a query are computed once.
    pub equal_subplans: bool,
}

impl OptimizerRules {
    /// The rules by the names of their options, `squadron.optimizer.NAME`.
    pub const NAMES: [&'static str; 7] = [
        "semi_join_placement",
        "correlated_aggregates",
        "not_in",
        "join_order",
        "semi_join_reducers",
        "join_sides",
        "equal_subplans",
    ];

    fn switch(&mut self, key: &str) -> Option<&mut bool> {
        match key {
            "optimizer.semi_join_placement" => Some(&mut self.semi_join_placement),
            "optimizer.correlated_aggregates" => Some(&mut self.correlated_aggregates),
            "optimizer.not_in" => Some(&mut self.not_in),
            "optimizer.join_order" => Some(&mut self.join_order),
            "optimizer.semi_join_reducers" => Some(&mut self.semi_join_reducers),
            "optimizer.join_sides" => Some(&mut self.join_sides),
            "optimizer.equal_subplans" => Some(&mut self.equal_subplans),
            _ => None,
        }
    }
}

impl Default for OptimizerRules {
    fn default() -> Self {
        Self {
            semi_join_placement: true,
            correlated_aggregates: true,
            not_in: true,
            join_order: true,
            semi_join_reducers: true,
            join_sides: true,
            equal_subplans: true,
        }
    }
}

impl Default for SquadronOptions {
    fn default() -> Self {
        Self {
            endpoints: Endpoints::default(),
            query_timeout: None,
            priority: 0,
            tag: None,
            reserved_memory: 0,
            speculation: true,
            plan_cache: true,
            optimizer: OptimizerRules::default(),
            samples: true,
            misestimate: 1,
        }
    }
}

/// How many endpoints the result of a query has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endpoints {
    /// One endpoint, which every client reads whole.
    #[default]
    One,
    /// One for each partition of the result, at the workers where they can be reached.
    Parallel,
}

/// The priorities that a session may set.
const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

impl SquadronOptions {
    /// The options of a session.
    pub fn of(options: &ConfigOptions) -> Self {
        options.extensions.get::<Self>().cloned().unwrap_or_default()
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Parallel => "parallel",
        })
    }
}

impl FromStr for Endpoints {
    type Err = DataFusionError;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "one" => Ok(Self::One),
            "parallel" => Ok(Self::Parallel),
            _ => config_err!("squadron.endpoints is one or parallel, not '{text}'"),
        }
    }
}

impl ConfigExtension for SquadronOptions {
    const PREFIX: &'static str = "squadron";
}

impl ExtensionOptions for SquadronOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "endpoints" => self.endpoints = value.parse()?,
            "query_timeout" => self.query_timeout = parse_timeout(value)?,
            "priority" => self.priority = parse_priority(value)?,
            "tag" => self.tag = parse_tag(value)?,
            "reserved_memory" => self.reserved_memory = parse_reserved_memory(value)?,
            "optimizer.samples" => self.samples = parse_switch("squadron.optimizer.samples", value)?,
            "optimizer.misestimate" => self.misestimate = parse_misestimate(value)?,
            "speculation" => self.speculation = parse_switch("squadron.speculation", value)?,
            "plan_cache" => self.plan_cache = parse_switch("squadron.plan_cache", value)?,
            _ => match self.optimizer.switch(key) {
                Some(switch) => *switch = parse_switch(&format!("squadron.{key}"), value)?,
                None => return config_err!("there is no option squadron.{key}"),
            },
        }
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let timeout = self
            .query_timeout
            .map_or_else(|| "0s".to_owned(), |timeout| format!("{}ms", timeout.as_millis()));
        let entry = |key: &str, value: String, description| ConfigEntry {
            key: format!("{}.{key}", Self::PREFIX),
            value: Some(value),
            description,
        };
        vec![
            entry(
                "endpoints",
                self.endpoints.to_string(),
                "one: a result has one endpoint, which every client reads whole. parallel: one for each partition of \
                 the result, at the workers where clients can reach them",
            ),
            entry(
                "query_timeout",
                timeout,
                "How long a query may take from its start to its last row, such as 500ms, 30s or 5m; 0s is without \
                 limit",
            ),
            entry(
                "priority",
                self.priority.to_string(),
                "From -100 to 100; 10 more are twice the share of the workers, so that the query finishes sooner",
            ),
            entry(
                "tag",
                self.tag.clone().unwrap_or_default(),
                "What the session's queries are for; resource groups may be selected by it",
            ),
            entry(
                "reserved_memory",
                format!("{}B", self.reserved_memory),
                "How much of the workers' memory a query wants to itself, such as 4GB; it waits until so much is not \
                 reserved by others; 0 reserves nothing",
            ),
            entry(
                "speculation",
                switch(self.speculation),
                "on: a task that takes much longer than others of its stage gets a second attempt on another worker \
                 with free slots, and the first to finish wins",
            ),
            entry(
                "plan_cache",
                switch(self.plan_cache),
                "on: a statement that came before is not planned again while its tables have the same files",
            ),
            entry(
                "optimizer.semi_join_placement",
                switch(self.optimizer.semi_join_placement),
                "on: IN and EXISTS filter a table before it is joined, where few rows are left of it",
            ),
            entry(
                "optimizer.correlated_aggregates",
                switch(self.optimizer.correlated_aggregates),
                "on: groups of a subquery are computed only for the keys that the query around it asks for, where those \
                 are few",
            ),
            entry(
                "optimizer.not_in",
                switch(self.optimizer.not_in),
                "on: NOT IN is joined in partitions, where the metadata of files say that there is no NULL",
            ),
            entry(
                "optimizer.join_order",
                switch(self.optimizer.join_order),
                "on: inner joins are done in the order that makes the fewest rows by statistics; off: as the query names \
                 its tables",
            ),
            entry(
                "optimizer.semi_join_reducers",
                switch(self.optimizer.semi_join_reducers),
                "on: for EXISTS, NOT EXISTS, IN and LEFT JOIN, workers exchange only rows with keys that the other side has, \
                 where those are few",
            ),
            entry(
                "optimizer.join_sides",
                switch(self.optimizer.join_sides),
                "on: the side of a join that becomes a table is the smaller one by the estimates of the join order; off: by \
                 DataFusion's own",
            ),
            entry(
                "optimizer.equal_subplans",
                switch(self.optimizer.equal_subplans),
                "on: groups, distinct rows and windows that occur twice in a query are computed once",
            ),
            entry(
                "optimizer.samples",
                switch(self.samples),
                "on: a few rows of the tables that a query joins are read before it runs, where metadata do not tell how many \
                 rows a condition or a join keeps",
            ),
            entry(
                "optimizer.misestimate",
                self.misestimate.to_string(),
                "For tests: the optimizer takes tables for so many times more or fewer rows than they have, by their \
                 names; 1 is off",
            ),
        ]
    }
}

fn parse_misestimate(text: &str) -> Result<u32> {
    match text.trim().parse() {
        Ok(factor) if factor >= 1 => Ok(factor),
        _ => config_err!("squadron.optimizer.misestimate is a whole number from 1, not '{text}'"),
    }
}

fn parse_timeout(text: &str) -> Result<Option<Duration>> {
    let number = text.trim().trim_end_matches(char::is_alphabetic);
    if number.trim() == "0" {
        return Ok(None);
    }
    match config::parse_duration(text) {
        Ok(timeout) => Ok(Some(timeout)),
        Err(why) => config_err!("squadron.query_timeout: {text} {why}"),
    }
}

fn switch(is_on: bool) -> String {
    if is_on { "on" } else { "off" }.to_owned()
}

fn parse_switch(option: &str, text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => config_err!("{option} is on or off, not '{text}'"),
    }
}

fn parse_tag(text: &str) -> Result<Option<String>> {
    const MOST: usize = 128;
    if text.len() > MOST {
        return config_err!("squadron.tag is longer than {MOST} bytes; give a shorter one");
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn parse_reserved_memory(text: &str) -> Result<u64> {
    if matches!(text.trim(), "0" | "0B") {
        return Ok(0);
    }
    match config::parse_size(text) {
        Ok(bytes) => Ok(bytes),
        Err(why) => config_err!("squadron.reserved_memory: {text} {why}"),
    }
}

fn parse_priority(text: &str) -> Result<i32> {
    match text.parse() {
        Ok(priority) if PRIORITIES.contains(&priority) => Ok(priority),
        _ => config_err!("squadron.priority is a number from -100 to 100, not '{text}'"),
    }
}

const PARTITIONS: &str = "datafusion.execution.target_partitions";

/// Finds the settings that queries send to their workers. There are hundreds of options to compare, and most sessions
/// change none of them: the settings found last are kept for all sessions that share the same options.
#[derive(Debug, Default)]
pub struct WorkerSettings(Mutex<Option<Cached>>);

#[derive(Debug)]
struct Cached {
    options: Arc<ConfigOptions>,
    changed: Vec<(String, String)>,
}

impl WorkerSettings {
    /// The settings of `options` that differ from DataFusion's defaults, for a query planned with `partitions`. The
    /// server's own options (`squadron.*`) are not sent.
    pub fn of(&self, options: &Arc<ConfigOptions>, partitions: usize) -> Vec<(String, String)> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = last.take().filter(|last| Arc::ptr_eq(&last.options, options));
        let cached = last.insert(cached.unwrap_or_else(|| Cached {
            options: Arc::clone(options),
            changed: find_changed(options),
        }));
        let mut settings = cached.changed.clone();
        settings.push((PARTITIONS.to_owned(), partitions.to_string()));
        settings
    }
}

fn find_changed(options: &ConfigOptions) -> Vec<(String, String)> {
    options
        .entries()
        .into_iter()
        .filter(|entry| entry.key.starts_with("datafusion."))
        .filter(|entry| entry.key != PARTITIONS && DEFAULTS.get(&entry.key) != Some(&entry.value))
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ConfigOptions {
        let mut options = ConfigOptions::default();
        options.extensions.insert(SquadronOptions::default());
        options
    }

    #[test]
    fn workers_get_changed_settings_only() {
        let mut options = options();
        options.set("datafusion.execution.batch_size", "77").unwrap();
        options.set("squadron.priority", "7").unwrap();
        let options = Arc::new(options);
        let worker_settings = WorkerSettings::default();
        let settings = worker_settings.of(&options, 3);
        assert_eq!(worker_settings.of(&options, 3), settings);
        assert!(settings.contains(&("datafusion.execution.batch_size".into(), "77".into())));
        assert!(settings.contains(&("datafusion.execution.target_partitions".into(), "3".into())));
        assert_eq!(settings.len(), 2);
        let others = Arc::new(ConfigOptions::default());
        let others = worker_settings.of(&others, 4);
        assert_eq!(others, [("datafusion.execution.target_partitions".into(), "4".into())]);
    }

    #[test]
    fn entries_print_the_set_values() {
        let mut options = options();
        for (key, value, shown) in [
            ("squadron.endpoints", "PARALLEL", "parallel"),
            ("squadron.query_timeout", "2s", "2000ms"),
            ("squadron.query_timeout", "0s", "0s"),
            ("squadron.priority", "-5", "-5"),
            ("squadron.tag", "etl", "etl"),
            ("squadron.reserved_memory", "0", "0B"),
            ("squadron.reserved_memory", "1KiB", "1024B"),
            ("squadron.speculation", "true", "on"),
            ("squadron.speculation", "OFF", "off"),
            ("squadron.plan_cache", "off", "off"),
            ("squadron.optimizer.correlated_aggregates", "off", "off"),
            ("squadron.optimizer.samples", "off", "off"),
            ("squadron.optimizer.misestimate", "1000", "1000"),
        ] {
            options.set(key, value).unwrap();
            let entries = options.entries();
            let entry = entries.iter().find(|entry| entry.key == key).unwrap();
            assert_eq!(entry.value.as_deref(), Some(shown));
        }
        assert_eq!(
            SquadronOptions::of(&options),
            SquadronOptions {
                endpoints: Endpoints::Parallel,
                query_timeout: None,
                priority: -5,
                tag: Some("etl".to_owned()),
                reserved_memory: 1024,
                speculation: false,
                plan_cache: false,
                optimizer: OptimizerRules {
                    correlated_aggregates: false,
                    ..OptimizerRules::default()
                },
                samples: false,
                misestimate: 1000,
            }
        );
    }

    #[test]
    fn every_rule_has_its_switch() {
        let entries = SquadronOptions::default().entries();
        let switches = entries.iter().filter(|entry| entry.value.as_deref() == Some("on"));
        let switches = switches.filter_map(|entry| entry.key.strip_prefix("squadron.optimizer."));
        let rules = switches.filter(|switch| *switch != "samples");
        assert_eq!(rules.collect::<Vec<_>>(), OptimizerRules::NAMES);
    }

    #[test]
    fn refused_value_error_names_valid_ones() {
        let mut options = options();
        for (key, value, says) in [
            ("squadron.endpoints", "two", "one or parallel"),
            ("squadron.query_timeout", "soon", "squadron.query_timeout"),
            ("squadron.priority", "101", "from -100 to 100"),
            ("squadron.reserved_memory", "much", "squadron.reserved_memory"),
            ("squadron.speculation", "maybe", "on or off"),
            ("squadron.optimizer.misestimate", "0", "from 1"),
            ("squadron.colour", "red", "squadron.colour"),
        ] {
            let error = options.set(key, value).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
