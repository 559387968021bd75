//! One query: all that the server holds of it, from the moment a client asks for it until it is forgotten.
//!
//! | part | is there |
//! |---|---|
//! | starting | while its statement is planned and handed to the scheduler |
//! | subscriber | while the scheduler has it |
//! | result | while its client may come for its rows, or reads them |
//! | poll | while its client polls |
//!
//! A query with one of the first two is *active*; when it has lost both, it is part of the history. A query without any
//! part is *idle*: its record goes, and only its owner is remembered for a while ([`super::ended`]).

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use squadron_proto::{Failure, QueryId};
use squadron_scheduler::QueryInfo;
use tokio::sync::watch;

use super::history::{CompletedQuery, QueryRequest};
use super::polled::PolledQuery;
use super::results::OpenResult;
use super::retained::RetainedResult;
use crate::auth::Principal;
use crate::counted::Counted;
use crate::driver::Subscriber;

/// See the module.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) request: Arc<QueryRequest>,
    pub(super) owner: Principal,
    /// Tells whatever starts the query to stop.
    starting: Option<watch::Sender<Option<Failure>>>,
    subscriber: Option<Subscriber>,
    /// How the query ended. What its starter says counts more than what the scheduler says.
    outcome: Option<Result<(), Failure>>,
    info: Option<Arc<QueryInfo>>,
    released: Option<SystemTime>,
    pub(super) result: ResultState,
    pub(super) poll: Option<Poll>,
    /// The time under which the map of records lists it for expiry.
    pub(super) listed: Option<Instant>,
}

/// Where the rows of a query are.
#[derive(Debug, Default)]
pub(super) enum ResultState {
    /// There are none yet, or none any more.
    #[default]
    None,
    /// They wait for the client, who reads them once.
    Waiting {
        result: OpenResult,
        /// What they take of the server's memory.
        bytes: Counted,
        expires: Instant,
    },
    /// The client reads them.
    Streaming,
    /// They stay where they were written, for any number of readers.
    Retained(Arc<RetainedResult>),
}

/// A query that is polled, and until when it is kept for the next poll.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) query: Arc<PolledQuery>,
    pub(super) expires: Instant,
}

/// Parts that a record has lost. They are dropped when no lock is held: that may cancel the query.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) result: ResultState,
    pub(super) poll: Option<Arc<PolledQuery>>,
}

impl Lost {
    /// Ends what a retained result still holds at the workers; a result that waits ends by being dropped.
    pub(super) fn release(self) {
        if let ResultState::Retained(result) = self.result {
            result.end();
        }
    }
}

impl Record {
    /// A query whose statement is about to be planned, and what its starter hears.
    pub(super) fn new(request: QueryRequest, owner: Principal) -> (Self, watch::Receiver<Option<Failure>>) {
        let (starting, stopped) = watch::channel(None);
        let record = Self {
            request: Arc::new(request),
            owner,
            starting: Some(starting),
            subscriber: None,
            outcome: None,
            info: None,
            released: None,
            result: ResultState::None,
            poll: None,
            listed: None,
        };
        (record, stopped)
    }

    pub(super) fn is_active(&self) -> bool {
        self.starting.is_some() || self.subscriber.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.is_active() && matches!(self.result, ResultState::None) && self.poll.is_none()
    }

    /// What the scheduler said of the query at its end, while its starter is not done with it.
    pub(super) fn info(&self) -> Option<Arc<QueryInfo>> {
        self.info.clone()
    }

    /// The starter is done with the query: it has ended, or (`None`) its end is the scheduler's.
    pub(super) fn started(&mut self, outcome: Option<Result<(), Failure>>) {
        self.starting = None;
        if outcome.is_some() {
            self.outcome = outcome;
        }
    }

    /// The scheduler is about to get the query. Returns false when it has it already.
    pub(super) fn submitted(&mut self, subscriber: Subscriber) -> bool {
        let is_new = self.subscriber.is_none();
        if is_new {
            self.subscriber = Some(subscriber);
        }
        is_new
    }

    pub(super) fn subscriber(&self) -> Option<&Subscriber> {
        self.subscriber.as_ref()
    }

    /// The scheduler is done with the query.
    pub(super) fn ended(&mut self, outcome: Result<(), Failure>, info: Option<Box<QueryInfo>>) -> Option<Subscriber> {
        self.info = info.map(Arc::from);
        self.outcome.get_or_insert(outcome);
        self.subscriber.take()
    }

    /// No worker runs anything of the query any more.
    pub(super) fn released(&mut self, at: SystemTime) {
        self.released = Some(at);
    }

    /// Tells the starter to stop, and gives up the rows that nobody reads yet. Polls go on, to hear the failure.
    pub(super) fn stop(&mut self, failure: &Failure) -> Lost {
        if let Some(starting) = &self.starting {
            starting.send_replace(Some(failure.clone()));
        }
        Lost {
            result: self.take_result(),
            poll: self.poll.as_ref().map(|poll| Arc::clone(&poll.query)),
        }
    }

    /// Gives up the rows, unless the client is reading them right now.
    pub(super) fn take_result(&mut self) -> ResultState {
        match self.result {
            ResultState::Streaming => ResultState::None,
            ResultState::None | ResultState::Waiting { .. } | ResultState::Retained(_) => {
                std::mem::take(&mut self.result)
            }
        }
    }

    /// Gives up what nobody came for in time.
    pub(super) fn expire(&mut self, now: Instant) -> Lost {
        let mut lost = Lost::default();
        if self.result.expires().is_some_and(|expires| expires <= now) {
            lost.result = self.take_result();
        }
        if self.poll.as_ref().is_some_and(|poll| poll.expires <= now) {
            lost.poll = self.poll.take().map(|poll| poll.query);
        }
        lost
    }

    /// When the next part of it expires.
    pub(super) fn expires(&self) -> Option<Instant> {
        let poll = self.poll.as_ref().map(|poll| poll.expires);
        self.result.expires().into_iter().chain(poll).min()
    }

    /// The query as part of the history, now that it is not active any more. `epoch`: when the scheduler's time was
    /// zero.
    pub(super) fn complete(&mut self, epoch: SystemTime) -> CompletedQuery {
        let ended = SystemTime::now();
        CompletedQuery {
            request: Arc::clone(&self.request),
            ended,
            // A query that the scheduler never had holds nothing at any worker.
            released: self.released.or(self.info.is_none().then_some(ended)),
            outcome: self.outcome.take().unwrap_or(Ok(())),
            info: self.info.take(),
            epoch,
        }
    }

    pub(super) fn id(&self) -> QueryId {
        self.request.id
    }
}

impl ResultState {
    fn expires(&self) -> Option<Instant> {
        match self {
            Self::Waiting { expires, .. } => Some(*expires),
            Self::Retained(result) => result.expires(),
            Self::None | Self::Streaming => None,
        }
    }

    /// Whether a shutdown waits for it: rows that wait or are read, and retained rows that are still computed or read.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::None => false,
            Self::Waiting { .. } | Self::Streaming => true,
            Self::Retained(result) => result.is_in_use(),
        }
    }
}
