//! Tickets: opaque, versioned, signed and expiring; and the cluster key that signs them.
//!
//! ```text
//! byte 0      version of the envelope (1)
//! bytes 1-4   key id: which key signed it
//! bytes 5-36  HMAC-SHA256 over version, key id and payload
//! bytes 37-   payload: wire::ticket::Ticket
//! ```
//!
//! The signature is checked before a byte of the payload is read.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use ring::{hkdf, hmac, rand::SecureRandom};

use crate::{AttemptKey, AttemptNumber, Malformed, QueryId, StageId, TaskId, WorkerId, wire::ticket as wire};

const ENVELOPE_VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;
const SIGNATURE_BYTES: usize = 32;
const KEY_BYTES: usize = 32;

/// What a ticket entitles its bearer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The rows of a query.
    Result(QueryId),
    /// Partitions of a stage's outputs, for another process of the cluster.
    Fetch(Fetch),
    /// Partitions of a query's result, for its client, from the worker or server that holds them.
    Endpoint(Fetch),
    /// The progress of a query.
    Poll(Poll),
}

/// Where the next poll of a query continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Which query.
    pub query: QueryId,
    /// The state that the last answer reported, in a form that only the server reads.
    pub seen: u64,
}

/// Some partitions of some outputs of one stage, read in one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Of which query.
    pub query: QueryId,
    /// Of which stage.
    pub stage: StageId,
    /// Which outputs of the stage.
    pub outputs: Vec<FetchOutput>,
}

impl Fetch {
    /// The attempt that wrote one of the outputs.
    pub fn key(&self, output: &FetchOutput) -> AttemptKey {
        AttemptKey {
            query: self.query,
            stage: self.stage,
            task: output.task,
            attempt: output.attempt,
        }
    }
}

/// Some partitions of one attempt's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOutput {
    /// Which task.
    pub task: TaskId,
    /// Which try at it.
    pub attempt: AttemptNumber,
    /// Which partitions.
    pub partitions: Vec<u32>,
}

/// Why a ticket was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TicketError {
    /// Not issued by this cluster: too short, another version, another key, a wrong signature or an unreadable payload.
    #[error("the ticket was not issued by this server; use the ticket from GetFlightInfo as it came")]
    Foreign,
    /// Its lifetime is over.
    #[error("the ticket has expired; run the statement again")]
    Expired,
}

