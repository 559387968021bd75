//! The conformance suite: every RPC of `Flight.proto` and every command and action of `FlightSql.proto`, as one list.
//!
//! ```text
//! entries (rpcs, statements, prepared, plans, metadata, actions) ─┬─ answers: each behaves as its row says
//!                                                                 ├─ hostile: each refuses bad input
//!                                                                 ├─ principals: each keeps owned objects private
//!                                                                 ├─ complete: no message of the protocol is missing
//!                                                                 └─ page: the table in docs/clients.md is this list
//! ```
//!
//! An entry is either *served*, which its checks prove, or *refused*, and then the status must contain the sentence of
//! the table. A raw client sends the messages, which are built here, field by field where arrow-flight has no type for
//! them.

mod actions;
mod answers;
mod complete;
mod hostile;
mod metadata;
mod page;
mod plans;
mod prepared;
mod principals;
mod rpcs;
mod schemas;
mod statements;
mod wire;
mod world;

use std::fmt;

use arrow_flight::FlightDescriptor;
use futures::future::BoxFuture;
use tonic::Code;

use wire::Request;
use world::World;

/// The RPCs of `Flight.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rpc {
    Handshake,
    ListFlights,
    GetFlightInfo,
    PollFlightInfo,
    GetSchema,
    DoGet,
    DoPut,
    DoExchange,
    DoAction,
    ListActions,
}

impl fmt::Display for Rpc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// How the server treats a message.
#[derive(Clone, Copy, Debug)]
enum Standing {
    /// The message is answered; the text says with what.
    Served(&'static str),
    /// The message is refused with this code, and the status contains this sentence.
    Refused(Code, &'static str),
}

/// A well-formed message, encoded for the wire; some messages need a handle from the server.
type Example = for<'a> fn(&'a World) -> BoxFuture<'a, Vec<u8>>;

/// The message with a given handle.
type WithHandle = fn(&[u8]) -> Vec<u8>;

/// Checks a part of what an entry says; panics when it does not hold.
type Check = for<'a> fn(&'a World) -> BoxFuture<'a, ()>;

/// One row of the table.
struct Entry {
    /// The message's name in the protocol file; in the row of an RPC itself, its input.
    message: &'static str,
    /// Distinguishes several rows of one message.
    detail: &'static str,
    rpcs: &'static [Rpc],
    standing: Standing,
    /// The drivers and tools that send the message, with their calls.
    used_by: &'static str,
    example: Option<Example>,
    with_handle: Option<WithHandle>,
    /// Whether the example contains an object of one principal.
    is_owned: bool,
    checks: Vec<(&'static str, Check)>,
}

/// An async function of the world as a named [`Check`].
macro_rules! check {
    ($check:path) => {
        (stringify!($check), |world| futures::FutureExt::boxed($check(world)))
    };
}
/// A message that needs nothing from the server as an [`Example`].
macro_rules! example {
    ($message:expr) => {
        |_| futures::FutureExt::boxed(async { $message })
    };
}
use {check, example};

/// The entry of a message that is answered.
fn served(message: &'static str, rpcs: &'static [Rpc], what: &'static str) -> Entry {
    Entry::new(message, rpcs, Standing::Served(what))
}

/// The entry of a message that is refused, with the sentence of the status.
fn refused(message: &'static str, rpcs: &'static [Rpc], why: &'static str) -> Entry {
    Entry::new(message, rpcs, Standing::Refused(Code::Unimplemented, why))
}

impl Entry {
    fn new(message: &'static str, rpcs: &'static [Rpc], standing: Standing) -> Self {
        Self {
            message,
            detail: "",
            rpcs,
            standing,
            used_by: "",
            example: None,
            with_handle: None,
            is_owned: false,
            checks: Vec::new(),
        }
    }

    fn detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    fn used_by(mut self, drivers: &'static str) -> Self {
        self.used_by = drivers;
        self
    }

    fn example(mut self, example: Example) -> Self {
        self.example = Some(example);
        self
    }

    fn with_handle(mut self, with_handle: WithHandle) -> Self {
        self.with_handle = Some(with_handle);
        self
    }

    fn owned(mut self) -> Self {
        self.is_owned = true;
        self
    }

    fn check(mut self, check: (&'static str, Check)) -> Self {
        self.checks.push(check);
        self
    }

    fn title(&self) -> String {
        let rpcs: Vec<_> = self.rpcs.iter().map(ToString::to_string).collect();
        format!("{} {} {}", rpcs.join(", "), self.message, self.detail)
    }

    fn is_served(&self) -> bool {
        matches!(self.standing, Standing::Served(_))
    }

    /// The action's name, derived from its message: `ActionEndSavepointRequest`, `CancelFlightInfoRequest`.
    fn action(&self) -> Option<&'static str> {
        if self.rpcs != [Rpc::DoAction] {
            return None;
        }
        let name = self.message.strip_suffix("Request")?;
        Some(name.strip_prefix("Action").unwrap_or(name))
    }

    /// The message as a request of one of its RPCs.
    fn request(&self, rpc: Rpc, message: Vec<u8>) -> Request {
        let descriptor = || FlightDescriptor::new_cmd(message.clone());
        match rpc {
            Rpc::GetFlightInfo => Request::Info(descriptor()),
            Rpc::PollFlightInfo => Request::Poll(descriptor()),
            Rpc::GetSchema => Request::Schema(descriptor()),
            Rpc::DoGet => Request::Get(message),
            Rpc::DoPut => Request::Put(wire::put_without_rows(&message)),
            Rpc::DoAction => Request::Action(self.action().unwrap_or(self.message), message),
            other => panic!("{other} has no message of its own"),
        }
    }
}

/// All entries.
fn entries() -> Vec<Entry> {
    [
        rpcs::entries(),
        statements::entries(),
        prepared::entries(),
        plans::entries(),
        metadata::entries(),
        actions::entries(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The names of all commands and tickets, as they stand in an `Any`.
pub(crate) fn commands() -> Vec<&'static str> {
    let is_named = |entry: &Entry| ["Command", "Ticket"].iter().any(|kind| entry.message.starts_with(kind));
    let mut names: Vec<_> = entries()
        .iter()
        .filter(|entry| is_named(entry))
        .map(|entry| entry.message)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The names of all actions.
pub(crate) fn action_names() -> Vec<&'static str> {
    let mut names: Vec<_> = entries().iter().filter_map(Entry::action).collect();
    names.sort_unstable();
    names.dedup();
    names
}
