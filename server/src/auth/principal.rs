//! The owner of a session, a query or a prepared statement.

use std::sync::Arc;

/// The user that the server has authenticated for a request; never a name that a message claims. Without authentication
/// all requests have the same principal.
///
/// Queries, sessions and statements of one principal do not exist for another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Principal(Option<Arc<str>>);

impl Principal {
    /// A user of the server.
    pub fn user(name: &str) -> Self {
        Self(Some(name.into()))
    }

    /// The user's name; none without authentication.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
