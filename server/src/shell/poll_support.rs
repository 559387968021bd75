//! What the shell knows of a server's support for PollFlightInfo.

/// Whether the server serves PollFlightInfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PollSupport {
    /// The server was not asked yet, or refused a statement that it may refuse in any case.
    #[default]
    Unknown,
    Served,
    Refused,
}
