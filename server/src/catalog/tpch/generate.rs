//! Writes the eight tables, several files at once.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;
use squadron_proto::{Failure, FailureKind};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RecordBatchIterator, RegionArrow,
    SupplierArrow,
};

use super::progress::Progress;

/// Rows of one file, so that a large table has enough files for many readers.
const ROWS_PER_FILE: u64 = 1_500_000;

/// A table never has more files than this; at large scales the files grow instead.
const MAX_FILES: u64 = 64;

/// Row groups of one file: the pieces that a scan can be split into.
const ROW_GROUPS_PER_FILE: u64 = 8;

/// Smaller row groups cost more in metadata than they give in parallelism.
const MIN_ROWS_PER_GROUP: u64 = 8_192;

/// Larger row groups cost memory while they are written.
const MAX_ROWS_PER_GROUP: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Region,
    Nation,
    Supplier,
    Part,
    Customer,
    PartSupp,
    Orders,
    LineItem,
}

impl Table {
    const ALL: [Self; 8] = [
        Self::Region,
        Self::Nation,
        Self::Supplier,
        Self::Part,
        Self::Customer,
        Self::PartSupp,
        Self::Orders,
        Self::LineItem,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Nation => "nation",
            Self::Supplier => "supplier",
            Self::Part => "part",
            Self::Customer => "customer",
            Self::PartSupp => "partsupp",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// Rows at this scale: exact but for lineitem, whose orders have four items on average.
    fn rows(self, scale: f64) -> u64 {
        let rows = match self {
            Self::Region => 5,
            Self::Nation => 25,
            Self::Supplier => SupplierGenerator::calculate_row_count(scale, 1, 1),
            Self::Part => PartGenerator::calculate_row_count(scale, 1, 1),
            Self::Customer => CustomerGenerator::calculate_row_count(scale, 1, 1),
            Self::PartSupp => PartGenerator::calculate_row_count(scale, 1, 1) * 4,
            Self::Orders => OrderGenerator::calculate_row_count(scale, 1, 1),
            Self::LineItem => OrderGenerator::calculate_row_count(scale, 1, 1) * 4,
        };
        u64::try_from(rows).unwrap_or(0)
    }

    /// The rows of one of `parts` parts, counted from 1.
    fn batches(self, scale: f64, part: i32, parts: i32) -> Box<dyn RecordBatchIterator> {
        match self {
            Self::Region => Box::new(RegionArrow::new(RegionGenerator::new(scale, part, parts))),
            Self::Nation => Box::new(NationArrow::new(NationGenerator::new(scale, part, parts))),
            Self::Supplier => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, part, parts))),
            Self::Part => Box::new(PartArrow::new(PartGenerator::new(scale, part, parts))),
            Self::Customer => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, part, parts))),
            Self::PartSupp => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, part, parts))),
            Self::Orders => Box::new(OrderArrow::new(OrderGenerator::new(scale, part, parts))),
            Self::LineItem => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, part, parts))),
        }
    }
}

/// One file to write.
#[derive(Clone, Copy, Debug)]
struct Piece {
    table: Table,
    part: u64,
    parts: u64,
    rows: u64,
}

/// The files of all tables, large ones first so that no core is left with a large one at the end.
fn pieces(scale: f64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Table::ALL
        .into_iter()
        .flat_map(|table| {
            let rows = table.rows(scale);
            let parts = rows.div_ceil(ROWS_PER_FILE).clamp(1, MAX_FILES);
            (1..=parts).map(move |part| Piece {
                table,
                part,
                parts,
                rows: rows / parts,
            })
        })
        .collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.rows));
    pieces
}

/// Writes all tables into `folder`, on all cores.
pub(super) fn write_tables(scale: f64, folder: &Path) -> Result<(), Failure> {
    let pieces = pieces(scale);
    let progress = Progress::new(scale, pieces.iter().map(|piece| piece.rows).sum());
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(pieces.len());
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    let work = || -> Result<(), Failure> {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Relaxed) > 0 {
                return Ok(());
            }
            write_piece(piece, scale, folder, &progress).inspect_err(|_| {
                failed.fetch_add(1, Ordering::Relaxed);
            })?;
        }
        Ok(())
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for outcome in outcomes {
        outcome.map_err(|_| Failure::internal("the TPC-H generator panicked"))??;
    }
    progress.finish();
    Ok(())
}

fn write_piece(piece: &Piece, scale: f64, folder: &Path, progress: &Progress) -> Result<(), Failure> {
    let name = piece.table.name();
    let path = match piece.parts {
        1 => folder.join(format!("{name}.parquet")),
        _ => folder.join(name).join(format!("{name}-{:03}.parquet", piece.part - 1)),
    };
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::new(
            FailureKind::Storage,
            format!(
                "{} cannot be written: {error}; free some space, or give another --cache-dir",
                path.display()
            ),
        )
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| cannot(&error))?;
    }
    let file = File::create(&path).map_err(|error| cannot(&error))?;
    let (part, parts) = (i32::try_from(piece.part), i32::try_from(piece.parts));
    let (Ok(part), Ok(parts)) = (part, parts) else {
        return Err(Failure::internal("too many parts of a TPC-H table"));
    };
    let batches = piece.table.batches(scale, part, parts);
    write_file(file, batches, piece.rows, progress).map_err(|error| cannot(&error))
}

fn write_file(
    file: File,
    batches: Box<dyn RecordBatchIterator>,
    rows: u64,
    progress: &Progress,
) -> Result<(), ParquetError> {
    let rows_per_group = rows
        .div_ceil(ROW_GROUPS_PER_FILE)
        .clamp(MIN_ROWS_PER_GROUP, MAX_ROWS_PER_GROUP);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(usize::try_from(rows_per_group).ok())
        .build();
    let mut writer = ArrowWriter::try_new(file, batches.schema().clone(), Some(properties))?;
    for batch in batches {
        writer.write(&batch)?;
        progress.add(batch.num_rows() as u64);
    }
    writer.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_tables_and_scale_up() {
        let files = |scale, table| pieces(scale).iter().filter(|piece| piece.table == table).count();
        assert_eq!(files(0.01, Table::LineItem), 1);
        assert_eq!(files(1.0, Table::LineItem), 4);
        assert_eq!(files(10.0, Table::LineItem), 40);
        assert_eq!(files(1000.0, Table::LineItem), 64);
        for table in Table::ALL {
            assert!(files(0.001, table) == 1, "{table:?}");
        }
        assert!(pieces(10.0).is_sorted_by_key(|piece| std::cmp::Reverse(piece.rows)));
        assert_eq!(Table::PartSupp.rows(1.0), 800_000);
    }
}
