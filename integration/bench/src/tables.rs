//! The tables of the measurements: TPC-H from the product's own cache, and the wide scan of `stream`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::FileWriter;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use squadron::catalog::tpch::Tpch;
use squadron::config::default_cache_dir;
use squadron_integration::process::squadron;
use tempfile::TempDir;

use crate::Result;

/// The table of uncompressed Arrow IPC files, and its folder.
pub(super) const ARROW_TABLE: &str = "scan_arrow";

/// The same rows in Parquet files.
pub(super) const PARQUET_TABLE: &str = "scan_parquet";

/// Parquet tables: `TABLE.parquet`, or a folder of files `TABLE/`.
pub(super) struct Tables {
    pub(super) folder: PathBuf,
    pub(super) names: Vec<String>,
}

impl Tables {
    /// All tables of a folder that are one file each.
    pub(super) fn below(folder: PathBuf) -> Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".parquet").map(str::to_owned));
        }
        names.sort();
        Ok(Self { folder, names })
    }

    /// The file of a table, or the folder of its files.
    pub(super) fn path(&self, table: &str) -> PathBuf {
        let file = self.folder.join(format!("{table}.parquet"));
        if file.exists() { file } else { self.folder.join(table) }
    }
}

/// Characters of each string.
const TEXT_BYTES: usize = 37;

/// Bytes of one row in Arrow's memory: a string with its offset, and three columns of eight bytes.
pub(super) const ROW_BYTES: u64 = (TEXT_BYTES + 4 + 3 * 8) as u64;

const BATCH_ROWS: u64 = 8192;
const FILES: u64 = 8;

/// Part of the folder's name, so that tables of an older layout are not read.
const LAYOUT_VERSION: u32 = 1;

/// The cache folder: the given one, or that of `squadron`.
pub(super) fn cache_folder(given: Option<&Path>) -> Result<PathBuf> {
    let folder = given.map_or_else(default_cache_dir, Path::to_owned);
    Ok(std::path::absolute(folder)?)
}

/// A folder that is being written. It gets its name when it is complete, so that half-written tables are never read, and is
/// removed when it is dropped before.
pub(super) struct NewFolder {
    unfinished: TempDir,
    folder: PathBuf,
}

impl NewFolder {
    /// None where the folder is there already.
    pub(super) fn unless_exists(folder: &Path) -> Result<Option<Self>> {
        if folder.exists() {
            return Ok(None);
        }
        let parent = folder.parent().ok_or("a folder of tables has a name")?;
        fs::create_dir_all(parent)?;
        Ok(Some(Self {
            unfinished: TempDir::with_prefix_in("unfinished-", parent)?,
            folder: folder.to_owned(),
        }))
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        self.unfinished.path()
    }

