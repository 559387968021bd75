//! A table that a scan found: its location, its content when last opened, and whether that is still current.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::Result;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure::into_datafusion;
use url::Url;

use super::names::display_url;
use super::source::Stamp;

#[derive(Clone)]
pub(super) struct FoundTable {
    pub(super) url: Url,
    pub(super) stamp: Option<Stamp>,
    pub(super) content: Content,
    /// What of its place was not read when it was opened.
    pub(super) omissions: Option<String>,
}

#[derive(Clone)]
pub(super) enum Content {
    Readable(Arc<dyn TableProvider>),
    /// A folder without data files yet.
    Empty,
    Unreadable(Failure),
}

impl FoundTable {
    pub(super) fn has_failed_with(&self, failure: &Failure) -> bool {
        matches!(&self.content, Content::Unreadable(known) if known == failure)
    }

    /// Whether a query may use the table as it was opened. A remote table that could not be read is opened again.
    pub(super) fn is_current(&self) -> bool {
        match self.url.scheme() {
            "file" => self.stamp == stamp_of(&self.url) && !self.is_fresh(),
            _ => matches!(self.content, Content::Readable(_)),
        }
    }

    /// Whether a scan need not open the table again. Only queries open remote tables again.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.url.scheme() != "file" || self.is_current()
    }

    /// Whether the file may change without a new stamp. Readable tables are opened again only for a new stamp.
    fn is_fresh(&self) -> bool {
        match self.content {
            Content::Readable(_) => false,
            Content::Empty | Content::Unreadable(_) => self.stamp.is_some_and(|stamp| stamp.is_fresh()),
        }
    }

    pub(super) fn table(self) -> Result<Arc<dyn TableProvider>> {
        match self.content {
            Content::Readable(table) => Ok(table),
            Content::Empty => Err(into_datafusion(Failure::new(
                FailureKind::Invalid,
                format!(
                    "the folder {} has no data files yet; put some into it",
                    display_url(&self.url)
                ),
            ))),
            Content::Unreadable(failure) => Err(into_datafusion(failure)),
        }
    }
}

pub(super) fn stamp_of(url: &Url) -> Option<Stamp> {
    match url.scheme() {
        "file" => url.to_file_path().ok().and_then(|path| Stamp::of(&path)),
        _ => None,
    }
}

pub(super) fn is_gone(url: &Url) -> bool {
    url.scheme() == "file" && stamp_of(url).is_none()
}
