//! Cuts what a scan reads into more ranges than it has partitions, so that the partitions of a task end together.
//!
//! DataFusion gives each partition of a scan an equal range of the files, and lets a partition that has ended take files that
//! others have not begun. With one range each there is nothing to take: where statistics or a join's filter leave out the row
//! groups of one range and not of the other, one thread reads on while the others wait. Ranges that are opened later also meet
//! filters that have become narrower meanwhile. Small units of work that idle threads take are the morsels of Leis et al.,
//! "Morsel-Driven Parallelism", 2014.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::physical_plan::ExecutionPlan;
use squadron_shuffle::plan_nodes::file_scan;

use crate::replace::replace_nodes;

/// Ranges of a scan for each slot: at its end others wait for one of them at most. Where a scan has as many partitions, the
/// threads take turns at them, and more ranges would only be opened.
const RANGES: usize = 4;

/// Bytes of the smallest range that is worth opening a file for.
const LEAST_BYTES: u64 = 1024 * 1024;

/// DataFusion's name of the format that is read in any order without looking for the ends of lines.
const PARQUET: &str = "parquet";

/// `plan`, which runs in so many slots, with smaller ranges in scans whose partitions may take files from each other.
///
/// # Errors
/// Those of building plans.
pub(crate) fn with_small_ranges(
    plan: Arc<dyn ExecutionPlan>,
    slots: usize,
    options: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    replace_nodes(plan, &|node| {
        let cut = file_scan(node.as_ref()).and_then(|scan| small_ranges(scan, slots, options));
        Ok(match cut {
            Some(scan) => DataSourceExec::from_data_source(scan),
            None => node,
        })
    })
}

fn small_ranges(scan: &FileScanConfig, slots: usize, options: &ConfigOptions) -> Option<FileScanConfig> {
    let is_shared = || scan.create_sibling_state(options).is_some();
    if scan.file_groups.len() < 2 || scan.file_source().file_type() != PARQUET || !is_shared() {
        return None;
    }
    let files = || scan.file_groups.iter().flat_map(FileGroup::iter);
    let bytes: u64 = files().map(PartitionedFile::effective_size).sum();
    let ranges = (RANGES * slots).max(scan.file_groups.len());
    let most = bytes.div_ceil(u64::try_from(ranges).ok()?).max(LEAST_BYTES);
    if files().all(|file| file.effective_size() <= most) {
        return None;
    }
    let groups = scan.file_groups.iter().map(|group| {
        let files = group.iter().flat_map(|file| cut_file(file, most));
        FileGroup::new(files.collect())
    });
    let groups = groups.collect();
    Some(
        FileScanConfigBuilder::from(scan.clone())
            .with_file_groups(groups)
            .build(),
    )
}

/// `file` in ranges of about equal size, of at most so many bytes.
fn cut_file(file: &PartitionedFile, most: u64) -> Vec<PartitionedFile> {
    let (start, end) = file.range();
    let bytes = end.saturating_sub(start);
    let ranges = bytes.div_ceil(most).max(1);
    let step = bytes.div_ceil(ranges);
    let place = |range: u64| i64::try_from(end.min(start + range * step)).unwrap_or(i64::MAX);
    let range = |range: u64| FileRange {
        start: place(range),
        end: place(range + 1),
    };
    match ranges {
        1 => vec![file.clone()],
        _ => (0..ranges).map(|number| with_range(file, range(number))).collect(),
    }
}

fn with_range(file: &PartitionedFile, range: FileRange) -> PartitionedFile {
    PartitionedFile {
        range: Some(range),
        ..file.clone()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::datasource::object_store::ObjectStoreUrl;
    use datafusion::datasource::physical_plan::ParquetSource;
    use squadron_shuffle::fragment::determinism::FIXED_FILES;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn file(name: &str, start: u64, end: u64) -> PartitionedFile {
        let place = |byte| i64::try_from(byte).unwrap();
        PartitionedFile::new(name, 100 * MIB).with_range(place(start), place(end))
    }

    fn scan(groups: Vec<Vec<PartitionedFile>>) -> FileScanConfig {
        let source = Arc::new(ParquetSource::new(Arc::new(Schema::empty())));
        FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .build()
    }

    fn halves() -> FileScanConfig {
        let end = 100 * MIB - 1;
        scan(vec![vec![file("a", 0, 50 * MIB)], vec![file("a", 50 * MIB, end)]])
    }

    /// The ranges of each group.
    fn ranges(scan: &FileScanConfig) -> Vec<Vec<(u64, u64)>> {
        let groups = scan.file_groups.iter();
        groups
            .map(|group| group.iter().map(PartitionedFile::range).collect())
            .collect()
    }

    #[test]
    fn each_partition_has_some_ranges_that_follow_each_other() {
        let cut = small_ranges(&halves(), 2, &ConfigOptions::default()).unwrap();
        let cut = ranges(&cut);
        assert!(cut.iter().all(|group| group.len() == 4), "{cut:?}");
        let all: Vec<_> = cut.into_iter().flatten().collect();
        assert_eq!((all[0].0, all[7].1), (0, 100 * MIB - 1));
        assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0), "{all:?}");
    }

    #[test]
    fn small_files_and_ranges_stay_whole() {
        let small = scan(vec![vec![file("a", 0, MIB)], vec![file("b", 7, MIB + 7)]]);
        assert!(small_ranges(&small, 2, &ConfigOptions::default()).is_none());
        let uneven = scan(vec![vec![file("a", 0, MIB)], vec![file("b", 0, 3 * MIB)]]);
        let cut = small_ranges(&uneven, 2, &ConfigOptions::default()).unwrap();
        let thirds = vec![(0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB)];
        assert_eq!(ranges(&cut), [vec![(0, MIB)], thirds]);
    }

    #[test]
    fn scans_of_many_partitions_stay_as_they_are() {
        let eighths = (0..8).map(|part| vec![file("a", part * 12 * MIB, (part + 1) * 12 * MIB)]);
        let eighths = scan(eighths.collect());
        assert!(small_ranges(&eighths, 2, &ConfigOptions::default()).is_none());
        assert!(small_ranges(&eighths, 4, &ConfigOptions::default()).is_some());
    }

    #[test]
    fn ranges_that_nobody_may_take_stay_whole() {
        let mut fixed = ConfigOptions::default();
        fixed.set(FIXED_FILES.0, FIXED_FILES.1).unwrap();
        assert!(small_ranges(&halves(), 2, &fixed).is_none());
        let ordered = FileScanConfigBuilder::from(halves()).with_preserve_order(true).build();
        assert!(small_ranges(&ordered, 2, &ConfigOptions::default()).is_none());
        let alone = scan(vec![vec![file("a", 0, 100 * MIB)]]);
        assert!(small_ranges(&alone, 2, &ConfigOptions::default()).is_none());
    }
}
