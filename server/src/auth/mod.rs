//! Authentication: the credentials of a request, and the principal that they stand for.
//!
//! ```text
//! name + password --users (argon2)--.
//!                                    >--> principal --log in--> bearer token, valid until it is idle for long
//! bearer token -----tokens, issued--'
//! ```
//!
//! Without files of users or tokens every client is admitted, as the same anonymous principal. The files are read again
//! when they change: removing a user or changing a password also revokes the tokens issued for it.
//!
//! Tokens are kept and looked up as their SHA-256, so that neither memory nor the time of a comparison reveals them. A
//! correct password is remembered under a key that only this process has, since argon2 is slow by design and some
//! drivers send name and password with every call.

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

use self::file::WatchedFile;
use self::passwords::PasswordHashes;
use self::throttle::Throttle;
use self::tokens::Tokens;
use self::users::Users;
pub use credentials::Credentials;
pub use passwords::hash;
pub use principal::Principal;
pub use tokens::Digest;

/// How many correct passwords are remembered at once.
const MAX_REMEMBERED: u64 = 10_000;
/// How many characters of a user name are written to the log.
const MAX_LOGGED_NAME: usize = 64;

/// The files of users and tokens, and how long a login lasts.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// Lines `name:argon2-hash`.
    pub users: Option<PathBuf>,
    /// Lines `name:token`.
    pub tokens: Option<PathBuf>,
    /// A login that was not used for this long is forgotten.
    pub idle_timeout: Duration,
    /// Logins kept at once; beyond it the least recently used is forgotten.
    pub max_logins: u64,
}

/// Checks credentials. Clones share their state.
#[derive(Clone)]
pub struct Authenticator(Option<Arc<Inner>>);

/// A client that has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The principal that the client is known as.
    pub principal: Principal,
    /// The token that the client sends from now on.
    pub token: String,
    /// Whether the token was made for this login; else it is the client's own.
    pub is_new: bool,
}

struct Inner {
    users: Option<WatchedFile<Users>>,
    tokens: Option<WatchedFile<Tokens>>,
    passwords: PasswordHashes,
    issued: Cache<Digest, Issued>,
    remembered: Cache<Digest, ()>,
    throttle: Throttle,
}

/// A token that was made for a login by name and password.
#[derive(Clone)]
struct Issued {
    user: Arc<str>,
    /// The hash of the password at the login; once the user has another one, the token is invalid.
    hash: Arc<str>,
}

impl Authenticator {
    /// Admits every client.
    pub fn open_to_all() -> Self {
        Self(None)
    }

    /// Admits the users and tokens that the files name; every client, where there is no file.
    ///
    /// # Errors
    /// `Invalid`, naming file and line, for files that cannot be read or parsed.
    pub fn new(options: &AuthOptions) -> Result<Self, Failure> {
        if options.users.is_none() && options.tokens.is_none() {
            return Ok(Self::open_to_all());
        }
        let users = options.users.as_deref();
        let tokens = options.tokens.as_deref();
        Ok(Self(Some(Arc::new(Inner {
            users: users
                .map(|path| WatchedFile::open("--users", path, Users::parse))
                .transpose()?,
            tokens: tokens
                .map(|path| WatchedFile::open("--tokens", path, Tokens::parse))
                .transpose()?,
            passwords: PasswordHashes::default(),
            issued: idle_cache(options.max_logins, options.idle_timeout),
            remembered: idle_cache(MAX_REMEMBERED, options.idle_timeout),
            throttle: Throttle::new(),
        }))))
    }

    /// Whether requests need credentials.
    pub fn is_required(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the principal of a request with these credentials.
    ///
    /// # Errors
    /// `Unauthenticated` without credentials or with wrong ones, `Exhausted` after too many wrong ones.
    pub async fn admit(&self, credentials: Option<&Credentials>, peer: Option<IpAddr>) -> Result<Principal, Failure> {
        let Some(inner) = &self.0 else {
            return Ok(Principal::default());
        };
        inner.admit(credentials, peer).await.map(Admitted::principal)
    }

    /// Logs a client in: returns its principal and the token to send from now on. A client that sends a token keeps it.
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
            token: tokens::random_token(),
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

/// An admitted principal, and the kind of credentials that admitted it.
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
            return Err(self.missing_credentials());
        };
        // Known credentials cost nothing to check and are never slowed by failures of other clients.
        if let Some(admitted) = self.find_known(credentials) {
            return Ok(admitted);
        }
        let user = credentials.user();
        let wait = self.throttle.schedule(peer, user, Instant::now());
        tokio::time::sleep(wait.map_err(too_many_failures)?).await;
        match self.check_password(credentials).await? {
            Some(admitted) => {
                self.throttle.record_success(user);
                Ok(admitted)
            }
            None => {
                self.throttle.record_failure(peer, user, Instant::now());
                let user = user.map(escape_for_log);
                warn!(user, peer = peer.map(tracing::field::display), "login failed");
                Err(wrong_credentials(credentials))
            }
        }
    }

    /// Looks up a token, also one in the place of a password, or a password that was correct before.
    fn find_known(&self, credentials: &Credentials) -> Option<Admitted> {
        let (user, secret) = match credentials {
            Credentials::Token(token) => return self.find_by_token(token).map(Admitted::ByToken),
            Credentials::Password { user, password } => (user, password),
        };
        let by_token = self.find_by_token(secret);
        let by_token = by_token.filter(|principal| Tokens::accepts_name(user, principal));
        by_token.map(Admitted::ByToken).or_else(|| {
            let (user, hash) = self.users()?.get(user)?;
            let key = self.passwords.cache_key(&user, secret, &hash);
            self.remembered.get(&key)?;
            Some(Admitted::ByPassword { user, hash })
        })
    }

    fn find_by_token(&self, token: &str) -> Option<Principal> {
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
            // As slow as for an existing user, so that the time of the answer does not reveal names.
            if let Some(other) = users.any_hash() {
                self.passwords.verify(password, &other).await?;
            }
            return Ok(None);
        };
        if !self.passwords.verify(password, &hash).await? {
            return Ok(None);
        }
        let key = self.passwords.cache_key(&name, password, &hash);
        self.remembered.insert(key, ());
        Ok(Some(Admitted::ByPassword { user: name, hash }))
    }

    fn users(&self) -> Option<Arc<Users>> {
        self.users.as_ref().map(WatchedFile::current)
    }

    fn missing_credentials(&self) -> Failure {
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

fn wrong_credentials(credentials: &Credentials) -> Failure {
    unauthenticated(match credentials {
        Credentials::Password { .. } => "user name or password is wrong; correct them and log in again",
        Credentials::Token(_) => "the token is not known: it is wrong, or was not used for too long; log in again",
    })
}

fn unauthenticated(why: &str) -> Failure {
    Failure::new(FailureKind::Unauthenticated, why)
}

fn too_many_failures(wait: Duration) -> Failure {
    let seconds = wait.as_secs().max(1);
    Failure::new(
        FailureKind::Exhausted,
        format!("too many failed logins from your address; try again in {seconds} s"),
    )
}

fn escape_for_log(name: &str) -> String {
    name.chars()
        .take(MAX_LOGGED_NAME)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests;
