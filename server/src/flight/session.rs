//! Sessions, found by the cookie, token and connection of a request.
//!
//! | a request has | its session |
//! |---|---|
//! | the cookie of a session of the same principal | the session of the cookie |
//! | a bearer token from Handshake | the session that Handshake made |
//! | anything else | the session of this connection, principal and token |
//!
//! A bearer token that many clients share therefore does not make them share their settings, and a client without
//! token and cookies (ADBC by default) keeps its settings as long as its connection lives. Sessions end by
//! CloseSession, or when they were not used for the idle timeout.
//!
//! Properties of the connection string, which drivers send as headers, become options of the session: see
//! [`super::properties`].

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::prelude::SessionContext;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use squadron_proto::Failure;
use squadron_shuffle::net::listen::ConnectionInfo;
use tonic::codegen::http::Extensions;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::credentials;
use super::limits::FlightOptions;
use super::properties::Properties;
use crate::auth::{Credentials, Digest, Login};
use crate::catalog::Catalog;
use crate::query::{OpenSessions, Principal, Session};

/// The name that Arrow's own servers use.
const COOKIE: &str = "arrow_flight_session_id";
/// How many principals have a context at hand for their new sessions.
const SHARED_CONTEXTS: u64 = 1_000;
/// How many digits of a cookie's digest name its session in logs.
const NAME_DIGITS: usize = 16;

/// What identifies a caller. The server determines principal and connection; the rest is as the request has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Caller {
    principal: Principal,
    token: Option<Digest>,
    /// The name of the session that the request's cookie belongs to.
    cookie: Option<String>,
    connection: Option<u64>,
    properties: Properties,
}

/// The session of one request, and the cookie that its answer sets.
pub(super) struct CallerSession {
    pub(super) session: Arc<Session>,
    /// The session's cookie, where the request did not have it.
    cookie: Option<AsciiMetadataValue>,
}

/// All sessions of the server.
pub(super) struct Sessions {
    catalog: Catalog,
    open: OpenSessions,
    entries: Cache<Key, Arc<Entry>>,
    /// What new sessions of a principal begin with.
    contexts: Cache<Principal, SessionContext>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// By its name, which follows from its cookie.
    Name(String),
    Token(Digest),
    Connection(Principal, Option<Digest>, Option<u64>),
}

struct Entry {
    session: Arc<Session>,
    cookie: String,
    /// The key of the session besides its cookie.
    key: Key,
    /// The properties that have become options.
    applied: Mutex<Properties>,
}

impl Caller {
    /// The caller of a request that has passed the gate.
    ///
    /// # Errors
    /// `Invalid`, naming the header, for a property that cannot be an option.
    pub(super) fn from_request(headers: &MetadataMap, extensions: &Extensions) -> Result<Self, Failure> {
        let principal = extensions.get::<Principal>().cloned();
        let principal = principal.ok_or_else(|| Failure::internal("a request without a gate"))?;
        let token = match credentials::from_headers(headers) {
            Ok(Some(Credentials::Token(token))) => Some(Digest::of(&token)),
            _ => None,
        };
        Self::new(principal, token, headers, extensions)
    }

    /// The caller of a handshake, with the token that its later requests have.
    ///
    /// # Errors
    /// As [`Caller::from_request`].
    pub(super) fn from_login(login: &Login, headers: &MetadataMap, extensions: &Extensions) -> Result<Self, Failure> {
        let token = Digest::of(&login.token);
        Self::new(login.principal.clone(), Some(token), headers, extensions)
    }

    fn new(
        principal: Principal,
        token: Option<Digest>,
        headers: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Self, Failure> {
        let connection = extensions.get::<ConnectionInfo>();
        Ok(Self {
            principal,
            token,
            cookie: read_cookie(headers).map(|cookie| session_name(&cookie)),
            connection: connection.map(|connection| connection.id),
            properties: Properties::from_headers(headers)?,
        })
    }

    fn key(&self) -> Key {
        Key::Connection(self.principal.clone(), self.token, self.connection)
    }
}

impl CallerSession {
    /// Adds the session's cookie to the headers of an answer, where the request did not have it.
    pub(super) fn add_cookie(self, headers: &mut MetadataMap) {
        if let Some(cookie) = self.cookie {
            headers.insert("set-cookie", cookie);
        }
    }
}

impl Sessions {
    pub(super) fn new(catalog: Catalog, open: OpenSessions, options: &FlightOptions) -> Self {
        // Each session has two keys.
        let entries = Cache::builder()
            .max_capacity(options.max_sessions.saturating_mul(2))
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let contexts = Cache::builder()
            .max_capacity(SHARED_CONTEXTS)
            .time_to_idle(options.session_idle_timeout)
            .build();
        Self {
            catalog,
            open,
            entries,
            contexts,
        }
    }

    /// The caller's session; a new one for a new caller.
    ///
    /// # Errors
    /// `Invalid` for a property that its option does not take.
    pub(super) async fn find(&self, caller: &Caller) -> Result<CallerSession, Failure> {
        if let Some(name) = &caller.cookie
            && let Some(entry) = self.open_entry(&Key::Name(name.clone())).await
            && entry.session.principal == caller.principal
        {
            return self.open_for(&entry, caller, None);
        }
        let entry = match self.by_token(caller).await {
            Some(entry) => entry,
            None => self.by_connection(caller).await,
        };
        self.open_for(&entry, caller, to_set_cookie(&entry.cookie))
    }

