//! The settings that a query takes with it to its workers.

use std::collections::HashMap;
use std::sync::LazyLock;

use datafusion::config::ConfigOptions;

/// DataFusion's defaults, to send only what differs from them: there are hundreds.
static DEFAULTS: LazyLock<HashMap<String, Option<String>>> = LazyLock::new(|| {
    ConfigOptions::default()
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect()
});

/// The settings of `options` that differ from DataFusion's defaults, for a query planned with `partitions`.
pub fn changed(options: &ConfigOptions, partitions: usize) -> Vec<(String, String)> {
    const PARTITIONS: &str = "datafusion.execution.target_partitions";
    let mut changed: Vec<(String, String)> = options
        .entries()
        .into_iter()
        .filter(|entry| entry.key != PARTITIONS && DEFAULTS.get(&entry.key) != Some(&entry.value))
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect();
    changed.push((PARTITIONS.to_owned(), partitions.to_string()));
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_from_the_defaults_travels() {
        let mut options = ConfigOptions::default();
        options
            .set("datafusion.execution.batch_size", "77")
            .unwrap();
        let settings = changed(&options, 3);
        assert!(settings.contains(&("datafusion.execution.batch_size".into(), "77".into())));
        assert!(settings.contains(&("datafusion.execution.target_partitions".into(), "3".into())));
        assert_eq!(settings.len(), 2);
    }
}
