//! Kinds of workers.

/// Where a worker lives, and which stages it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerKind {
    /// In the server's process; any stage.
    Embedded,
    /// In a process of its own; any stage.
    Remote,
    /// In the server's process; only stages that cannot be sent.
    Local,
}