/// Signs and opens tickets, and proves membership of the cluster.
#[derive(Clone)]
pub struct ClusterKey {
    id: u32,
    tickets: hmac::Key,
    membership: hmac::Key,
    /// The key for workers that cannot derive it; empty when it was derived from a secret that both sides know.
    shared: Bytes,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ClusterKey {
    /// The key that is derived from `secret` (HKDF-SHA256, RFC 5869): every process with the secret gets the same.
    pub fn from_secret(secret: &str) -> Self {
        Self::derive(secret.as_bytes(), Bytes::new())
    }

    /// A random key, for a server without a cluster secret.
    ///
    /// # Panics
    /// When the operating system provides no random bytes.
    pub fn random() -> Self {
        let mut key = [0; KEY_BYTES];
        ring::rand::SystemRandom::new()
            .fill(&mut key)
            .expect("the operating system gives random bytes");
        Self::from_shared(Bytes::copy_from_slice(&key))
    }

    /// The key that a server without a cluster secret handed out.
    pub fn from_shared(key: Bytes) -> Self {
        Self::derive(&key.clone(), key)
    }

    fn derive(input: &[u8], shared: Bytes) -> Self {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"squadron cluster key 1").extract(input);
        let expand = |label: &[u8]| {
            let mut key = [0; KEY_BYTES];
            extracted
                .expand(&[label], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut key))
                .expect("32 bytes are within HKDF's limit");
            key
        };
        let id = expand(b"key id");
        Self {
            id: u32::from_be_bytes([id[0], id[1], id[2], id[3]]),
            tickets: hmac::Key::new(hmac::HMAC_SHA256, &expand(b"tickets")),
            membership: hmac::Key::new(hmac::HMAC_SHA256, &expand(b"membership")),
            shared,
        }
    }

    /// The random key, for `Registered`; empty when the key was derived from a secret.
    pub fn shared(&self) -> Bytes {
        self.shared.clone()
    }

    /// Proof that the owner of this key wants to join as `worker`.
    pub fn proof(&self, nonce: &[u8], worker: WorkerId, epoch: u64) -> Bytes {
        let tag = hmac::sign(&self.membership, &proof_input(nonce, worker, epoch));
        Bytes::copy_from_slice(tag.as_ref())
    }

    /// Whether `proof` is the [`ClusterKey::proof`] of these values.
    pub fn verify_proof(&self, proof: &[u8], nonce: &[u8], worker: WorkerId, epoch: u64) -> bool {
        hmac::verify(&self.membership, &proof_input(nonce, worker, epoch), proof).is_ok()
    }

    /// A signed ticket for `subject`, valid until `lifetime` after `now`.
    pub fn seal(&self, subject: &Subject, now: SystemTime, lifetime: Duration) -> Bytes {
        let payload = wire::Ticket {
            expires_ms: unix_ms(now + lifetime),
            subject: Some(subject.clone().into()),
        };
        let mut signed = self.header().to_vec();
        payload.encode(&mut signed).expect("a vector grows as needed");
        let tag = hmac::sign(&self.tickets, &signed);
        let mut ticket = Vec::with_capacity(signed.len() + SIGNATURE_BYTES);
        ticket.extend_from_slice(&signed[..HEADER_BYTES]);
        ticket.extend_from_slice(tag.as_ref());
        ticket.extend_from_slice(&signed[HEADER_BYTES..]);
        ticket.into()
    }

    /// Checks the signature, then the expiry, then the content of `ticket`.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn open(&self, ticket: &[u8], now: SystemTime) -> Result<Subject, TicketError> {
        let (header, rest) = ticket.split_at_checked(HEADER_BYTES).ok_or(TicketError::Foreign)?;
        let (signature, payload) = rest.split_at_checked(SIGNATURE_BYTES).ok_or(TicketError::Foreign)?;
        if header != self.header() {
            return Err(TicketError::Foreign);
        }
        hmac::verify(&self.tickets, &[header, payload].concat(), signature).map_err(|_| TicketError::Foreign)?;
        let payload = wire::Ticket::decode(payload).map_err(|_| TicketError::Foreign)?;
        if payload.expires_ms < unix_ms(now) {
            return Err(TicketError::Expired);
        }
        payload
            .subject
            .and_then(|subject| subject.try_into().ok())
            .ok_or(TicketError::Foreign)
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let id = self.id.to_be_bytes();
        [ENVELOPE_VERSION, id[0], id[1], id[2], id[3]]
    }
}

fn proof_input(nonce: &[u8], worker: WorkerId, epoch: u64) -> Vec<u8> {
    [nonce, &worker.to_bytes(), &epoch.to_be_bytes()].concat()
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl From<Subject> for wire::ticket::Subject {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Result(query) => Self::Result(wire::Result {
                query: query.to_bytes(),
            }),
            Subject::Fetch(fetch) => Self::Fetch(fetch.into()),
            Subject::Endpoint(fetch) => Self::Endpoint(fetch.into()),
            Subject::Poll(poll) => Self::Poll(wire::Poll {
                query: poll.query.to_bytes(),
                seen: poll.seen,
            }),
        }
    }
}

impl From<Fetch> for wire::Fetch {
    fn from(fetch: Fetch) -> Self {
        Self {
            query: fetch.query.to_bytes(),
            stage: fetch.stage.0,
            outputs: fetch
                .outputs
                .into_iter()
                .map(|output| wire::Output {
                    task: output.task.0,
                    attempt: output.attempt.0,
                    partitions: output.partitions,
                })
                .collect(),
        }
    }
}

impl TryFrom<wire::ticket::Subject> for Subject {
    type Error = Malformed;

