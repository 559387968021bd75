//! The layout of a table's files in its folder: one format, and perhaps `k=v` folders that make columns.

use datafusion::arrow::datatypes::DataType;
use datafusion::object_store::ObjectMeta;
use datafusion::object_store::path::Path;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::NULL_FOLDER;

use super::format::{FORMATS, Format};
use super::omissions::is_hidden;

/// The files of a table, with their format and partition columns.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) format: Format,
    /// The data files, sorted by path.
    pub(super) files: Vec<ObjectMeta>,
    /// Name and type of each partition column, outermost first.
    pub(super) partitions: Vec<(String, DataType)>,
    /// Whether the names of the folders are the values' texts, so that DataFusion finds them by themselves.
    pub(super) are_plain: bool,
}

impl Layout {
    /// The layout of a single file.
    pub(super) fn of_file(file: ObjectMeta) -> Result<Self, Failure> {
        let name = file.location.filename().unwrap_or_default();
        let format =
            Format::of(name).ok_or_else(|| refusal(format!("{name} is not a table file; tables are {FORMATS}")))?;
        Ok(Self {
            format,
            files: vec![file],
            partitions: Vec::new(),
            are_plain: true,
        })
    }

    /// The layout of all files below `folder`. None if no data file is among them.
    ///
    /// # Errors
    /// When the files do not make one table; names two that do not fit together.
    pub(super) fn of_folder(folder: &Path, mut objects: Vec<ObjectMeta>) -> Result<Option<Self>, Failure> {
        objects.sort_by(|left, right| left.location.cmp(&right.location));
        let mut first: Option<DataFile> = None;
        let mut files = Vec::new();
        let mut values: Vec<Vec<String>> = Vec::new();
        for object in objects {
            let Some(file) = DataFile::of(folder, &object.location)? else {
                continue;
            };
            let first = first.get_or_insert_with(|| file.clone());
            first.check_fits(&file)?;
            values.resize_with(file.partitions.len(), Vec::new);
            for (column, (_, value)) in values.iter_mut().zip(&file.partitions) {
                if column.last() != Some(value) {
                    column.push(value.clone());
                }
            }
            files.push(object);
        }
        let Some(first) = first else {
            return Ok(None);
        };
        let names = first.partitions.into_iter().map(|(name, _)| name);
        let types: Vec<_> = values.iter().map(|values| partition_type(values)).collect();
        let are_plain = values.iter().zip(&types).all(|(values, of)| is_plain(values, of));
        Ok(Some(Self {
            format: first.format,
            files,
            partitions: names.zip(types).collect(),
            are_plain,
        }))
    }
}

/// A data file, with its format and the partitions of its path.
#[derive(Clone, Debug)]
struct DataFile {
    path: String,
    format: Format,
    partitions: Vec<(String, String)>,
}

impl DataFile {
    /// None for files that are no data of this table: hidden ones, other formats, other folders than partitions.
    fn of(folder: &Path, location: &Path) -> Result<Option<Self>, Failure> {
        let Some(parts) = location.prefix_match(folder) else {
            return Ok(None);
        };
        let mut segments: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
        if segments.iter().any(|segment| is_hidden(segment)) {
            return Ok(None);
        }
        let Some(file) = segments.pop() else {
            return Ok(None);
        };
        let Some(format) = Format::of(&file) else {
            return Ok(None);
        };
        let partitions: Option<Vec<_>> = segments
            .iter()
            .map(|segment| {
                segment
                    .split_once('=')
                    .map(|(name, value)| (name.to_string(), value.to_string()))
            })
            .collect();
        let Some(partitions) = partitions else {
            return Ok(None);
        };
        if file.contains('=') {
            return Err(refusal(format!(
                "the file name {file} looks like a partition; rename it without ="
            )));
        }
        Ok(Some(Self {
            path: location.to_string(),
            format,
            partitions,
        }))
    }

    fn check_fits(&self, other: &Self) -> Result<(), Failure> {
        let keys = |file: &Self| file.partitions.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if self.format != other.format {
            return Err(refusal(format!(
                "{} and {} are of different formats; give each format a folder of its own",
                self.path, other.path
            )));
        }
        if keys(self) != keys(other) {
            return Err(refusal(format!(
                "{} and {} lie in different partition folders; each file needs the same k=v folders above it",
                self.path, other.path
            )));
        }
        Ok(())
    }
}

