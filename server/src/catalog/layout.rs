//! How the files of one table lie in its folder: one format, and perhaps `k=v` folders that make columns.

use datafusion::arrow::datatypes::DataType;
use datafusion::object_store::ObjectMeta;
use datafusion::object_store::path::Path;
use squadron_proto::{Failure, FailureKind};

use super::format::{FORMATS, Format};
use super::source::is_hidden;

/// What a table consists of.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) format: Format,
    /// The data files, sorted by path.
    pub(super) files: Vec<ObjectMeta>,
    /// Name and type of each partition column, outermost first.
    pub(super) partitions: Vec<(String, DataType)>,
}

impl Layout {
    /// Of a single file.
    pub(super) fn of_file(file: ObjectMeta) -> Result<Self, Failure> {
        let name = file.location.filename().unwrap_or_default();
        let format =
            Format::of(name).ok_or_else(|| refusal(format!("{name} is not a table file; tables are {FORMATS}")))?;
        Ok(Self {
            format,
            files: vec![file],
            partitions: Vec::new(),
        })
    }

    /// Of everything below `folder`. None if there is no data file in it.
    ///
    /// # Errors
    /// When the files do not make one table; names two that do not go together.
    pub(super) fn of_folder(folder: &Path, mut objects: Vec<ObjectMeta>) -> Result<Option<Self>, Failure> {
        objects.sort_by(|left, right| left.location.cmp(&right.location));
        let mut first: Option<Placed> = None;
        let mut files = Vec::new();
        let mut values: Vec<Vec<String>> = Vec::new();
        for object in objects {
            let Some(placed) = Placed::of(folder, &object.location)? else {
                continue;
            };
            let first = first.get_or_insert_with(|| placed.clone());
            first.must_fit(&placed)?;
            values.resize_with(placed.partitions.len(), Vec::new);
            for (column, (_, value)) in values.iter_mut().zip(&placed.partitions) {
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
        let types = values.iter().map(|values| partition_type(values));
        Ok(Some(Self {
            format: first.format,
            files,
            partitions: names.zip(types).collect(),
        }))
    }
}

/// A data file and its place.
#[derive(Clone, Debug)]
struct Placed {
    path: String,
    format: Format,
    partitions: Vec<(String, String)>,
}

impl Placed {
    /// None for what is not data of this table: hidden files, other formats, folders that are no partitions.
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

    fn must_fit(&self, other: &Self) -> Result<(), Failure> {
        let keys = |placed: &Self| {
            placed
                .partitions
                .iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
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

/// The type that all values of a partition column are written in canonically.
///
/// DataFusion turns `year = 1` into the folder `year=1`, so a folder `year=01` makes the column text.
fn partition_type(values: &[String]) -> DataType {
    let is_integer = |value: &String| value.parse::<i64>().is_ok_and(|number| number.to_string() == *value);
    let is_boolean = |value: &String| value == "true" || value == "false";
    if values.iter().all(is_integer) {
        DataType::Int64
    } else if values.iter().all(|value| is_date(value)) {
        DataType::Date32
    } else if values.iter().all(is_boolean) {
        DataType::Boolean
    } else {
        DataType::Utf8
    }
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
    fn hidden_and_foreign_files_are_left_out() {
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
    fn no_data_file_is_no_table() {
        assert!(layout(&["t/README.md", "t/x/y/z.csv"]).unwrap().is_none());
    }

    #[test]
    fn partition_columns_have_the_type_of_all_their_values() {
        for (values, expected) in [
            (&["1", "-20", "300"][..], DataType::Int64),
            (&["1", "02"], DataType::Utf8),
            (&["1", "x"], DataType::Utf8),
            (&["2024-01-31", "1999-12-01"], DataType::Date32),
            (&["2024-01-31", "2024-02-31"], DataType::Utf8),
            (&["true", "false"], DataType::Boolean),
            (&["1", "__HIVE_DEFAULT_PARTITION__"], DataType::Utf8),
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
    fn files_that_make_no_table_together_are_named() {
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
