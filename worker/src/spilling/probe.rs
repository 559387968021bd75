//! Scatters the probe side of a join whose build side is on disk.

use std::sync::{Mutex, PoisonError};

use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use super::joining::{Joining, Side};
use super::scatter::SpilledRows;

/// A complete probe side.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// The rows of each piece; empty as long as nothing was added.
    pub(super) pieces: Vec<SpilledRows>,
    /// Whether a key is null, which decides a `NOT IN`.
    pub(super) has_null: bool,
}

impl Probe {
    pub(super) fn has_rows(&self) -> bool {
        self.pieces.iter().any(|piece| piece.rows > 0)
    }

    fn append(&mut self, other: Self) {
        self.has_null |= other.has_null;
        if self.pieces.is_empty() {
            self.pieces = other.pieces;
            return;
        }
        for (piece, more) in self.pieces.iter_mut().zip(other.pieces) {
            piece.extend(more.batches);
        }
    }
}

/// Reads all `rows`.
pub(super) async fn scatter(mut rows: SendableRecordBatchStream, joining: &Joining) -> Result<Probe> {
    let mut scatter = joining.scatter(Side::Probe, 0);
    let mut has_null = false;
    while let Some(batch) = rows.try_next().await? {
        has_null = has_null || joining.join().null_aware && joining.has_null_key(&batch)?;
        scatter.push(&batch)?;
    }
    let pieces = joining.finish(scatter)?;
    Ok(Probe { pieces, has_null })
}

/// Brings the probe rows of all partitions together, for joins that must know which build rows have no match in any.
pub(super) struct Gathering(Mutex<Gathered>);

struct Gathered {
    missing: usize,
    probe: Probe,
}

impl Gathering {
    pub(super) fn new(partitions: usize) -> Self {
        Self(Mutex::new(Gathered {
            missing: partitions,
            probe: Probe::default(),
        }))
    }

    /// Adds the rows of one partition. The last one gets those of all.
    pub(super) fn add(&self, probe: Probe) -> Option<Probe> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.probe.append(probe);
        gathered.missing -= 1;
        (gathered.missing == 0).then(|| std::mem::take(&mut gathered.probe))
    }
}
