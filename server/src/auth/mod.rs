//! Who may connect, and as whom.
//!
//! ```text
//! name + password --users (argon2)--.
//!                                    >--> principal --log in--> bearer token, good until it is idle for long
//! bearer token -----tokens, issued--'
//! ```
//!
//! Without files of users or tokens everyone is let in, and all are the same anonymous principal. The files are read
//! again when they change: a user who is gone, or whose password is another now, has lost all tokens too.
//!
//! Tokens are kept as their SHA-256 and found by it, so that neither memory nor the time of a comparison tells anything
//! about them. A password that was right is remembered under a key of this process alone, since argon2 is slow by
//! design and some drivers send name and password with every call.

mod credentials;
mod file;
mod passwords;
mod principal;
mod throttle;
mod tokens;
mod users;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use squadron_proto::{Failure, FailureKind};
use tracing::warn;

pub use credentials::Credentials;
pub use passwords::hash;
pub use principal::Principal;
pub use tokens::Digest;

use self::file::Watched;
use self::passwords::PasswordHashes;
use self::throttle::Throttle;
use self::tokens::Tokens;
use self::users::Users;

/// Right passwords remembered at once.
const MAX_REMEMBERED: u64 = 10_000;
/// How much of a name that somebody typed is written to the log.
const MAX_LOGGED_NAME: usize = 64;

/// Where users and tokens are written, and how long a login lasts.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// Lines `name:argon2-hash`.
    pub users: Option<PathBuf>,
    /// Lines `name:token`.
    pub tokens: Option<PathBuf>,
    /// A login that nobody has used for this long is forgotten.
    pub idle_timeout: Duration,
    /// Logins kept at once; beyond it the least recently used is forgotten.
    pub max_logins: u64,
}

/// Knows who is let in. Clones share what they know.
#[derive(Clone)]
pub struct Authenticator(Option<Arc<Inner>>);

/// Somebody who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who it is.
    pub principal: Principal,
    /// What to show from now on.
    pub token: String,
    /// Whether the token was made for this login; else it is the client's own.
    pub is_new: bool,
}

struct Inner {
    users: Option<Watched<Users>>,
    tokens: Option<Watched<Tokens>>,
    passwords: PasswordHashes,
    issued: Cache<Digest, Issued>,
    remembered: Cache<Digest, ()>,
    throttle: Throttle,
}

/// A token that was made for a login by name and password.
#[derive(Clone)]
struct Issued {
    user: Arc<str>,
    /// The hash of the password by then; with another one the token is worth nothing.
    hash: Arc<str>,
}

impl Authenticator {
    /// Lets everyone in.
    pub fn open_to_all() -> Self {
        Self(None)
    }

    /// Lets in whom the files name; everyone, where there is no file.
    ///
    /// # Errors
    /// `Invalid`, naming file and line, for files that cannot be read or understood.
    pub fn new(options: &AuthOptions) -> Result<Self, Failure> {
        if options.users.is_none() && options.tokens.is_none() {
            return Ok(Self::open_to_all());
        }
        let users = options.users.as_deref();
        let tokens = options.tokens.as_deref();
        Ok(Self(Some(Arc::new(Inner {
            users: users
                .map(|path| Watched::open("--users", path, Users::parse))
                .transpose()?,
            tokens: tokens
                .map(|path| Watched::open("--tokens", path, Tokens::parse))
                .transpose()?,
            passwords: PasswordHashes::default(),
            issued: idle_cache(options.max_logins, options.idle_timeout),
            remembered: idle_cache(MAX_REMEMBERED, options.idle_timeout),
            throttle: Throttle::new(),
        }))))
    }

    /// Whether requests must say who they come from.
    pub fn is_required(&self) -> bool {
        self.0.is_some()
    }

    /// Who sends a request with these credentials.
    ///
    /// # Errors
    /// `Unauthenticated` without credentials or with wrong ones, `Exhausted` after too many wrong ones.
    pub async fn admit(&self, credentials: Option<&Credentials>, peer: Option<IpAddr>) -> Result<Principal, Failure> {
        let Some(inner) = &self.0 else {
            return Ok(Principal::default());
        };
        inner.admit(credentials, peer).await.map(Admitted::principal)
    }

    /// Logs a client in: who it is, and the token it is known by from now on. A client that shows a token keeps it.
    ///
    /// # Errors
    /// As [`Authenticator::admit`].
    pub async fn log_in(&self, credentials: Option<&Credentials>, peer: Option<IpAddr>) -> Result<Login, Failure> {
        let own = |token: &str, principal| Login {
            principal,
            token: token.to_owned(),
            is_new: false,
        };
        let new = |principal| Login {
            principal,
            token: tokens::random(),
            is_new: true,
        };
        let Some(inner) = &self.0 else {
            let principal = Principal::default();
            return Ok(match credentials {
                Some(Credentials::Token(token)) => own(token, principal),
                _ => new(principal),
            });
        };
        match (inner.admit(credentials, peer).await?, credentials) {
            (Admitted::ByPassword { user, hash }, _) => {
                let login = new(Principal::user(&user));
                let issued = Issued { user, hash };
                inner.issued.insert(Digest::of(&login.token), issued);
                Ok(login)
            }
            (
                Admitted::ByToken(principal),
                Some(Credentials::Token(token) | Credentials::Password { password: token, .. }),
            ) => Ok(own(token, principal)),
            (Admitted::ByToken(_), None) => Err(Failure::internal("let in without credentials")),
        }
    }
}