    fn try_from(subject: wire::ticket::Subject) -> Result<Self, Malformed> {
        Ok(match subject {
            wire::ticket::Subject::Result(result) => Self::Result(QueryId::from_bytes(&result.query)?),
            wire::ticket::Subject::Fetch(fetch) => Self::Fetch(fetch.try_into()?),
            wire::ticket::Subject::Endpoint(fetch) => Self::Endpoint(fetch.try_into()?),
            wire::ticket::Subject::Poll(poll) => Self::Poll(Poll {
                query: QueryId::from_bytes(&poll.query)?,
                seen: poll.seen,
            }),
        })
    }
}

impl TryFrom<wire::Fetch> for Fetch {
    type Error = Malformed;

    fn try_from(fetch: wire::Fetch) -> Result<Self, Malformed> {
        Ok(Self {
            query: QueryId::from_bytes(&fetch.query)?,
            stage: StageId(fetch.stage),
            outputs: fetch
                .outputs
                .into_iter()
                .map(|output| FetchOutput {
                    task: TaskId(output.task),
                    attempt: AttemptNumber(output.attempt),
                    partitions: output.partitions,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn subject() -> Subject {
        Subject::Result(QueryId::from_u128(7))
    }

    #[test]
    fn ticket_opens_with_sealing_key() {
        let now = SystemTime::now();
        let key = ClusterKey::from_secret("open sesame");
        let ticket = key.seal(&subject(), now, HOUR);
        assert_eq!(key.open(&ticket, now), Ok(subject()));
        let other_process = ClusterKey::from_secret("open sesame");
        assert_eq!(other_process.open(&ticket, now), Ok(subject()));
    }

    #[test]
    fn subjects_round_trip_through_tickets() {
        let now = SystemTime::now();
        let key = ClusterKey::random();
        let fetch = Fetch {
            query: QueryId::from_u128(7),
            stage: StageId(3),
            outputs: vec![FetchOutput {
                task: TaskId(1),
                attempt: AttemptNumber(2),
                partitions: vec![4, 5],
            }],
        };
        let poll = Poll {
            query: QueryId::from_u128(7),
            seen: u64::MAX,
        };
        for subject in [
            subject(),
            Subject::Fetch(fetch.clone()),
            Subject::Endpoint(fetch),
            Subject::Poll(poll),
        ] {
            let ticket = key.seal(&subject, now, HOUR);
            assert_eq!(key.open(&ticket, now), Ok(subject));
        }
    }

    #[test]
    fn changed_or_truncated_ticket_is_foreign() {
        let now = SystemTime::now();
        let key = ClusterKey::random();
        let ticket = key.seal(&subject(), now, HOUR);
        for position in 0..ticket.len() {
            let mut forged = ticket.to_vec();
            forged[position] ^= 1;
            assert_eq!(key.open(&forged, now), Err(TicketError::Foreign));
            assert_eq!(key.open(&ticket[..position], now), Err(TicketError::Foreign));
        }
    }

    #[test]
    fn ticket_rejects_another_key() {
        let now = SystemTime::now();
        let ticket = ClusterKey::random().seal(&subject(), now, HOUR);
        assert_eq!(ClusterKey::random().open(&ticket, now), Err(TicketError::Foreign));
    }

    #[test]
    fn ticket_expires_after_its_lifetime() {
        let now = SystemTime::now();
        let key = ClusterKey::random();
        let ticket = key.seal(&subject(), now, HOUR);
        assert_eq!(
            key.open(&ticket, now + HOUR + Duration::from_secs(1)),
            Err(TicketError::Expired)
        );
    }

    #[test]
    fn proof_binds_nonce_worker_and_epoch() {
        let key = ClusterKey::from_secret("s");
        let worker = WorkerId::from_u128(1);
        let proof = key.proof(b"nonce", worker, 3);
        assert!(key.verify_proof(&proof, b"nonce", worker, 3));
        assert!(!key.verify_proof(&proof, b"other", worker, 3));
        assert!(!key.verify_proof(&proof, b"nonce", worker, 4));
        assert!(!ClusterKey::from_secret("t").verify_proof(&proof, b"nonce", worker, 3));
    }
}
