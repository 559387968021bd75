//! Failed logins are slowed, so that an attacker can try one password every few seconds.
//!
//! | counted for | free | then |
//! |---|---|---|
//! | a peer's address | 10 failures | its logins wait for each other; a long queue is refused |
//! | a user name | 3 failures | each login waits, but not for other logins: an attacker cannot lock a user out |
//!
//! Waits double from 100 ms to 5 s. A count is forgotten when no login failed for ten minutes; the count of a user also
//! after a login that succeeded.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

const FREE_FOR_PEER: u32 = 10;
const FREE_FOR_USER: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(5);
/// The longest wait of a peer's login; a login that would wait longer is refused at once.
const MAX_QUEUE: Duration = Duration::from_secs(15);
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How many peers and user names are counted at once.
const MAX_COUNTED: u64 = 20_000;
/// How many characters of a name make its key.
const MAX_NAME: usize = 64;

/// Counts failed logins.
pub(super) struct Throttle(Cache<Key, Arc<Mutex<Failures>>>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Peer(IpAddr),
    User(String),
}

#[derive(Default)]
struct Failures {
    count: u32,
    /// When the next login of a peer is checked.
    free_at: Option<Instant>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        let counted = Cache::builder()
            .max_capacity(MAX_COUNTED)
            .time_to_idle(FORGET_AFTER)
            .build();
        Self(counted)
    }

    /// Returns how long to wait before a login is checked; `Err` with that time when it is too long.
    pub(super) fn schedule(
        &self,
        peer: Option<IpAddr>,
        user: Option<&str>,
        now: Instant,
    ) -> Result<Duration, Duration> {
        let of_user = match user.and_then(|user| self.0.get(&Key::user(user))) {
            Some(failures) => wait(lock(&failures).count, FREE_FOR_USER),
            None => Duration::ZERO,
        };
        let Some(failures) = peer.and_then(|peer| self.0.get(&Key::Peer(peer))) else {
            return Ok(of_user);
        };
        let mut failures = lock(&failures);
        let free_at = failures.free_at.map_or(now, |free_at| free_at.max(now));
        let of_peer = free_at - now;
        if of_peer > MAX_QUEUE {
            return Err(of_peer);
        }
        failures.free_at = Some(free_at + wait(failures.count, FREE_FOR_PEER));
        Ok(of_peer.max(of_user))
    }

    /// Counts a failed login.
    pub(super) fn record_failure(&self, peer: Option<IpAddr>, user: Option<&str>, now: Instant) {
        if let Some(user) = user {
            let failures = self.0.get_with(Key::user(user), Arc::default);
            lock(&failures).add();
        }
        if let Some(peer) = peer {
            let failures = self.0.get_with(Key::Peer(peer), Arc::default);
            let mut failures = lock(&failures);
            failures.add();
            let free_at = now + wait(failures.count, FREE_FOR_PEER);
            failures.free_at = failures.free_at.max(Some(free_at));
        }
    }

    /// Forgets the failures of a user after a login that succeeded.
    pub(super) fn record_success(&self, user: Option<&str>) {
        if let Some(user) = user {
            self.0.invalidate(&Key::user(user));
        }
    }
}

impl Key {
    fn user(name: &str) -> Self {
        Self::User(name.chars().take(MAX_NAME).collect())
    }
}

impl Failures {
    fn add(&mut self) {
        self.count = self.count.saturating_add(1);
    }
}

fn wait(failures: u32, free: u32) -> Duration {
    match failures.checked_sub(free) {
        None | Some(0) => Duration::ZERO,
        Some(beyond) => {
            let factor = 1_u32.checked_shl(beyond - 1).unwrap_or(u32::MAX);
            FIRST_WAIT.saturating_mul(factor).min(MAX_WAIT)
        }
    }
}

fn lock(failures: &Mutex<Failures>) -> MutexGuard<'_, Failures> {
    failures.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn waits_double_up_to_limit() {
        let millis: Vec<_> = [0, 3, 4, 5, 6, 9, 10, 40, u32::MAX]
            .map(|failures| wait(failures, 3).as_millis())
            .into();
        assert_eq!(millis, [0, 0, 100, 200, 400, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn user_is_slowed_but_never_locked() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for _ in 0..50 {
            throttle.record_failure(None, Some("ann"), now);
        }
        for _ in 0..1000 {
            assert_eq!(throttle.schedule(PEER, Some("ann"), now), Ok(MAX_WAIT));
        }
        assert_eq!(throttle.schedule(PEER, Some("bob"), now), Ok(Duration::ZERO));
        throttle.record_success(Some("ann"));
        assert_eq!(throttle.schedule(PEER, Some("ann"), now), Ok(Duration::ZERO));
    }

    #[test]
    fn guesses_of_peer_queue_across_names() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for guess in 0..30 {
            throttle.record_failure(PEER, Some(&format!("user{guess}")), now);
        }
        let waits: Vec<_> = (0..5).map(|_| throttle.schedule(PEER, Some("x"), now)).collect();
        let seconds = |seconds| Ok(Duration::from_secs(seconds));
        assert_eq!(waits[..3], [seconds(5), seconds(10), seconds(15)]);
        assert_eq!(waits[3..], [Err(Duration::from_secs(20)); 2]);
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.schedule(PEER, Some("x"), later), seconds(0));
    }

    #[test]
    fn throttle_memory_is_bounded() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for guess in 0..2 * MAX_COUNTED {
            throttle.record_failure(None, Some(&guess.to_string()), now);
        }
        throttle.0.run_pending_tasks();
        assert!(throttle.0.entry_count() <= MAX_COUNTED);
    }
}
