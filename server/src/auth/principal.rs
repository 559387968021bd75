//! Whose a session, a query or a prepared statement is.

use std::sync::Arc;

/// Who a request comes from, as the server found out; never what a message says of itself. Without authentication
/// everyone is the same.
///
/// What belongs to one principal does not exist for another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Principal(Option<Arc<str>>);

impl Principal {
    /// A user of the server.
    pub fn user(name: &str) -> Self {
        Self(Some(name.into()))
    }

    /// The user's name; none where nobody has to log in.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