    /// A new session for the token that Handshake has just issued.
    ///
    /// # Errors
    /// As [`Sessions::find`].
    pub(super) async fn log_in(&self, caller: &Caller) -> Result<CallerSession, Failure> {
        let Some(token) = caller.token else {
            return self.find(caller).await;
        };
        let entry = self.create(caller, Key::Token(token)).await;
        self.entries.insert(entry.key.clone(), Arc::clone(&entry)).await;
        self.remember_cookie(&entry).await;
        self.open_for(&entry, caller, to_set_cookie(&entry.cookie))
    }

    /// Drops a session; requests that still run keep using it.
    pub(super) async fn close(&self, session: &Session) {
        let removed = self.entries.remove(&Key::Name(session.id.clone())).await;
        if let Some(entry) = removed {
            self.entries.invalidate(&entry.key).await;
        }
    }

    /// Marks a session as used and applies the caller's properties to it.
    fn open_for(
        &self,
        entry: &Entry,
        caller: &Caller,
        cookie: Option<AsciiMetadataValue>,
    ) -> Result<CallerSession, Failure> {
        entry.session.touch();
        if !caller.properties.is_empty() {
            let session = &entry.session;
            entry.lock_applied().merge(&caller.properties, |name, value| {
                self.catalog.set_option(&session.own_context(), name, Some(value))
            })?;
        }
        Ok(CallerSession {
            session: Arc::clone(&entry.session),
            cookie,
        })
    }

    /// The session under a key; one that was killed is dropped instead.
    async fn open_entry(&self, key: &Key) -> Option<Arc<Entry>> {
        let entry = self.entries.get(key).await?;
        if entry.session.is_closed() {
            self.entries.invalidate(key).await;
            return None;
        }
        Some(entry)
    }

    async fn by_token(&self, caller: &Caller) -> Option<Arc<Entry>> {
        let entry = self.open_entry(&Key::Token(caller.token?)).await?;
        if entry.session.principal != caller.principal {
            return None;
        }
        self.remember_cookie(&entry).await;
        Some(entry)
    }

    async fn by_connection(&self, caller: &Caller) -> Arc<Entry> {
        let key = caller.key();
        self.open_entry(&key).await;
        let entry = self
            .entries
            .get_with(key.clone(), async { self.create(caller, key).await })
            .await;
        self.remember_cookie(&entry).await;
        entry
    }

    /// Keeps the cookie valid while its session is used by another key.
    async fn remember_cookie(&self, entry: &Arc<Entry>) {
        let key = Key::Name(entry.session.id.clone());
        self.entries.get_with(key, async { Arc::clone(entry) }).await;
    }

