//! Every query from the moment it is asked for, and the last ones that have ended.
//!
//! ```text
//! begin ──> planned by its asker ──submitted──> the scheduler has it
//!              │ Asking::ended                     │ Driver: ended
//!              └──────────> past <─────────────────┘   when both have let go of it
//! ```
//!
//! A statement that the scheduler never sees (DDL, SET, what fails while it is planned) is over when its asker says so. The
//! past is bounded by a number of queries and by bytes; the oldest goes first. Where there is a folder for it, it outlives the
//! process.

mod file;
mod line;

use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use squadron_proto::{Failure, FailureKind, QueryId};
use tokio::sync::watch;

use self::file::Writer;
use squadron_scheduler::{QueryInfo, StageInfo, TaskInfo};

/// How much of the past is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Queries that have ended.
    pub max_queries: usize,
    /// Bytes that they take in memory.
    pub max_bytes: u64,
    /// Where they are kept on disk as well, if they are.
    pub folder: Option<PathBuf>,
    /// Bytes that they take there.
    pub max_disk_bytes: u64,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            max_queries: 1000,
            max_bytes: 64 * 1024 * 1024,
            folder: None,
            max_disk_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Who asked for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The query's id.
    pub id: QueryId,
    /// The user, where one had to log in.
    pub user: Option<Arc<str>>,
    /// The session.
    pub session: Arc<str>,
    /// The statement as it may be shown.
    pub statement: Option<Arc<str>>,
    /// `squadron.tag`.
    pub tag: Option<Arc<str>>,
    /// `squadron.priority`.
    pub priority: i32,
    /// When.
    pub at: SystemTime,
}

/// A query that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Who asked for what.
    pub asked: Arc<Asked>,
    /// When it ended.
    pub ended: SystemTime,
    /// How.
    pub outcome: Result<(), Failure>,
    /// What it was at its end; none where it was over before it ran.
    pub info: Option<Arc<QueryInfo>>,
    /// When its workers had stopped what they still ran of it; none while they have not.
    pub freed: Option<SystemTime>,
    /// When the scheduler's time was zero.
    pub epoch: SystemTime,
}

/// A query that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Who asked for what.
    pub asked: Arc<Asked>,
    /// What it was when the scheduler was done with it, while its asker is not.
    pub info: Option<Arc<QueryInfo>>,
}

/// All of them. Clones share one history.
#[derive(Clone, Debug)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
    limits: Arc<HistoryLimits>,
    /// When the scheduler's time was zero.
    epoch: SystemTime,
}

