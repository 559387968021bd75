//! Who is calling: sessions, found by what a client sends with every request.
//!
//! | a request carries | its session |
//! |---|---|
//! | the cookie of a session of the same principal | that one |
//! | a bearer token from Handshake | the one made there |
//! | anything else | the one of this connection, principal and token |
//!
//! A bearer token that many clients share therefore does not make them share their settings, and a client without
//! token and cookies (ADBC by default) keeps its settings as long as its connection lives. Sessions end by
//! CloseSession or when nobody has used them for a while.
//!
//! What a driver sends as headers because its user wrote it into the connection string becomes options of the session,
//! see [`super::properties`].

use std::sync::{Arc, Mutex, PoisonError};

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use squadron_proto::Failure;
use squadron_shuffle::listen::ConnectionInfo;
use tonic::codegen::http::Extensions;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::properties::Properties;
use super::{FlightOptions, credentials};
use crate::auth::{Credentials, Digest, Login};
use crate::catalog::Catalog;
use crate::query::{OpenSessions, Principal, Session};

/// The customary name of Arrow's own servers.
const COOKIE: &str = "arrow_flight_session_id";
/// How many digits of a cookie's digest name its session in logs.
const NAME_DIGITS: usize = 16;

/// What identifies a caller: who it is and over which connection, as the server found out, and the rest as the request
/// says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Caller {
    principal: Principal,
    token: Option<Digest>,
    /// The name of the session whose cookie the request has.
    cookie: Option<String>,
    connection: Option<u64>,
    properties: Properties,
}

/// A session for one request, and how the answer greets the client.
pub(super) struct Found {
    pub(super) session: Arc<Session>,
    /// The cookie that the client does not have yet.
    cookie: Option<AsciiMetadataValue>,
}

/// All sessions of the server.
pub(super) struct Sessions {
    catalog: Catalog,
    open: OpenSessions,
    entries: Cache<Key, Arc<Entry>>,
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
    /// Where the session is found, besides its cookie.
    key: Key,
    /// The properties that have become options.
    applied: Mutex<Properties>,
}

impl Caller {
    /// The caller of a request that has passed the gate.
    ///
    /// # Errors
    /// `Invalid`, naming the header, for a property that cannot be an option.
    pub(super) fn of(headers: &MetadataMap, extensions: &Extensions) -> Result<Self, Failure> {
        let principal = extensions.get::<Principal>().cloned();
        let principal = principal.ok_or_else(|| Failure::internal("a request without a gate"))?;
        let token = match credentials::in_headers(headers) {
            Ok(Some(Credentials::Token(token))) => Some(Digest::of(&token)),
            _ => None,
        };
        Self::known(principal, token, headers, extensions)
    }

    /// The caller of a handshake, with the token it will show from now on.
    ///
    /// # Errors
    /// As [`Caller::of`].
    pub(super) fn logged_in(login: &Login, headers: &MetadataMap, extensions: &Extensions) -> Result<Self, Failure> {
        let token = Digest::of(&login.token);
        Self::known(login.principal.clone(), Some(token), headers, extensions)
    }

    fn known(
        principal: Principal,
        token: Option<Digest>,
        headers: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Self, Failure> {
        let connection = extensions.get::<ConnectionInfo>();
        Ok(Self {
            principal,
            token,
            cookie: session_cookie(headers).map(|cookie| name_of(&cookie)),
            connection: connection.map(|connection| connection.id),
            properties: Properties::of(headers)?,
        })
    }

    fn key(&self) -> Key {
        Key::Connection(self.principal.clone(), self.token, self.connection)
    }
}

impl Found {
    /// Adds the session's cookie to an answer whose client has none.
    pub(super) fn greet(self, headers: &mut MetadataMap) {
        if let Some(cookie) = self.cookie {
            headers.insert("set-cookie", cookie);
        }
    }
}

impl Sessions {
    pub(super) fn new(catalog: Catalog, open: OpenSessions, options: &FlightOptions) -> Self {
        // Each session is kept under two keys.
        let entries = Cache::builder()
            .max_capacity(options.max_sessions.saturating_mul(2))
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { catalog, open, entries }
    }

    /// The caller's session; a new one for a new caller.
    ///
    /// # Errors
    /// `Invalid` for a property that its option does not take.
    pub(super) async fn find(&self, caller: &Caller) -> Result<Found, Failure> {
        if let Some(name) = &caller.cookie
            && let Some(entry) = self.open_entry(&Key::Name(name.clone())).await
            && entry.session.principal == caller.principal
        {
            return self.found(&entry, caller, None);
        }
        let entry = match self.by_token(caller).await {
            Some(entry) => entry,
            None => self.by_connection(caller).await,
        };
        self.found(&entry, caller, greeting(&entry.cookie))
    }

