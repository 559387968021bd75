//! Who is calling: sessions, found by what a client sends with every request.
//!
//! | a request carries | its session |
//! |---|---|
//! | the cookie of a session of the same principal | that one |
//! | a bearer token from Handshake | the one made there |
//! | anything else | the one of this connection and token |
//!
//! A bearer token that many clients share therefore does not make them share their settings, and a client without
//! token and cookies (ADBC by default) keeps its settings as long as its connection lives. Sessions end by
//! CloseSession or when nobody has used them for a while.

use std::net::SocketAddr;
use std::sync::Arc;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::FlightOptions;
use crate::catalog::Catalog;
use crate::queries::{Principal, Session};

/// The customary name of Arrow's own servers.
const COOKIE: &str = "arrow_flight_session_id";

/// What identifies a caller: who it is, as the server found out, and the rest as the request says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    principal: Principal,
    token: Option<String>,
    cookie: Option<String>,
    peer: Option<SocketAddr>,
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
    entries: Cache<Key, Arc<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Cookie(String),
    Token(String),
    Connection(Principal, Option<String>, Option<SocketAddr>),
}

struct Entry {
    session: Arc<Session>,
    /// Where the session is found, besides its cookie.
    key: Key,
}

impl Caller {
    /// Reads token and cookie from a request's headers.
    pub(super) fn of(
        principal: Principal,
        headers: &MetadataMap,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self {
            principal,
            token: bearer_token(headers).or_else(|| handshake_token(headers)),
            cookie: session_cookie(headers),
            peer,
        }
    }

    fn key(&self) -> Key {
        Key::Connection(self.principal.clone(), self.token.clone(), self.peer)
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
    pub(super) fn new(catalog: Catalog, options: &FlightOptions) -> Self {
        // Each session is kept under two keys.
        let entries = Cache::builder()
            .max_capacity(options.max_sessions.saturating_mul(2))
            .time_to_idle(options.session_idle_timeout)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { catalog, entries }
    }

    /// The caller's session; a new one for a new caller.
    pub(super) async fn find(&self, caller: &Caller) -> Found {
        if let Some(cookie) = &caller.cookie
            && let Some(entry) = self.entries.get(&Key::Cookie(cookie.clone())).await
            && entry.session.principal == caller.principal
        {
            return Found {
                session: Arc::clone(&entry.session),
                cookie: None,
            };
        }
        let entry = match self.by_token(caller).await {
            Some(entry) => entry,
            None => self.by_connection(caller).await,
        };
        Found {
            cookie: greeting(&entry.session.id),
            session: Arc::clone(&entry.session),
        }
    }

    /// A session for whoever has just logged in, and the token it is found by: the client's own, or a new one.
    pub(super) async fn log_in(&self, caller: &Caller) -> (Found, String) {
        if let Some(token) = &caller.token {
            return (self.find(caller).await, token.clone());
        }
        let token = random_name();
        let entry = self.made(caller, Key::Token(token.clone()));
        self.entries
            .insert(entry.key.clone(), Arc::clone(&entry))
            .await;
        self.remember_cookie(&entry).await;
        let found = Found {
            cookie: greeting(&entry.session.id),
            session: Arc::clone(&entry.session),
        };
        (found, token)
    }

    /// Forgets a session; requests that still run keep theirs.
    pub(super) async fn close(&self, session: &Session) {
        let removed = self.entries.remove(&Key::Cookie(session.id.clone())).await;
        if let Some(entry) = removed {
            self.entries.invalidate(&entry.key).await;
        }
    }

    async fn by_token(&self, caller: &Caller) -> Option<Arc<Entry>> {
        let token = caller.token.clone()?;
        let entry = self.entries.get(&Key::Token(token)).await?;
        if entry.session.principal != caller.principal {
            return None;
        }
        self.remember_cookie(&entry).await;
        Some(entry)
    }

    async fn by_connection(&self, caller: &Caller) -> Arc<Entry> {
        let key = caller.key();
        let entry = self
            .entries
            .get_with(key.clone(), async { self.made(caller, key) })
            .await;
        self.remember_cookie(&entry).await;
        entry
    }

    /// Keeps the cookie alive for as long as its session is used by another key.
    async fn remember_cookie(&self, entry: &Arc<Entry>) {
        let key = Key::Cookie(entry.session.id.clone());
        self.entries
            .get_with(key, async { Arc::clone(entry) })
            .await;
    }

    fn made(&self, caller: &Caller, key: Key) -> Arc<Entry> {
        let session = Session {
            id: random_name(),
            principal: caller.principal.clone(),
            context: self.catalog.session_context(),
        };
        Arc::new(Entry {
            session: Arc::new(session),
            key,
        })
    }
}

/// 128 random bits, unguessable, as 32 lower-case digits.
pub(super) fn random_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn greeting(session: &str) -> Option<AsciiMetadataValue> {
    format!("{COOKIE}={session}").parse().ok()
}

fn bearer_token(headers: &MetadataMap) -> Option<String> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.into())
}

