//! Tables for generated queries: all with the same columns, with NULLs, duplicates, keys without a match, and no rows.

use std::path::Path;

use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::SessionContext;

/// The keys that every table has, with about how many different values: `id` once each, `a` and `b` more often.
pub(super) const KEYS: [(&str, usize); 3] = [("id", usize::MAX), ("a", 60), ("b", 15)];

/// Tables with their rows and the files that hold them.
pub(super) const TABLES: [(&str, usize, usize); 5] = [
    ("big", 2_000, 3),
    ("medium", 300, 2),
    ("small", 40, 1),
    ("tiny", 5, 1),
    ("nothing", 0, 1),
];

/// Writes the tables as folders of Parquet files.
///
/// A key could be NULL by its type, but `id` and `b` never are, and `a` and the number `n` sometimes. A tenth of
/// all rows have one value of `a`.
pub(super) async fn write(folder: &Path) {
    let context = SessionContext::new();
    for (salt, (table, rows, files)) in (1..).zip(TABLES) {
        for file in 0..files {
            let (first, end) = (rows * file / files, rows * (file + 1) / files);
            let path = folder.join(table).join(format!("part-{file}.parquet"));
            let select = format!(
                "SELECT nullif(value, -1) AS id, \
                 CASE WHEN (value * 7 + {salt}) % 11 = 0 THEN NULL WHEN value % 10 = 3 THEN 7 \
                 ELSE (value * 13 + {salt}) % 60 END AS a, \
                 nullif((value * 5 + {salt}) % 15, -1) AS b, \
                 CASE WHEN (value * 3 + {salt}) % 13 = 0 THEN NULL ELSE (value * 31 + {salt}) % 101 END AS n, \
                 CASE value % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'beta' ELSE 'word ' || (value % 9) END AS s \
                 FROM range({first}, {end})"
            );
            let frame = context.sql(&select).await.unwrap();
            let options = DataFrameWriteOptions::new().with_single_file_output(true);
            frame
                .write_parquet(path.to_str().unwrap(), options, None)
                .await
                .unwrap();
        }
    }
}
