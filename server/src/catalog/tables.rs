//! What is to be told of a table: where it is, what it holds, and what of its place is not read.

use datafusion::catalog::TableProvider;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::ListingTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use url::Url;

use super::found::{Content, FoundTable};
use super::names::{DEFAULT_SCHEMA, display_url};
use super::partitions::files_of;
use super::stores::Stores;
use super::survey::Survey;

/// A table, or a `--data` folder with something that is no table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableInfo {
    /// The schema of the table.
    pub schema: String,
    /// The name; none for a folder.
    pub name: Option<String>,
    /// `files`, `view`, `tpch`, `system` or `folder`.
    pub kind: &'static str,
    /// The format of the files, with their compression.
    pub format: Option<String>,
    /// The path or URL, or several of them.
    pub location: Option<String>,
    /// The number of files that a query reads.
    pub files: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// Their rows, if they are known without reading the files.
    pub rows: Option<u64>,
    /// What is not read, or why the table cannot be read, in one line.
    pub warnings: Option<String>,
}

/// A table that a scan of `--data` found.
pub(super) async fn of_found(name: &str, found: FoundTable, kind: &'static str, runtime: &RuntimeEnv) -> TableInfo {
    let table = TableInfo {
        schema: DEFAULT_SCHEMA.to_owned(),
        name: Some(name.to_owned()),
        kind,
        location: Some(display_url(&found.url)),
        ..TableInfo::default()
    };
    match &found.content {
        Content::Readable(provider) => match files_of(provider.as_ref()) {
            Some(files) => table.with_files(files, true, runtime).await,
            None => table,
        },
        Content::Empty => table.with_survey(&Survey::of_empty(&found.url, runtime).await),
        Content::Unreadable(failure) => TableInfo {
            warnings: Some(failure.message.clone()),
            ..table
        },
    }
}

/// A table that a statement made; `kind` unless it is a view.
pub(super) async fn of_created(
    schema: &str,
    name: &str,
    kind: &'static str,
    provider: &dyn TableProvider,
    stores: &Stores,
    runtime: &RuntimeEnv,
) -> TableInfo {
    let table = TableInfo {
        schema: schema.to_owned(),
        name: Some(name.to_owned()),
        kind: match provider.table_type() {
            TableType::View => "view",
            _ => kind,
        },
        ..TableInfo::default()
    };
    let Some(files) = files_of(provider) else {
        return table;
    };
    let locations = files.table_paths().iter().map(|location| {
        let pattern = location.get_glob().as_ref().map_or("", |glob| glob.as_str());
        display_url(location.get_url()) + pattern
    });
    let locations = stores.to_user_urls(&locations.collect::<Vec<_>>().join(", "));
    TableInfo {
        location: Some(locations),
        ..table.with_files(files, false, runtime).await
    }
}

impl TableInfo {
    /// A table that cannot be read.
    pub(super) fn unreadable(name: &str, kind: &'static str, why: &str) -> Self {
        Self {
            schema: DEFAULT_SCHEMA.to_owned(),
            name: Some(name.to_owned()),
            kind,
            warnings: Some(why.to_owned()),
            ..Self::default()
        }
    }

    /// A folder of tables in which something is none.
    pub(super) fn folder(location: String, why: String) -> Self {
        Self {
            schema: DEFAULT_SCHEMA.to_owned(),
            kind: "folder",
            location: Some(location),
            warnings: Some(why),
            ..Self::default()
        }
    }

    async fn with_files(self, files: &ListingTable, is_found: bool, runtime: &RuntimeEnv) -> Self {
        let survey = Survey::of_table(files, is_found, runtime).await;
        let format = &files.options().format;
        let compression = format.compression_type().map_or_else(String::new, |compression| {
            format.get_ext_with_compression(&compression).unwrap_or_default()
        });
        let format = match compression.is_empty() {
            true => format.get_ext(),
            false => compression,
        };
        Self {
            format: Some(format),
            ..self.with_survey(&survey)
        }
    }

    fn with_survey(self, survey: &Survey) -> Self {
        Self {
            files: Some(survey.files),
            bytes: Some(survey.bytes),
            rows: survey.rows(),
            warnings: survey.omissions.text(),
            ..self
        }
    }
}

/// What is not read at the place of a table that a scan found, for the log.
pub(super) async fn omissions_of(url: &Url, content: &Content, runtime: &RuntimeEnv) -> Option<String> {
    let survey = match content {
        Content::Readable(provider) => Survey::of_table(files_of(provider.as_ref())?, true, runtime).await,
        Content::Empty => Survey::of_empty(url, runtime).await,
        Content::Unreadable(_) => return None,
    };
    survey.omissions.text()
}
