//! Hashes of passwords: argon2id, in the form of the password hashing competition (PHC strings).

use std::sync::Arc;

use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use squadron_proto::{Failure, FailureKind};
use tokio::sync::Semaphore;

use super::tokens::Digest;

/// How many passwords are checked at once: each takes tens of milliseconds of a core, and the memory of its hash.
const MAX_RUNNING: usize = 2;
/// How many logins may wait for their check.
const MAX_WAITING: usize = 256;
/// The most memory that a hash may need, in KiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const SALT_BYTES: usize = 16;

/// Checks passwords, a few at a time, on threads that may block.
pub(super) struct PasswordHashes {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Signs the keys of the cache; known to this process alone.
    cache: hmac::Key,
}

impl Default for PasswordHashes {
    /// # Panics
    /// When the operating system has no randomness to give.
    fn default() -> Self {
        Self {
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            cache: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .expect("the operating system gives random bytes"),
        }
    }
}

impl PasswordHashes {
    /// Whether the hash is that of the password.
    ///
    /// # Errors
    /// `Exhausted` when too many logins wait already.
    pub(super) async fn verify(&self, password: &str, hash: &str) -> Result<bool, Failure> {
        let _waiting = self.waiting.try_acquire().map_err(|_| {
            Failure::new(
                FailureKind::Exhausted,
                "too many clients are logging in at once; try again in a moment",
            )
        })?;
        let running = Arc::clone(&self.running).acquire_owned().await;
        let running = running.map_err(Failure::internal)?;
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            // Held until the work is done, even when the login was cancelled meanwhile.
            let _running = running;
            let hash = PasswordHash::new(&hash).ok()?;
            Argon2::default().verify_password(password.as_bytes(), &hash).ok()
        });
        Ok(checked.await.map_err(Failure::internal)?.is_some())
    }

    /// The key under which a correct password is remembered; another hash makes another key.
    pub(super) fn cache_key(&self, user: &str, password: &str, hash: &str) -> Digest {
        let mut context = hmac::Context::with_key(&self.cache);
        for part in [user, hash, password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        Digest::from_tag(context.sign().as_ref())
    }
}

/// Whether a text is a hash that [`PasswordHashes::verify`] can check.
pub(super) fn is_usable(hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Algorithm::try_from(hash.algorithm).is_ok()
            && hash.salt.is_some()
            && hash.hash.is_some()
            && Params::try_from(&hash).is_ok_and(|params| params.m_cost() <= MAX_MEMORY_KIB)
    })
}

/// The hash of a password, with a salt of its own: argon2id with 19 MiB and two passes, as OWASP recommends.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn hash(password: &str) -> Result<String, Failure> {
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(Failure::internal)?;
    let salt = SaltString::encode_b64(&salt).map_err(Failure::internal)?;
    let hash = Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map_err(Failure::internal)?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hash_verifies_its_password_only() {
        let made = hash("open sesame").unwrap();
        assert!(is_usable(&made), "{made}");
        assert_ne!(made, hash("open sesame").unwrap(), "the salt is new");
        let hashes = PasswordHashes::default();
        assert!(hashes.verify("open sesame", &made).await.unwrap());
        assert!(!hashes.verify("open sesam", &made).await.unwrap());
    }

    #[test]
    fn memory_hungry_hash_is_unusable() {
        let hash = |kib: u64| {
            is_usable(&format!(
                "$argon2id$v=19$m={kib},t=1,p=1$c29tZXNhbHQ$TBK8UVPjhiUHgY2rzyPVcg"
            ))
        };
        assert!(hash(19_456));
        assert!(!hash(4 * 1024 * 1024));
    }

    #[test]
    fn cache_key_depends_on_every_part() {
        let hashes = PasswordHashes::default();
        let key = hashes.cache_key("ann", "pw", "h");
        assert_eq!(key, hashes.cache_key("ann", "pw", "h"));
        for other in [
            hashes.cache_key("an", "npw", "h"),
            hashes.cache_key("ann", "pw", "i"),
            hashes.cache_key("bob", "pw", "h"),
            PasswordHashes::default().cache_key("ann", "pw", "h"),
        ] {
            assert_ne!(key, other);
        }
    }
}