/// The type that all values of a partition column have. Hive's folder of NULL has any.
pub(super) fn partition_type(values: &[String]) -> DataType {
    let mut values = values.iter().filter(|value| *value != NULL_FOLDER).peekable();
    if values.peek().is_none() {
        return DataType::Utf8;
    }
    let all = |is: fn(&str) -> bool| values.clone().all(|value| is(value));
    if all(|value| value.parse::<i64>().is_ok()) {
        DataType::Int64
    } else if all(is_date) {
        DataType::Date32
    } else if all(|value| value == "true" || value == "false") {
        DataType::Boolean
    } else {
        DataType::Utf8
    }
}

/// The values that the folders between `folder` and a file tell, outermost first.
pub(super) fn folder_values(folder: &Path, location: &Path) -> Vec<String> {
    let parts = location.prefix_match(folder).into_iter().flatten();
    let values = parts.filter_map(|part| Some(part.as_ref().split_once('=')?.1.to_owned()));
    values.collect()
}

/// DataFusion turns `year = 1` into the folder `year=1`, so it would not find a folder `year=01`.
fn is_plain(values: &[String], data_type: &DataType) -> bool {
    values.iter().all(|value| match data_type {
        _ if value == NULL_FOLDER => false,
        DataType::Int64 => value.parse::<i64>().is_ok_and(|number| number.to_string() == *value),
        _ => true,
    })
}

fn is_date(value: &str) -> bool {
    use datafusion::arrow::array::types::Date32Type;
    use datafusion::arrow::compute::kernels::cast_utils::Parser;
    let shaped = value.len() == 10
        && value.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    shaped && Date32Type::parse(value).is_some()
}

fn refusal(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(paths: &[&str]) -> Result<Option<Layout>, Failure> {
        let objects = paths.iter().map(|path| ObjectMeta {
            location: Path::parse(path).unwrap(),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 1,
            e_tag: None,
            version: None,
        });
        Layout::of_folder(&Path::parse("t").unwrap(), objects.collect())
    }

    #[test]
    fn layout_skips_hidden_and_foreign_files() {
        let layout = layout(&[
            "t/b.csv",
            "t/a.csv",
            "t/_SUCCESS",
            "t/.a.csv.crc",
            "t/README.md",
            "t/sub/c.csv",
        ]);
        let layout = layout.unwrap().unwrap();
        let files: Vec<_> = layout.files.iter().map(|file| file.location.as_ref()).collect();
        assert_eq!(files, ["t/a.csv", "t/b.csv"]);
        assert!(layout.partitions.is_empty());
    }

    #[test]
    fn folder_without_data_has_no_layout() {
        assert!(layout(&["t/README.md", "t/x/y/z.csv"]).unwrap().is_none());
    }

    #[test]
    fn partition_type_fits_all_values() {
        for (values, expected) in [
            (&["1", "-20", "300"][..], DataType::Int64),
            (&["1", "02"], DataType::Int64),
            (&["1", "x"], DataType::Utf8),
            (&["2024-01-31", "1999-12-01"], DataType::Date32),
            (&["2024-01-31", "2024-02-31"], DataType::Utf8),
            (&["true", "false"], DataType::Boolean),
            (&["1", NULL_FOLDER], DataType::Int64),
            (&[NULL_FOLDER], DataType::Utf8),
        ] {
            let paths: Vec<_> = values.iter().map(|value| format!("t/a=x/k={value}/f.csv")).collect();
            let paths: Vec<_> = paths.iter().map(String::as_str).collect();
            let partitions = layout(&paths).unwrap().unwrap().partitions;
            assert_eq!(
                partitions,
                [("a".into(), DataType::Utf8), ("k".into(), expected)],
                "{values:?}"
            );
        }
    }

    #[test]
    fn mismatched_files_make_no_table() {
        for (paths, part) in [
            (["t/a.csv", "t/b.parquet"], "different formats"),
            (["t/a.csv", "t/b.csv.gz"], "different formats"),
            (["t/a.csv", "t/k=1/a.csv"], "different partition folders"),
            (["t/k=1/a.csv", "t/l=1/a.csv"], "different partition folders"),
            (["t/a.csv", "t/b=1.csv"], "looks like a partition"),
        ] {
            let failure = layout(&paths).unwrap_err();
            assert!(failure.message.contains(part), "{paths:?}: {failure}");
        }
    }
}
