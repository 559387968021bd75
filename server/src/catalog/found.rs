//! A table that a scan found: its place, what it was when last opened, and whether that still holds.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::Result;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure::into_datafusion;
use url::Url;

use super::shown;
use super::source::Stamp;

#[derive(Clone)]
pub(super) struct Found {
    pub(super) url: Url,
    pub(super) stamp: Option<Stamp>,
    pub(super) content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    Readable(Arc<dyn TableProvider>),
    /// A folder into which no data file came yet.
    Empty,
    Unreadable(Failure),
}

impl Found {
    pub(super) fn failed_with(&self, failure: &Failure) -> bool {
        matches!(&self.content, Content::Unreadable(known) if known == failure)
    }

    /// Whether a query may use it as it is. A remote table that could not be read is tried again.
    pub(super) fn is_current(&self) -> bool {
        match self.url.scheme() {
            "file" => self.stamp == stamp_of(&self.url) && !self.is_fresh(),
            _ => matches!(self.content, Content::Readable(_)),
        }
    }

    /// Whether a scan may leave it alone. Remote tables are tried again by queries only.
    pub(super) fn is_settled(&self) -> bool {
        self.url.scheme() != "file" || self.is_current()
    }

    /// A file that is still being written may keep its stamp; one that could be read is read again only when it changed.
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
                    shown(&self.url)
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
