//! The files that a plan reads.

use std::time::{Duration, SystemTime};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::physical_plan::ExecutionPlan;

use super::estimate::scans;

/// A file as it was listed: another time, size or tag is another file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileVersion {
    store: String,
    path: String,
    size: u64,
    modified: SystemTime,
    tag: Option<String>,
    version: Option<String>,
}

impl FileVersion {
    fn of(store: &str, file: &PartitionedFile) -> Self {
        let object = &file.object_meta;
        Self {
            store: store.to_owned(),
            path: object.location.as_ref().to_owned(),
            size: object.size,
            modified: object.last_modified.into(),
            tag: object.e_tag.clone(),
            version: object.version.clone(),
        }
    }

    /// How long it is as it is; zero if it is of the future.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.modified).unwrap_or_default()
    }

    /// What it takes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        let texts = [
            Some(&self.store),
            Some(&self.path),
            self.tag.as_ref(),
            self.version.as_ref(),
        ];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        (size_of::<Self>() + texts) as u64
    }
}

/// The files that scans of a logical plan would read now, each once, in order.
///
/// # Errors
/// Those of the tables' providers.
pub(crate) async fn scanned_files(tables: &[TableScan], state: &SessionState) -> Result<Vec<FileVersion>> {
    let mut found = Vec::new();
    for scan in tables {
        let provider = source_as_provider(&scan.source)?;
        let plan = provider.scan(state, None, &scan.filters, scan.fetch).await?;
        found.extend(files(plan.as_ref()));
    }
    Ok(sorted(found))
}

/// The files that the scans at and below `plan` read, as often and in the order that they do.
pub(super) fn files(plan: &dyn ExecutionPlan) -> Vec<FileVersion> {
    let scans = scans(plan).into_iter();
    let files = scans.flat_map(|scan| {
        let files = scan.file_groups.iter().flat_map(|group| group.files());
        files.map(|file| FileVersion::of(scan.object_store_url.as_str(), file))
    });
    files.collect()
}

/// Each file once, in order.
pub(super) fn sorted(mut files: Vec<FileVersion>) -> Vec<FileVersion> {
    files.sort_unstable();
    files.dedup();
    files
}

/// The scans of a logical plan, also those of subqueries.
pub(super) fn table_scans(plan: &LogicalPlan) -> Result<Vec<TableScan>> {
    let mut found = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