#[derive(Debug, Default)]
struct Inner {
    present: BTreeMap<QueryId, Entry>,
    past: VecDeque<Past>,
    past_bytes: u64,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Entry {
    asked: Arc<Asked>,
    /// Its asker has not let go of it.
    asking: Option<watch::Sender<Option<Failure>>>,
    /// The scheduler has it.
    is_submitted: bool,
    /// What its asker says, which counts more, or else the scheduler.
    outcome: Option<Result<(), Failure>>,
    info: Option<Arc<QueryInfo>>,
    freed: Option<SystemTime>,
}

/// Held by whoever plans and starts a query. Dropped without a word, it was abandoned.
#[derive(Debug)]
pub struct Asking {
    history: History,
    id: QueryId,
    stopped: watch::Receiver<Option<Failure>>,
    has_let_go: bool,
}

impl History {
    /// What is on disk, if anything is; the scheduler's time begins now.
    ///
    /// # Errors
    /// `Invalid` when the folder cannot be used.
    pub fn open(limits: HistoryLimits) -> Result<Self, Failure> {
        let mut inner = Inner::default();
        if let Some(folder) = &limits.folder {
            let (writer, past) = Writer::open(folder, &limits)?;
            for past in past {
                inner.remember(past, &limits);
            }
            inner.writer = Some(writer);
        }
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            limits: Arc::new(limits),
            epoch: SystemTime::now(),
        })
    }

    /// Somebody asks for a query.
    pub fn begin(&self, asked: Asked) -> Asking {
        let (sender, stopped) = watch::channel(None);
        let id = asked.id;
        let entry = Entry {
            asked: Arc::new(asked),
            asking: Some(sender),
            is_submitted: false,
            outcome: None,
            info: None,
            freed: None,
        };
        self.lock().present.insert(id, entry);
        Asking {
            history: self.clone(),
            id,
            stopped,
            has_let_go: false,
        }
    }

    /// The scheduler is about to get the query.
    pub(crate) fn submitted(&self, id: QueryId) {
        if let Some(entry) = self.lock().present.get_mut(&id) {
            entry.is_submitted = true;
        }
    }

    /// The scheduler is done with the query, or never took it.
    pub(crate) fn ended(&self, id: QueryId, outcome: Result<(), Failure>, info: Option<Box<QueryInfo>>) {
        self.change(id, |entry| {
            entry.is_submitted = false;
            entry.info = info.map(Arc::from);
            entry.outcome.get_or_insert(outcome);
        });
    }

    /// No worker runs anything of the query any more, which may be the past already.
    pub(crate) fn freed(&self, id: QueryId) {
        let now = SystemTime::now();
        let mut inner = self.lock();
        if let Some(entry) = inner.present.get_mut(&id) {
            entry.freed = Some(now);
            return;
        }
        // It ended a moment ago.
        let mut latest = inner.past.iter_mut().rev();
        if let Some(past) = latest.find(|past| past.asked.id == id) {
            past.freed = Some(now);
        }
    }

    /// Tells whoever still plans or starts the query to stop. Answers whether somebody does.
    pub fn stop(&self, id: QueryId, failure: Failure) -> bool {
        let inner = self.lock();
        let asking = inner.present.get(&id).and_then(|entry| entry.asking.as_ref());
        asking.is_some_and(|asking| asking.send(Some(failure)).is_ok())
    }

    /// The query, if it has not ended.
    pub fn present(&self, id: QueryId) -> Option<Arc<Asked>> {
        let inner = self.lock();
        inner.present.get(&id).map(|entry| Arc::clone(&entry.asked))
    }

    /// The queries that have not ended, in the order of their ids, and those that have, the oldest end first.
    pub fn all(&self) -> (Vec<Present>, Vec<Past>) {
        let inner = self.lock();
        let present = inner.present.values().map(|entry| Present {
            asked: Arc::clone(&entry.asked),
            info: entry.info.clone(),
        });
        (present.collect(), inner.past.iter().cloned().collect())
    }

    /// The queries of a session that have not ended.
    pub fn of_session(&self, session: &str) -> Vec<QueryId> {
        let inner = self.lock();
        let own = inner.present.values();
        own.filter(|entry| &*entry.asked.session == session)
            .map(|entry| entry.asked.id)
            .collect()
    }

    /// Forgets the oldest until the past takes no more than so many bytes.
    pub fn shrink(&self, bytes: u64) {
        let bytes = bytes.min(self.limits.max_bytes);
        self.lock().shrink(self.limits.max_queries, bytes);
    }

    /// A time of the scheduler as others count it.
    pub fn time(&self, at: Duration) -> SystemTime {
        self.epoch + at
    }

    /// Nobody has it any more: it becomes the past.
    fn change(&self, id: QueryId, change: impl FnOnce(&mut Entry)) {
        let mut inner = self.lock();
        let Some(entry) = inner.present.get_mut(&id) else {
            return;
        };
        change(entry);
        if entry.asking.is_some() || entry.is_submitted {
            return;
        }
        let Some(entry) = inner.present.remove(&id) else {
            return;
        };
        let ended = SystemTime::now();
        // What the scheduler never had has nothing to free.
        let freed = entry.freed.or(entry.info.is_none().then_some(ended));
        let past = Past {
            asked: entry.asked,
            ended,
            freed,
            outcome: entry.outcome.unwrap_or(Ok(())),
            info: entry.info,
            epoch: self.epoch,
        };
        if let Some(writer) = &inner.writer {
            writer.write(&past);
        }
        inner.remember(past, &self.limits);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, past: Past, limits: &HistoryLimits) {
        self.past_bytes += past.bytes();
        self.past.push_back(past);
        self.shrink(limits.max_queries, limits.max_bytes);
    }

    fn shrink(&mut self, queries: usize, bytes: u64) {
        while self.past.len() > queries || self.past_bytes > bytes {
            let Some(oldest) = self.past.pop_front() else {
                return;
            };
            self.past_bytes -= oldest.bytes();
        }
    }
}