/// The header of Flight's first authentication scheme, which some pyarrow programs still use.
fn handshake_token(headers: &MetadataMap) -> Option<String> {
    let token = headers.get_bin("auth-token-bin")?.to_bytes().ok()?;
    String::from_utf8(token.to_vec()).ok()
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
        Sessions::new(empty_catalog().await, &FlightOptions::default())
    }

    fn caller(token: Option<&str>, cookie: Option<&str>, port: u16) -> Caller {
        Caller {
            principal: Principal::default(),
            token: token.map(Into::into),
            cookie: cookie.map(Into::into),
            peer: Some(SocketAddr::from(([127, 0, 0, 1], port))),
        }
    }

    #[test]
    fn headers_are_read_leniently() {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", "bearer  abc".parse().unwrap());
        headers.append("cookie", "a=b; x=y".parse().unwrap());
        headers.append("cookie", format!("c=d;{COOKIE}=\"s1\"").parse().unwrap());
        let caller = Caller::of(Principal::default(), &headers, None);
        assert_eq!(caller.token.as_deref(), Some("abc"));
        assert_eq!(caller.cookie.as_deref(), Some("s1"));
        headers.insert("authorization", "Basic dTpw".parse().unwrap());
        assert_eq!(Caller::of(Principal::default(), &headers, None).token, None);
    }

    #[tokio::test]
    async fn a_connection_keeps_its_session() {
        let sessions = sessions().await;
        let first = sessions.find(&caller(None, None, 1)).await;
        let again = sessions.find(&caller(None, None, 1)).await;
        let other = sessions.find(&caller(None, None, 2)).await;
        assert_eq!(first.session.id, again.session.id);
        assert_ne!(first.session.id, other.session.id);
        assert!(first.cookie.is_some());
    }

    #[tokio::test]
    async fn a_cookie_carries_a_session_to_another_connection() {
        let sessions = sessions().await;
        let first = sessions.find(&caller(None, None, 1)).await;
        let moved = sessions
            .find(&caller(None, Some(&first.session.id), 2))
            .await;
        assert_eq!(first.session.id, moved.session.id);
        assert!(moved.cookie.is_none());
    }

    #[tokio::test]
    async fn cookie_and_token_are_of_use_to_their_own_principal_only() {
        let sessions = sessions().await;
        let caller = |principal, token: Option<&str>, cookie: Option<&str>| Caller {
            principal: Principal::user(principal),
            ..caller(token, cookie, 1)
        };
        let (first, token) = sessions.log_in(&caller("ann", None, None)).await;
        let cookie = first.session.id.as_str();
        for (principal, same) in [("ann", true), ("bob", false)] {
            for stolen in [
                caller(principal, Some("x"), Some(cookie)),
                caller(principal, Some(&token), None),
            ] {
                let found = sessions.find(&stolen).await;
                assert_eq!(found.session.id == first.session.id, same);
                assert_eq!(found.session.principal, Principal::user(principal));
            }
        }
    }

    #[tokio::test]
    async fn a_shared_token_does_not_share_settings() {
        let sessions = sessions().await;
        let first = sessions.find(&caller(Some("static"), None, 1)).await;
        let second = sessions.find(&caller(Some("static"), None, 2)).await;
        assert_ne!(first.session.id, second.session.id);
    }

    #[tokio::test]
    async fn a_token_from_handshake_is_a_session_on_every_connection() {
        let sessions = sessions().await;
        let (found, token) = sessions.log_in(&caller(None, None, 1)).await;
        let later = sessions.find(&caller(Some(&token), None, 9)).await;
        assert_eq!(found.session.id, later.session.id);
        let (again, same) = sessions.log_in(&caller(Some(&token), None, 3)).await;
        assert_eq!(
            (same, again.session.id.clone()),
            (token, later.session.id.clone())
        );
    }

    #[tokio::test]
    async fn a_closed_session_is_gone_under_all_its_keys() {
        let sessions = sessions().await;
        let (found, token) = sessions.log_in(&caller(None, None, 1)).await;
        sessions.close(&found.session).await;
        let cookie = found.session.id.as_str();
        let later = sessions.find(&caller(Some(&token), Some(cookie), 1)).await;
        assert_ne!(later.session.id, found.session.id);
    }

    #[tokio::test]
    async fn settings_belong_to_one_session() {
        let sessions = sessions().await;
        let first = sessions.find(&caller(None, None, 1)).await;
        let second = sessions.find(&caller(None, None, 2)).await;
        let set = "SET datafusion.execution.batch_size = 17";
        first.session.context.sql(set).await.unwrap();
        assert_eq!(first.session.context.copied_config().batch_size(), 17);
        assert_ne!(second.session.context.copied_config().batch_size(), 17);
    }
}
