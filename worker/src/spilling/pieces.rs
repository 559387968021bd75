//! Joins pieces, one after another.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::{JoinType, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryStreamExt, stream};
use squadron_shuffle::failure::into_datafusion;

use super::build::needed_bytes;
use super::joining::{Joining, Side};
use super::scatter::SpilledRows;
use crate::yielding::give_way;

/// How often the rows of a piece are scattered again. After this the pieces of a terabyte are small.
const MAX_LEVEL: usize = 4;

/// A piece is skewed if scattering moved less than one row in so many elsewhere: few keys have most of its rows.
const SKEW: usize = 10;

/// Rows that may match each other, and no others.
#[derive(Clone)]
pub(super) struct Piece {
    build: SpilledRows,
    probe: SpilledRows,
    /// How often its rows were scattered, after the first time.
    level: usize,
    step: Step,
}

/// What is to be done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Join it; if it does not fit, scatter it first.
    Whole,
    /// Join its build rows, a chunk at a time.
    BuildChunks,
    /// Join its probe rows, a chunk at a time: they become the build side.
    ProbeChunks,
    /// Find the probe rows without a match, a chunk at a time.
    UnmatchedProbeChunks,
}

impl Piece {
    pub(super) fn new(build: SpilledRows, probe: SpilledRows) -> Self {
        Self {
            build,
            probe,
            level: 0,
            step: Step::Whole,
        }
    }

    /// What is to be done with a piece that does not fit, and that scattering does not make smaller.
    fn in_chunks(self, join_type: JoinType) -> Vec<Self> {
        let steps: &[_] = match join_type {
            // Whether a probe row has no match is known only after all build rows: it becomes a build row.
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => &[Step::ProbeChunks],
            JoinType::Full => &[Step::BuildChunks, Step::UnmatchedProbeChunks],
            _ => &[Step::BuildChunks],
        };
        steps
            .iter()
            .map(|step| Self {
                step: *step,
                ..self.clone()
            })
            .collect()
    }
}

/// The pieces of a join that are left.
pub(super) struct Pieces {
    joining: Arc<Joining>,
    left: Vec<Piece>,
    current: Option<Current>,
}

/// The joined rows of a piece or a chunk, and the memory of its build rows.
struct Current {
    rows: SendableRecordBatchStream,
    _build: MemoryReservation,
}

impl Pieces {
    pub(super) fn new(joining: Arc<Joining>, left: Vec<Piece>) -> Self {
        Self {
            joining,
            left,
            current: None,
        }
    }

    /// The joined rows of all pieces.
    pub(super) fn into_rows(self) -> SendableRecordBatchStream {
        let schema = self.joining.join().schema();
        let rows = stream::try_unfold(self, async |mut pieces| {
            let batch = pieces.next().await?;
            Ok(batch.map(|batch| (batch, pieces)))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(batch) = current.rows.try_next().await? {
                    return Ok(Some(batch));
                }
                self.current = None;
            }
            let Some(piece) = self.left.pop() else {
                return Ok(None);
            };
            self.start(piece).await?;
        }
    }

    async fn start(&mut self, mut piece: Piece) -> Result<()> {
        let joining = Arc::clone(&self.joining);
        if piece.build.rows == 0 && piece.probe.rows == 0 {
            return Ok(());
        }
        let (rows, build) = match piece.step {
            Step::Whole => match self.reserve(&piece.build)? {
                Some(build) => (joining.join_rows(piece.build, piece.probe)?, build),
                None => return self.divide(piece).await,
            },
            Step::BuildChunks => {
                let (chunk, build) = self.take_chunk(&mut piece.build)?;
                let rows = joining.join_build_chunk(chunk, piece.probe.clone())?;
                if piece.build.rows > 0 {
                    self.left.push(piece);
                }
                (rows, build)
            }
            Step::ProbeChunks | Step::UnmatchedProbeChunks => {
                let (chunk, build) = self.take_chunk(&mut piece.probe)?;
                let rows = match piece.step {
                    Step::ProbeChunks => joining.join_probe_chunk(piece.build.clone(), chunk)?,
                    _ => joining.unmatched_probe_rows(piece.build.clone(), chunk)?,
                };
                if piece.probe.rows > 0 {
                    self.left.push(piece);
                }
                (rows, build)
            }
        };
        self.current = Some(Current { rows, _build: build });
        Ok(())
    }

    /// Memory to join `build` as a whole, if it is granted. The least that a join can hold always is.
    fn reserve(&self, build: &SpilledRows) -> Result<Option<MemoryReservation>> {
        let reservation = self.joining.reservation("HashJoinBuild");
        let needed = needed_bytes(build.bytes, build.rows)?;
        if build.batches.len() <= 1 {
            reservation.grow(needed);
        } else if reservation.try_grow(needed).is_err() {
            return Ok(None);
        }
        Ok(Some(reservation))
    }

    /// Scatters the rows of a piece over smaller ones.
    async fn divide(&mut self, piece: Piece) -> Result<()> {
        let joining = Arc::clone(&self.joining);
        let join_type = *joining.join().join_type();
        if piece.level == MAX_LEVEL {
            self.left.extend(piece.in_chunks(join_type));
            return Ok(());
        }
        let level = piece.level + 1;
        let rows = piece.build.rows;
        let build = scatter(piece.build, Side::Build, level, &joining).await?;
        let probe = scatter(piece.probe, Side::Probe, level, &joining).await?;
        for (build, probe) in build.into_iter().zip(probe) {
            let is_skewed = build.rows > rows - rows / SKEW;
            let piece = Piece {
                level,
                ..Piece::new(build, probe)
            };
            match is_skewed {
                true => self.left.extend(piece.in_chunks(join_type)),
                false => self.left.push(piece),
            }
        }
        Ok(())
    }

    /// Takes the first batches of `rows`: one at least, and as many as memory is granted for.
    fn take_chunk(&self, rows: &mut SpilledRows) -> Result<(SpilledRows, MemoryReservation)> {
        let reservation = self.joining.reservation("HashJoinBuild");
        let mut chunk = SpilledRows::default();
        let mut rest = std::mem::take(rows).batches.into_iter().peekable();
        while let Some(batch) = rest.peek() {
            let needed = needed_bytes(chunk.bytes + batch.memory_bytes(), chunk.rows + batch.rows())?;
            match chunk.batches.is_empty() {
                true => reservation.grow(needed),
                false if reservation.try_resize(needed).is_err() => break,
                false => {}
            }
            chunk.extend(rest.next());
        }
        rows.extend(rest);
        Ok((chunk, reservation))
    }
}

/// Scatters rows that are on disk.
async fn scatter(rows: SpilledRows, side: Side, level: usize, joining: &Joining) -> Result<Vec<SpilledRows>> {
    let mut scatter = joining.scatter(side, level);
    for batch in rows.batches {
        scatter.push(&batch.read().map_err(into_datafusion)?)?;
        give_way().await;
    }
    joining.finish(scatter)
}
