//! What a client shows.

use std::fmt;

/// What a client shows to say who it is. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password; in the place of the password also a token.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A bearer token.
    Token(String),
}

impl Credentials {
    /// The name that is shown.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Self::Password { user, .. } => Some(user),
            Self::Token(_) => None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user:?}, ..)"),
            Self::Token(_) => f.write_str("Token(..)"),
        }
    }
}