    async fn create(&self, caller: &Caller, key: Key) -> Arc<Entry> {
        let cookie = random_name();
        let principal = caller.principal.clone();
        let begin = async { self.catalog.session_context_of(&principal) };
        let context = self.contexts.get_with(principal.clone(), begin).await;
        let session = self.open.open(session_name(&cookie), principal, context);
        Arc::new(Entry {
            session: Arc::new(session),
            cookie,
            key,
            applied: Mutex::default(),
        })
    }
}

impl Entry {
    fn lock_applied(&self) -> std::sync::MutexGuard<'_, Properties> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits, unguessable, as 32 lower-case digits.
pub(super) fn random_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The name of a session, also in logs. Its cookie is a secret, which cannot be derived from the name.
fn session_name(cookie: &str) -> String {
    let mut name = Digest::of(cookie).to_hex();
    name.truncate(NAME_DIGITS);
    name
}

fn to_set_cookie(cookie: &str) -> Option<AsciiMetadataValue> {
    format!("{COOKIE}={cookie}").parse().ok()
}

fn read_cookie(headers: &MetadataMap) -> Option<String> {
    headers
        .get_all("cookie")
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim() == COOKIE)
        .map(|(_, value)| value.trim().trim_matches('"').into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::tests::empty_catalog;

    async fn sessions() -> Sessions {
        Sessions::new(
            empty_catalog().await,
            OpenSessions::default(),
            &FlightOptions::default(),
        )
    }

    fn caller(token: Option<&str>, cookie: Option<&str>, connection: u64) -> Caller {
        Caller {
            token: token.map(Digest::of),
            cookie: cookie.map(session_name),
            connection: Some(connection),
            ..Caller::default()
        }
    }

    async fn find(sessions: &Sessions, caller: &Caller) -> CallerSession {
        sessions.find(caller).await.unwrap()
    }

    /// The cookie that an answer sets.
    fn cookie_of(found: &CallerSession) -> String {
        let cookie = found.cookie.as_ref().unwrap().to_str().unwrap();
        cookie.split_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn caller_is_read_from_headers() {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", "bearer  abc".parse().unwrap());
        headers.append("cookie", "a=b; x=y".parse().unwrap());
        headers.append("cookie", format!("c=d;{COOKIE}=\"s1\"").parse().unwrap());
        let mut extensions = Extensions::new();
        assert!(
            Caller::from_request(&headers, &extensions).is_err(),
            "there was no gate"
        );
        extensions.insert(Principal::user("ann"));
        let caller = Caller::from_request(&headers, &extensions).unwrap();
        assert_eq!(caller.principal, Principal::user("ann"));
        assert_eq!(caller.token, Some(Digest::of("abc")));
        assert_eq!(caller.cookie, Some(session_name("s1")));
        headers.insert("authorization", "Basic dTpw".parse().unwrap());
        assert_eq!(Caller::from_request(&headers, &extensions).unwrap().token, None);
    }

    #[tokio::test]
    async fn connection_keeps_its_session() {
        let sessions = sessions().await;
        let first = find(&sessions, &caller(None, None, 1)).await;
        let again = find(&sessions, &caller(None, None, 1)).await;
        let other = find(&sessions, &caller(None, None, 2)).await;
        assert_eq!(first.session.id, again.session.id);
        assert_ne!(first.session.id, other.session.id);
        assert!(first.cookie.is_some());
    }

    #[tokio::test]
    async fn cookie_moves_session_between_connections() {
        let sessions = sessions().await;
        let first = find(&sessions, &caller(None, None, 1)).await;
        let cookie = cookie_of(&first);
        assert!(!cookie.contains(&first.session.id));
        let moved = find(&sessions, &caller(None, Some(&cookie), 2)).await;
        assert_eq!(first.session.id, moved.session.id);
        assert!(moved.cookie.is_none());
        let guessed = find(&sessions, &caller(None, Some(&first.session.id), 3)).await;
        assert_ne!(first.session.id, guessed.session.id);
    }

    #[tokio::test]
    async fn foreign_cookie_and_token_are_ignored() {
        let sessions = sessions().await;
        let caller = |principal, token: Option<&str>, cookie: Option<&str>| Caller {
            principal: Principal::user(principal),
            ..caller(token, cookie, 1)
        };
        let first = sessions.log_in(&caller("ann", Some("t"), None)).await;
        let first = first.unwrap();
        let cookie = cookie_of(&first);
        for (principal, same) in [("ann", true), ("bob", false)] {
            for stolen in [
                caller(principal, Some("x"), Some(&cookie)),
                caller(principal, Some("t"), None),
            ] {
                let found = find(&sessions, &stolen).await;
                assert_eq!(found.session.id == first.session.id, same);
                assert_eq!(found.session.principal, Principal::user(principal));
            }
        }
    }

    #[tokio::test]
    async fn shared_token_separates_connections() {
        let sessions = sessions().await;
        let first = find(&sessions, &caller(Some("static"), None, 1)).await;
        let second = find(&sessions, &caller(Some("static"), None, 2)).await;
        assert_ne!(first.session.id, second.session.id);
    }

    #[tokio::test]
    async fn handshake_token_spans_connections() {
        let sessions = sessions().await;
        let first = sessions.log_in(&caller(Some("new"), None, 1)).await;
        let later = find(&sessions, &caller(Some("new"), None, 9)).await;
        assert_eq!(first.unwrap().session.id, later.session.id);
    }

    #[tokio::test]
    async fn closed_session_loses_all_keys() {
        let sessions = sessions().await;
        let first = sessions.log_in(&caller(Some("new"), None, 1)).await;
        let first = first.unwrap();
        sessions.close(&first.session).await;
        let again = caller(Some("new"), Some(&cookie_of(&first)), 1);
        let later = find(&sessions, &again).await;
        assert_ne!(later.session.id, first.session.id);
    }

    #[tokio::test]
    async fn settings_belong_to_one_session() {
        let sessions = sessions().await;
        let first = find(&sessions, &caller(None, None, 1)).await;
        let second = find(&sessions, &caller(None, None, 2)).await;
        let set = "SET datafusion.execution.batch_size = 17";
        first.session.own_context().sql(set).await.unwrap();
        assert_eq!(first.session.config().batch_size(), 17);
        assert_ne!(second.session.config().batch_size(), 17);
    }

    #[tokio::test]
    async fn property_is_applied_once() {
        let sessions = sessions().await;
        let with = |value: &str| Caller {
            properties: Properties::from([("datafusion.execution.batch_size", value)]),
            ..caller(None, None, 1)
        };
        let size = |found: &CallerSession| found.session.config().batch_size();
        let first = find(&sessions, &with("17")).await;
        assert_eq!(size(&first), 17);
        let set = "SET datafusion.execution.batch_size = 18";
        first.session.own_context().sql(set).await.unwrap();
        // The driver sends the property with every call; an option that was set since then stays.
        assert_eq!(size(&find(&sessions, &with("17")).await), 18);
        assert_eq!(size(&find(&sessions, &with("19")).await), 19);
        let failure = sessions.find(&with("many")).await.err().unwrap();
        assert!(failure.message.contains("batch_size"), "{failure}");
        assert_eq!(size(&find(&sessions, &with("19")).await), 19);
    }
}
