//! The sessions that are open, for system.sessions and KILL SESSION.
//!
//! The front end finds sessions and forgets them; what it holds of one is a [`Session`], and with the last clone of
//! that the session is gone from here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

use datafusion::execution::SessionState;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio_util::sync::CancellationToken;

use crate::auth::Principal;

/// A session as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub principal: Principal,
    /// When it was opened.
    pub created: SystemTime,
    /// When a request used it last.
    pub last_used: SystemTime,
}

/// All open sessions. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct OpenSessions(Arc<Mutex<BTreeMap<String, Weak<Lease>>>>);

/// One client's settings over the shared catalog. Until it changes some, it shares those of its principal, since a context
/// of its own takes tens of kilobytes, and most sessions never change one.
#[derive(Clone)]
pub struct Session {
    /// Names it in logs.
    pub id: String,
    /// Whose it is.
    pub principal: Principal,
    context: Arc<RwLock<Context>>,
    lease: Arc<Lease>,
}

/// Its configuration; tables and views are those of everybody.
enum Context {
    /// That of other sessions as well; it must not be changed.
    Shared(SessionContext),
    Own(SessionContext),
}

/// What all clones of a [`Session`] share: with the last one the session is over.
#[derive(Debug)]
struct Lease {
    id: String,
    principal: Principal,
    created: SystemTime,
    /// Milliseconds after that.
    last_used_ms: AtomicU64,
    closed: CancellationToken,
    sessions: OpenSessions,
}

impl OpenSessions {
    /// A new session that begins with `context`, which others may share.
    pub fn open(&self, id: String, principal: Principal, context: SessionContext) -> Session {
        let lease = Arc::new(Lease {
            id: id.clone(),
            principal: principal.clone(),
            created: SystemTime::now(),
            last_used_ms: AtomicU64::new(0),
            closed: CancellationToken::new(),
            sessions: self.clone(),
        });
        self.lock().insert(id.clone(), Arc::downgrade(&lease));
        Session {
            id,
            principal,
            context: Arc::new(RwLock::new(Context::Shared(context))),
            lease,
        }
    }

    /// Those that are open, in the order of their ids.
    pub fn all(&self) -> Vec<SessionInfo> {
        let leases: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        let open = leases.iter().filter(|lease| !lease.closed.is_cancelled());
        open.map(|lease| lease.info()).collect()
    }

    /// Ends a session of `principal`: it is not found again. Answers whether there was one.
    pub(super) fn close(&self, id: &str, principal: &Principal) -> bool {
        let lease = self.lock().get(id).and_then(Weak::upgrade);
        let own = lease.filter(|lease| lease.principal == *principal);
        own.is_some_and(|lease| {
            let was_open = !lease.closed.is_cancelled();
            lease.closed.cancel();
            was_open
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Its present settings, to read and to plan with.
    pub fn state(&self) -> SessionState {
        self.with_context(SessionContext::state)
    }

    /// Its present configuration.
    pub fn config(&self) -> SessionConfig {
        self.with_context(SessionContext::copied_config)
    }

    /// Reads from its context.
    pub fn with_context<T>(&self, read: impl FnOnce(&SessionContext) -> T) -> T {
        match &*self.context.read().unwrap_or_else(PoisonError::into_inner) {
            Context::Shared(context) | Context::Own(context) => read(context),
        }
    }

    /// The context that it alone has, to change.
    pub fn own_context(&self) -> SessionContext {
        let mut slot = self.context.write().unwrap_or_else(PoisonError::into_inner);
        let own = match &*slot {
            Context::Own(context) => return context.clone(),
            Context::Shared(shared) => SessionContext::new_with_state(shared.state()),
        };
        *slot = Context::Own(own.clone());
        own
    }

    /// A request uses it.
    pub fn touch(&self) {
        let age = self.lease.created.elapsed().unwrap_or_default();
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.lease.last_used_ms.fetch_max(age_ms, Ordering::Relaxed);
    }

    /// Whether it has ended; a request that finds such a session needs another one.
    pub fn is_closed(&self) -> bool {
        self.lease.closed.is_cancelled()
    }
}

impl Lease {
    fn info(&self) -> SessionInfo {
        let age = Duration::from_millis(self.last_used_ms.load(Ordering::Relaxed));
        SessionInfo {
            id: self.id.clone(),
            principal: self.principal.clone(),
            created: self.created,
            last_used: self.created + age,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut sessions = self.sessions.lock();
        // Another one may have its name by now.
        if sessions.get(&self.id).is_some_and(|lease| lease.strong_count() == 0) {
            sessions.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(sessions: &OpenSessions) -> Vec<String> {
        sessions.all().into_iter().map(|info| info.id).collect()
    }

    #[test]
    fn session_ends_with_its_last_clone() {
        let sessions = OpenSessions::default();
        let ann = Principal::user("ann");
        let first = sessions.open("1".into(), ann.clone(), SessionContext::new());
        let clone = first.clone();
        drop(first);
        assert_eq!(ids(&sessions), ["1"]);
        drop(clone);
        assert!(ids(&sessions).is_empty());
    }

    #[test]
    fn sessions_share_their_context_until_one_changes_it() {
        let sessions = OpenSessions::default();
        let shared = SessionContext::new();
        let open = |id: &str| sessions.open(id.into(), Principal::user("ann"), shared.clone());
        let (first, second) = (open("1"), open("2"));
        let clone = first.clone();
        let set = |size: usize| {
            let context = first.own_context();
            let state = context.state_ref();
            *state.write().config_mut() = SessionConfig::new().with_batch_size(size);
        };
        set(17);
        assert_eq!((first.config().batch_size(), clone.config().batch_size()), (17, 17));
        assert_ne!(second.config().batch_size(), 17);
        assert_ne!(shared.copied_config().batch_size(), 17);
        set(18);
        assert_eq!(first.config().batch_size(), 18, "it has one context");
    }

    #[test]
    fn session_is_closed_once_by_its_owner() {
        let sessions = OpenSessions::default();
        let ann = Principal::user("ann");
        let session = sessions.open("1".into(), ann.clone(), SessionContext::new());
        assert!(!sessions.close("1", &Principal::user("bob")));
        assert!(!sessions.close("2", &ann));
        assert!(!session.is_closed());
        assert!(sessions.close("1", &ann));
        assert!(session.is_closed() && ids(&sessions).is_empty());
        assert!(!sessions.close("1", &ann));
    }
}
