//! Scatters rows over pieces on disk by the hash of their keys.

use std::ops::Range;

use datafusion::arrow::array::{RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::hash_utils::{QualityRandomState, create_hashes};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_expr_common::utils::evaluate_expressions_to_arrays;
use squadron_shuffle::failure::into_datafusion;
use squadron_shuffle::{Spill, SpilledBatch};

/// Into how many pieces rows are scattered. Few, so that the blocks of each are large; what is still too large is
/// scattered again.
pub(super) const PIECES: usize = 16;

/// Rows are written to disk once so many bytes of them have come together, or less when the pool refuses.
const BUFFERED_BYTES: usize = 4 * 1024 * 1024;

/// Rows on disk, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct SpilledRows {
    pub(super) batches: Vec<SpilledBatch>,
    pub(super) rows: usize,
    /// Bytes in memory, once they are read.
    pub(super) bytes: usize,
}

impl Extend<SpilledBatch> for SpilledRows {
    fn extend<T: IntoIterator<Item = SpilledBatch>>(&mut self, batches: T) {
        for batch in batches {
            self.rows += batch.rows();
            self.bytes += batch.memory_bytes();
            self.batches.push(batch);
        }
    }
}

/// Takes batches; [`Scatter::finish`] returns the pieces.
pub(super) struct Scatter {
    keys: Vec<PhysicalExprRef>,
    hash: QualityRandomState,
    schema: SchemaRef,
    spill: Spill,
    pieces: Vec<SpilledRows>,
    /// Batches whose rows are ordered by piece, with the rows of each piece.
    buffered: Vec<(RecordBatch, Vec<Range<usize>>)>,
    reservation: MemoryReservation,
}

impl Scatter {
    /// `level` says how often the rows were scattered before: each level has a hash of its own. Rows that wait for
    /// their write are charged to `reservation`.
    pub(super) fn new(
        keys: Vec<PhysicalExprRef>,
        level: usize,
        schema: SchemaRef,
        spill: Spill,
        reservation: MemoryReservation,
    ) -> Self {
        Self {
            keys,
            // Neither the hash that distributed the rows to partitions nor that of the hash table.
            hash: QualityRandomState::with_seed(0x5b11 + level as u64),
            schema,
            spill,
            pieces: vec![SpilledRows::default(); PIECES],
            buffered: Vec::new(),
            reservation,
        }
    }

    /// Adds the rows of `batch`. Blocks the thread when it writes.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (batch, ranges) = self.order_by_piece(batch)?;
        let bytes = get_record_batch_memory_size(&batch);
        let is_granted = self.reservation.try_grow(bytes).is_ok();
        self.buffered.push((batch, ranges));
        // Without memory each batch is written at once, in small blocks.
        if !is_granted || self.reservation.size() >= BUFFERED_BYTES {
            self.write_buffered()?;
        }
        Ok(())
    }

    /// Writes the rest. Returns the rows of each piece.
    pub(super) fn finish(mut self) -> Result<Vec<SpilledRows>> {
        self.write_buffered()?;
        Ok(self.pieces)
    }

    fn order_by_piece(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<Range<usize>>)> {
        let keys = evaluate_expressions_to_arrays(&self.keys, batch)?;
        let mut hashes = vec![0; batch.num_rows()];
        create_hashes(&keys, &self.hash, &mut hashes)?;
        let piece_of = |hash: u64| (hash >> 32) as usize % PIECES;
        let mut ends = [0; PIECES];
        hashes.iter().for_each(|hash| ends[piece_of(*hash)] += 1);
        let mut ranges = Vec::with_capacity(PIECES);
        let mut start = 0;
        for count in ends {
            ranges.push(start..start + count);
            start += count;
        }
        let mut order = vec![0; batch.num_rows()];
        let mut next: Vec<usize> = ranges.iter().map(|range| range.start).collect();
        for (row, hash) in (0..).zip(&hashes) {
            let place = &mut next[piece_of(*hash)];
            order[*place] = row;
            *place += 1;
        }
        Ok((take_record_batch(batch, &UInt32Array::from(order))?, ranges))
    }

    fn write_buffered(&mut self) -> Result<()> {
        for (number, piece) in self.pieces.iter_mut().enumerate() {
            let slices = self.buffered.iter().filter_map(|(batch, ranges)| {
                let range = &ranges[number];
                (!range.is_empty()).then(|| batch.slice(range.start, range.len()))
            });
            let slices: Vec<_> = slices.collect();
            if slices.is_empty() {
                continue;
            }
            let rows = concat_batches(&self.schema, &slices)?;
            piece.extend([self.spill.write(&rows).map_err(into_datafusion)?]);
        }
        self.buffered.clear();
        self.reservation.free();
        Ok(())
    }
}
