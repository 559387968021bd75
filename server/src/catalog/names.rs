//! Names of the catalog and its schemas, and of locations in messages.

use std::path::PathBuf;

use url::Url;

/// Name of the one catalog, which is DataFusion's default.
pub const DEFAULT_CATALOG: &str = "datafusion";
/// Name of the schema that `--data` fills, which is DataFusion's default.
pub const DEFAULT_SCHEMA: &str = "public";
/// Name of the schema whose tables show the state of the server.
pub const SYSTEM_SCHEMA: &str = "system";

/// `url` for messages: a local file without its scheme.
pub(super) fn display_url(url: &Url) -> String {
    let path: Option<PathBuf> = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    path.map_or_else(|| url.to_string(), |path| path.display().to_string())
}