    /// A session for whoever has just been given a token.
    ///
    /// # Errors
    /// As [`Sessions::find`].
    pub(super) async fn log_in(&self, caller: &Caller) -> Result<Found, Failure> {
        let Some(token) = caller.token else {
            return self.find(caller).await;
        };
        let entry = self.made(caller, Key::Token(token));
        self.entries.insert(entry.key.clone(), Arc::clone(&entry)).await;
        self.remember_cookie(&entry).await;
        self.found(&entry, caller, greeting(&entry.cookie))
    }

    /// Forgets a session; requests that still run keep theirs.
    pub(super) async fn close(&self, session: &Session) {
        let removed = self.entries.remove(&Key::Name(session.id.clone())).await;
        if let Some(entry) = removed {
            self.entries.invalidate(&entry.key).await;
        }
    }

    fn found(&self, entry: &Entry, caller: &Caller, cookie: Option<AsciiMetadataValue>) -> Result<Found, Failure> {
        entry.session.touch();
        if !caller.properties.is_empty() {
            let context = &entry.session.context;
            entry.applied().merge(&caller.properties, |name, value| {
                self.catalog.set_option(context, name, Some(value))
            })?;
        }
        Ok(Found {
            session: Arc::clone(&entry.session),
            cookie,
        })
    }

    /// What is kept under a key, unless that session was killed: then it is forgotten.
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
            .get_with(key.clone(), async { self.made(caller, key) })
            .await;
        self.remember_cookie(&entry).await;
        entry
    }

    /// Keeps the cookie alive for as long as its session is used by another key.
    async fn remember_cookie(&self, entry: &Arc<Entry>) {
        let key = Key::Name(entry.session.id.clone());
        self.entries.get_with(key, async { Arc::clone(entry) }).await;
    }

    fn made(&self, caller: &Caller, key: Key) -> Arc<Entry> {
        let cookie = random_name();
        let principal = caller.principal.clone();
        let context = self.catalog.session_context_of(&principal);
        let session = self.open.open(name_of(&cookie), principal, context);
        Arc::new(Entry {
            session: Arc::new(session),
            cookie,
            key,
            applied: Mutex::default(),
        })
    }
}

