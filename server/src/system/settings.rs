//! `system.settings`.

use std::collections::HashMap;

use datafusion::arrow::array::RecordBatch;
use datafusion::config::{ConfigEntry, ConfigOptions};
use datafusion::error::Result;

use super::rows::Columns;

/// An option of the reading session, with its value in a new session.
pub(super) struct SettingRow {
    entry: ConfigEntry,
    default: Option<String>,
}

pub(super) fn rows(options: &ConfigOptions, defaults: &ConfigOptions) -> Vec<SettingRow> {
    let defaults = defaults.entries().into_iter();
    let mut defaults: HashMap<String, Option<String>> = defaults.map(|entry| (entry.key, entry.value)).collect();
    let mut rows: Vec<_> = options
        .entries()
        .into_iter()
        .map(|entry| SettingRow {
            default: defaults.remove(&entry.key).flatten(),
            entry,
        })
        .collect();
    rows.sort_by(|one, other| one.entry.key.cmp(&other.entry.key));
    rows
}

pub(super) fn batch(settings: &[SettingRow]) -> Result<RecordBatch> {
    Columns::new(settings)
        .text("name", |row| row.entry.key.as_str())
        .maybe_text("value", |row| row.entry.value.as_deref())
        .maybe_text("default_value", |row| row.default.as_deref())
        .text("description", |row| row.entry.description)
        .batch()
}