impl Past {
    fn bytes(&self) -> u64 {
        let statement = self.asked.statement.as_ref().map_or(0, |text| text.len());
        let failure = self.outcome.as_ref().err();
        let stages = self.info.iter().flat_map(|info| &info.stages);
        let stages: usize = stages
            .map(|stage| size_of::<StageInfo>() + stage.tasks.len() * size_of::<TaskInfo>())
            .sum();
        let own = size_of::<Self>() + size_of::<Asked>() + size_of::<QueryInfo>();
        (own + statement + failure.map_or(0, |failure| failure.message.len()) + stages) as u64
    }
}

impl Asking {
    /// Somebody wants the query to stop, and its asker to say so.
    pub async fn stopped(&self) -> Failure {
        let mut stopped = self.stopped.clone();
        loop {
            let failure = stopped.borrow_and_update().clone();
            match failure {
                Some(failure) => return failure,
                // The sender lives as long as this does.
                None => _ = stopped.changed().await,
            }
        }
    }

    /// What the query is to end with, if somebody wants it to stop.
    pub fn failure(&self) -> Option<Failure> {
        self.stopped.borrow().clone()
    }

    /// The scheduler has the query from now on, and its end is the query's.
    pub fn hand_over(mut self) {
        self.let_go(None);
    }

    /// It is over, as far as its asker is concerned.
    pub fn ended(mut self, outcome: Result<(), Failure>) {
        self.let_go(Some(outcome));
    }