impl Entry {
    fn applied(&self) -> std::sync::MutexGuard<'_, Properties> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits, unguessable, as 32 lower-case digits.
pub(super) fn random_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What a session is called in logs. Its cookie is a secret, and does not follow from it.
fn name_of(cookie: &str) -> String {
    let mut name = Digest::of(cookie).to_hex();
    name.truncate(NAME_DIGITS);
    name
}

fn greeting(cookie: &str) -> Option<AsciiMetadataValue> {
    format!("{COOKIE}={cookie}").parse().ok()
}

fn session_cookie(headers: &MetadataMap) -> Option<String> {
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
            cookie: cookie.map(name_of),
            connection: Some(connection),
            ..Caller::default()
        }
    }

    async fn found(sessions: &Sessions, caller: &Caller) -> Found {
        sessions.find(caller).await.unwrap()
    }

    /// The cookie that a client is greeted with.
    fn greeted(found: &Found) -> String {
        let cookie = found.cookie.as_ref().unwrap().to_str().unwrap();
        cookie.split_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn cookie_and_token_are_read_from_headers() {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", "bearer  abc".parse().unwrap());
        headers.append("cookie", "a=b; x=y".parse().unwrap());
        headers.append("cookie", format!("c=d;{COOKIE}=\"s1\"").parse().unwrap());
        let mut extensions = Extensions::new();
        assert!(Caller::of(&headers, &extensions).is_err(), "there was no gate");
        extensions.insert(Principal::user("ann"));
        let caller = Caller::of(&headers, &extensions).unwrap();
        assert_eq!(caller.principal, Principal::user("ann"));
        assert_eq!(caller.token, Some(Digest::of("abc")));
        assert_eq!(caller.cookie, Some(name_of("s1")));
        headers.insert("authorization", "Basic dTpw".parse().unwrap());
        assert_eq!(Caller::of(&headers, &extensions).unwrap().token, None);
    }

    #[tokio::test]
    async fn a_connection_keeps_its_session() {
        let sessions = sessions().await;
        let first = found(&sessions, &caller(None, None, 1)).await;
        let again = found(&sessions, &caller(None, None, 1)).await;
        let other = found(&sessions, &caller(None, None, 2)).await;
        assert_eq!(first.session.id, again.session.id);
        assert_ne!(first.session.id, other.session.id);
        assert!(first.cookie.is_some());
    }

    #[tokio::test]
    async fn a_cookie_carries_a_session_to_another_connection_and_is_no_part_of_its_name() {
        let sessions = sessions().await;
        let first = found(&sessions, &caller(None, None, 1)).await;
        let cookie = greeted(&first);
        assert!(!cookie.contains(&first.session.id));
        let moved = found(&sessions, &caller(None, Some(&cookie), 2)).await;
        assert_eq!(first.session.id, moved.session.id);
        assert!(moved.cookie.is_none());
        let guessed = found(&sessions, &caller(None, Some(&first.session.id), 3)).await;
        assert_ne!(first.session.id, guessed.session.id);
    }

    #[tokio::test]
    async fn cookie_and_token_are_of_use_to_their_own_principal_only() {
        let sessions = sessions().await;
        let caller = |principal, token: Option<&str>, cookie: Option<&str>| Caller {
            principal: Principal::user(principal),
            ..caller(token, cookie, 1)
        };
        let first = sessions.log_in(&caller("ann", Some("t"), None)).await;
        let first = first.unwrap();
        let cookie = greeted(&first);
        for (principal, same) in [("ann", true), ("bob", false)] {
            for stolen in [
                caller(principal, Some("x"), Some(&cookie)),
                caller(principal, Some("t"), None),
            ] {
                let found = found(&sessions, &stolen).await;
                assert_eq!(found.session.id == first.session.id, same);
                assert_eq!(found.session.principal, Principal::user(principal));
            }
        }
    }

    #[tokio::test]
    async fn a_shared_token_does_not_share_settings() {
        let sessions = sessions().await;
        let first = found(&sessions, &caller(Some("static"), None, 1)).await;
        let second = found(&sessions, &caller(Some("static"), None, 2)).await;
        assert_ne!(first.session.id, second.session.id);
    }

    #[tokio::test]
    async fn a_token_from_handshake_is_a_session_on_every_connection() {
        let sessions = sessions().await;
        let first = sessions.log_in(&caller(Some("new"), None, 1)).await;
        let later = found(&sessions, &caller(Some("new"), None, 9)).await;
        assert_eq!(first.unwrap().session.id, later.session.id);
    }

    #[tokio::test]
    async fn a_closed_session_is_gone_under_all_its_keys() {
        let sessions = sessions().await;
        let first = sessions.log_in(&caller(Some("new"), None, 1)).await;
        let first = first.unwrap();
        sessions.close(&first.session).await;
        let again = caller(Some("new"), Some(&greeted(&first)), 1);
        let later = found(&sessions, &again).await;
        assert_ne!(later.session.id, first.session.id);
    }

    #[tokio::test]
    async fn settings_belong_to_one_session() {
        let sessions = sessions().await;
        let first = found(&sessions, &caller(None, None, 1)).await;
        let second = found(&sessions, &caller(None, None, 2)).await;
        let set = "SET datafusion.execution.batch_size = 17";
        first.session.context.sql(set).await.unwrap();
        assert_eq!(first.session.context.copied_config().batch_size(), 17);
        assert_ne!(second.session.context.copied_config().batch_size(), 17);
    }

    #[tokio::test]
    async fn a_property_becomes_an_option_once() {
        let sessions = sessions().await;
        let with = |value: &str| Caller {
            properties: Properties::from([("datafusion.execution.batch_size", value)]),
            ..caller(None, None, 1)
        };
        let size = |found: &Found| found.session.context.copied_config().batch_size();
        let first = found(&sessions, &with("17")).await;
        assert_eq!(size(&first), 17);
        let set = "SET datafusion.execution.batch_size = 18";
        first.session.context.sql(set).await.unwrap();
        // The driver sends it with every call; what was set since then stays.
        assert_eq!(size(&found(&sessions, &with("17")).await), 18);
        assert_eq!(size(&found(&sessions, &with("19")).await), 19);
        let failure = sessions.find(&with("many")).await.err().unwrap();
        assert!(failure.message.contains("batch_size"), "{failure}");
        assert_eq!(size(&found(&sessions, &with("19")).await), 19);
    }
}