/// Who was let in, and by what.
enum Admitted {
    ByPassword { user: Arc<str>, hash: Arc<str> },
    ByToken(Principal),
}

impl Admitted {
    fn principal(self) -> Principal {
        match self {
            Self::ByPassword { user, .. } => Principal::user(&user),
            Self::ByToken(principal) => principal,
        }
    }
}

impl Inner {
    async fn admit(&self, credentials: Option<&Credentials>, peer: Option<IpAddr>) -> Result<Admitted, Failure> {
        let Some(credentials) = credentials else {
            return Err(self.how_to_log_in());
        };
        // What is known costs nothing to check and is never slowed by the failures of others.
        if let Some(admitted) = self.known(credentials) {
            return Ok(admitted);
        }
        let user = credentials.user();
        let wait = self.throttle.before(peer, user, Instant::now());
        tokio::time::sleep(wait.map_err(too_many)?).await;
        match self.check_password(credentials).await? {
            Some(admitted) => {
                self.throttle.succeeded(user);
                Ok(admitted)
            }
            None => {
                self.throttle.failed(peer, user, Instant::now());
                let user = user.map(logged);
                warn!(user, peer = peer.map(tracing::field::display), "login failed");
                Err(refused(credentials))
            }
        }
    }

    /// A token, also in the place of a password, or a password that was right before.
    fn known(&self, credentials: &Credentials) -> Option<Admitted> {
        let (user, secret) = match credentials {
            Credentials::Token(token) => return self.by_token(token).map(Admitted::ByToken),
            Credentials::Password { user, password } => (user, password),
        };
        let by_token = self.by_token(secret);
        let by_token = by_token.filter(|principal| Tokens::may_call_itself(user, principal));
        by_token.map(Admitted::ByToken).or_else(|| {
            let (user, hash) = self.users()?.get(user)?;
            let key = self.passwords.key(&user, secret, &hash);
            self.remembered.get(&key)?;
            Some(Admitted::ByPassword { user, hash })
        })
    }

    fn by_token(&self, token: &str) -> Option<Principal> {
        let digest = Digest::of(token);
        let named = self.tokens.as_ref();
        let named = named.and_then(|tokens| tokens.current().get(&digest));
        named.or_else(|| {
            let issued = self.issued.get(&digest)?;
            let (_, hash) = self.users()?.get(&issued.user)?;
            (hash == issued.hash).then(|| Principal::user(&issued.user))
        })
    }

    async fn check_password(&self, credentials: &Credentials) -> Result<Option<Admitted>, Failure> {
        let (Credentials::Password { user, password }, Some(users)) = (credentials, self.users()) else {
            return Ok(None);
        };
        let Some((name, hash)) = users.get(user) else {
            // As slow as for a user that is there, so that time does not tell names.
            if let Some(other) = users.any_hash() {
                self.passwords.verify(password, &other).await?;
            }
            return Ok(None);
        };
        if !self.passwords.verify(password, &hash).await? {
            return Ok(None);
        }
        let key = self.passwords.key(&name, password, &hash);
        self.remembered.insert(key, ());
        Ok(Some(Admitted::ByPassword { user: name, hash }))
    }

    fn users(&self) -> Option<Arc<Users>> {
        self.users.as_ref().map(Watched::current)
    }

    fn how_to_log_in(&self) -> Failure {
        unauthenticated(match self.users {
            Some(_) => {
                "this server asks who you are; log in with user name and password, or send a token as a bearer token"
            }
            None => "this server asks for a token; send it as a bearer token, or as the password of its user",
        })
    }
}

fn idle_cache<V: Clone + Send + Sync + 'static>(capacity: u64, idle_timeout: Duration) -> Cache<Digest, V> {
    Cache::builder()
        .max_capacity(capacity)
        .time_to_idle(idle_timeout)
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

fn refused(credentials: &Credentials) -> Failure {
    unauthenticated(match credentials {
        Credentials::Password { .. } => "user name or password is wrong; correct them and log in again",
        Credentials::Token(_) => "the token is not known: it is wrong, or was not used for too long; log in again",
    })
}

fn unauthenticated(why: &str) -> Failure {
    Failure::new(FailureKind::Unauthenticated, why)
}

fn too_many(wait: Duration) -> Failure {
    let seconds = wait.as_secs().max(1);
    Failure::new(
        FailureKind::Exhausted,
        format!("too many failed logins from your address; try again in {seconds} s"),
    )
}

fn logged(name: &str) -> String {
    name.chars()
        .take(MAX_LOGGED_NAME)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests;
