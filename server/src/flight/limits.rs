//! Limits of the front end.

use std::time::Duration;

/// The largest list of headers that a client may send, in bytes: tokens, cookies and the properties of a connection
/// string add up.
pub const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Limits of the sessions, statements and messages of clients.
#[derive(Clone, Debug)]
pub struct FlightOptions {
    /// The largest message in bytes that a client may send (ADBC sends a whole batch as one), and that a client is sent
    /// (a single row).
    pub max_message_bytes: usize,
    /// A session or a prepared statement that was not used for this long is dropped.
    pub session_idle_timeout: Duration,
    /// Sessions held at once; beyond it the least recently used is dropped.
    pub max_sessions: u64,
    /// Prepared statements held at once; beyond it the least recently used is dropped.
    pub max_prepared_statements: u64,
    /// Bytes of the plans of all prepared statements, by an estimate; beyond it the least recently used are dropped.
    pub max_prepared_bytes: u64,
    /// Bytes of bound parameters held at once; beyond it the least recently used are dropped.
    pub max_bound_bytes: u64,
}

impl Default for FlightOptions {
    fn default() -> Self {
        Self {
            max_message_bytes: 256 * 1024 * 1024,
            session_idle_timeout: Duration::from_secs(3600),
            max_sessions: 10_000,
            max_prepared_statements: 10_000,
            max_prepared_bytes: 256 * 1024 * 1024,
            max_bound_bytes: 256 * 1024 * 1024,
        }
    }
}