    pub(super) fn complete(self) -> Result<()> {
        match fs::rename(self.path(), &self.folder) {
            Ok(()) => drop(self.unfinished.keep()),
            // Another run has written it meanwhile.
            Err(_) if self.folder.exists() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Makes sure that `squadron` has generated the TPC-H tables, and gives their folder.
pub(super) async fn ensure_tpch(scale: f64, cache: Option<&Path>) -> Result<PathBuf> {
    let tables = Tpch {
        scale,
        cache_dir: cache_folder(cache)?,
        program: Some(squadron()),
    };
    tables.ensure().await.map_err(|failure| failure.message.into())
}

/// The wide scan.
pub(super) struct Scan {
    /// The folder of the two tables, which are folders themselves.
    pub(super) folder: PathBuf,
    pub(super) rows: u64,
    /// The sum of column `id`, to check the received rows.
    pub(super) id_sum: i64,
}

/// Makes sure that the scan's two tables of about `bytes` Arrow bytes each are below `cache`.
pub(super) fn ensure_scan(cache: &Path, bytes: u64) -> Result<Scan> {
    let batches = (bytes / (ROW_BYTES * BATCH_ROWS)).max(FILES) / FILES * FILES;
    let rows = batches * BATCH_ROWS;
    let folder = cache.join("stream").join(format!("v{LAYOUT_VERSION}-{rows}"));
    if let Some(new) = NewFolder::unless_exists(&folder)? {
        write_scan(new.path(), batches)?;
        new.complete()?;
    }
    let rows_signed = i64::try_from(rows)?;
    Ok(Scan {
        folder,
        rows,
        id_sum: rows_signed * (rows_signed - 1) / 2,
    })
}

fn write_scan(folder: &Path, batches: u64) -> Result<()> {
    let progress = ProgressBar::new(batches);
    if let Ok(style) = ProgressStyle::with_template("writing the scanned tables {wide_bar} {percent}%") {
        progress.set_style(style);
    }
    for table in [ARROW_TABLE, PARQUET_TABLE] {
        fs::create_dir(folder.join(table))?;
    }
    let mut random = StdRng::seed_from_u64(37);
    let per_file = batches / FILES;
    for file in 0..FILES {
        let first = batch(file * per_file * BATCH_ROWS, &mut random)?;
        let schema = first.schema();
        let path = |table: &str, extension: &str| folder.join(table).join(format!("part-{file}.{extension}"));
        let mut arrow = FileWriter::try_new_buffered(File::create(path(ARROW_TABLE, "arrow"))?, &schema)?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut parquet = ArrowWriter::try_new(
            File::create(path(PARQUET_TABLE, "parquet"))?,
            Arc::clone(&schema),
            Some(properties),
        )?;
        let mut next = first;
        for index in 1..=per_file {
            arrow.write(&next)?;
            parquet.write(&next)?;
            progress.inc(1);
            if index < per_file {
                next = batch((file * per_file + index) * BATCH_ROWS, &mut random)?;
            }
        }
        arrow.finish()?;
        parquet.close()?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// A batch of rows, whose ids start at `first_id`.
fn batch(first_id: u64, random: &mut StdRng) -> Result<RecordBatch> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let first = i64::try_from(first_id)?;
    let last = i64::try_from(first_id + BATCH_ROWS)?;
    let mut text = || {
        let mut bytes = [0; TEXT_BYTES];
        random.fill_bytes(&mut bytes);
        bytes
            .map(|byte| char::from(LETTERS[usize::from(byte & 63)]))
            .iter()
            .collect::<String>()
    };
    let texts: StringArray = (0..BATCH_ROWS).map(|_| Some(text())).collect();
    let numbers: Int64Array = (0..BATCH_ROWS).map(|_| Some(random.random::<i64>())).collect();
    let floats: Float64Array = (0..BATCH_ROWS).map(|_| Some(random.random::<f64>())).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new((first..last).collect::<Int64Array>())),
        ("text", Arc::new(texts)),
        ("number", Arc::new(numbers)),
        ("fraction", Arc::new(floats)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use arrow::ipc::reader::FileReader;

    use super::*;

    #[test]
    fn scan_is_written_once_completely() {
        let cache = tempfile::tempdir().unwrap();
        let scan_once = || ensure_scan(cache.path(), 1).unwrap();
        let written = scan_once();
        assert_eq!(written.rows, FILES * BATCH_ROWS);
        let (mut rows, mut ids, mut bytes) = (0, 0, 0);
        for file in fs::read_dir(written.folder.join(ARROW_TABLE)).unwrap() {
            for batch in FileReader::try_new(File::open(file.unwrap().path()).unwrap(), None).unwrap() {
                let batch = batch.unwrap();
                rows += batch.num_rows() as u64;
                ids += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
                bytes += (batch.column(1).as_string::<i32>().value_data().len() + batch.num_rows() * 28) as u64;
            }
        }
        assert_eq!(
            (rows, ids, bytes),
            (written.rows, written.id_sum, written.rows * ROW_BYTES)
        );
        let modified = |scan: &Scan| fs::metadata(&scan.folder).unwrap().modified().unwrap();
        assert_eq!(modified(&scan_once()), modified(&written));
        assert_eq!(
            fs::read_dir(written.folder.join(PARQUET_TABLE)).unwrap().count() as u64,
            FILES
        );
        assert_eq!(
            fs::read_dir(written.folder.parent().unwrap()).unwrap().count(),
            1,
            "nothing unfinished is left"
        );
    }
}