    fn let_go(&mut self, outcome: Option<Result<(), Failure>>) {
        self.has_let_go = true;
        self.history.change(self.id, |entry| {
            entry.asking = None;
            if outcome.is_some() {
                entry.outcome = outcome;
            }
        });
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.has_let_go {
            let failure = Failure::new(FailureKind::Cancelled, "its client went away before it was answered");
            self.let_go(Some(Err(failure)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squadron_scheduler::QueryPhase;

    const SMALL: HistoryLimits = HistoryLimits {
        max_queries: 2,
        max_bytes: 1 << 20,
        folder: None,
        max_disk_bytes: 0,
    };

    fn small() -> History {
        History::open(SMALL).unwrap()
    }

    pub(super) fn asked(id: u128) -> Asked {
        Asked {
            id: QueryId::from_u128(id),
            user: None,
            session: "s".into(),
            statement: Some("SELECT 1".into()),
            tag: None,
            priority: 0,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    fn info(id: u128) -> QueryInfo {
        QueryInfo {
            id: QueryId::from_u128(id),
            user: None,
            session: "s".into(),
            tag: None,
            priority: 0,
            group: "server".into(),
            phase: QueryPhase::Delivering,
            submitted: Duration::ZERO,
            started: None,
            delivering_since: None,
            spent: Duration::ZERO,
            held_slots: 0,
            memory_bytes: 0,
            progress: 0,
            stages: Vec::new(),
        }
    }

    pub(super) fn failed(message: &str) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Invalid, message))
    }

    fn outcomes(history: &History) -> Vec<Result<(), Failure>> {
        let (_, past) = history.all();
        past.into_iter().map(|past| past.outcome).collect()
    }

    #[test]
    fn what_the_scheduler_never_sees_ends_with_its_asker() {
        let history = small();
        let asking = history.begin(asked(1));
        assert_eq!(history.of_session("s"), [QueryId::from_u128(1)]);
        asking.ended(failed("no such table"));
        assert_eq!(outcomes(&history), [failed("no such table")]);
        assert!(history.of_session("s").is_empty());
        drop(history.begin(asked(2)));
        let abandoned = outcomes(&history).pop().unwrap().unwrap_err();
        assert_eq!(abandoned.kind, FailureKind::Cancelled);
    }

    #[test]
    fn it_is_free_when_the_workers_have_said_so() {
        let freed = |history: &History| {
            let (_, past) = history.all();
            past.last().unwrap().freed
        };
        let history = small();
        // Never given to the scheduler: nothing was held.
        history.begin(asked(1)).ended(failed("no such table"));
        assert!(freed(&history).is_some());
        for (id, asker_first) in [(2, true), (3, false)] {
            let asking = history.begin(asked(id));
            let id = QueryId::from_u128(id);
            history.submitted(id);
            let info = || Some(Box::new(info(3)));
            if asker_first {
                asking.hand_over();
                history.ended(id, failed("killed"), info());
                assert_eq!(freed(&history), None);
                history.freed(id);
            } else {
                history.ended(id, failed("killed"), info());
                history.freed(id);
                asking.hand_over();
            }
            assert!(freed(&history).is_some(), "{id}");
        }
    }

    #[test]
    fn it_is_over_when_asker_and_scheduler_are_done_with_it_in_either_order() {
        for asker_first in [true, false] {
            let history = small();
            let id = QueryId::from_u128(1);
            let asking = history.begin(asked(1));
            history.submitted(id);
            let (mut asking, steps) = (Some(asking), [asker_first, !asker_first]);
            for (step, is_asker) in steps.into_iter().enumerate() {
                assert!(history.present(id).is_some(), "step {step}");
                match is_asker {
                    true => asking.take().unwrap().hand_over(),
                    false => history.ended(id, failed("cast"), None),
                }
            }
            assert_eq!(outcomes(&history), [failed("cast")]);
        }
    }

    #[test]
    fn the_word_of_the_asker_counts_more() {
        let history = small();
        let id = QueryId::from_u128(1);
        let asking = history.begin(asked(1));
        history.submitted(id);
        history.ended(id, Ok(()), None);
        asking.ended(failed("the folder is full"));
        assert_eq!(outcomes(&history), [failed("the folder is full")]);
    }

    #[test]
    fn the_oldest_gives_way_by_number_and_by_bytes() {
        let history = small();
        for id in 1..=3 {
            history.begin(asked(id)).ended(Ok(()));
        }
        let ids = |history: &History| -> Vec<_> {
            let (_, past) = history.all();
            past.iter().map(|past| past.asked.id).collect()
        };
        assert_eq!(ids(&history), [2, 3].map(QueryId::from_u128));
        history
            .begin(asked(4))
            .ended(failed(&"x".repeat(SMALL.max_bytes as usize)));
        assert!(
            ids(&history).is_empty(),
            "one that is too large for all is forgotten too"
        );
        history.begin(asked(5)).ended(Ok(()));
        assert_eq!(ids(&history), [QueryId::from_u128(5)]);
    }

    #[tokio::test]
    async fn an_asker_hears_that_it_shall_stop() {
        let history = small();
        let asking = history.begin(asked(1));
        let failure = Failure::new(FailureKind::Cancelled, "killed");
        assert_eq!(asking.failure(), None);
        assert!(history.stop(QueryId::from_u128(1), failure.clone()));
        assert_eq!(asking.failure(), Some(failure.clone()));
        assert_eq!(asking.stopped().await, failure);
        asking.ended(Err(failure));
        let late = Failure::new(FailureKind::Cancelled, "late");
        assert!(!history.stop(QueryId::from_u128(1), late));
    }
}
