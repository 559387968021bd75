//! The memory of the process, shared out to the queries that run.
//!
//! ```text
//! operator ── AttemptPool (one attempt) ── Shares (one process) ── pool (counts, and names the largest consumers)
//!                                             `─ refused: the shuffle's kept rows go to disk, then asked again
//! ```
//!
//! A query alone gets almost everything. Beside others, each is sure of a part: what it reserved, and half of an equal
//! share of the rest as long as it runs. What no query is sure of goes to the query that asks first. A query that holds
//! more than an equal share, counting one query that may start later, leaves an eighth of the pool free for that query.
//! Within a query, sorts leave each other room ([`sorts`]), and hash tables stop before they double ([`tables`]).

pub(crate) mod consumers;
mod room;
mod sorts;
mod tables;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
    human_readable_size,
};
use squadron_proto::{Failure, QueryId};
use squadron_shuffle::Store;
use tokio::sync::watch;

use self::room::Starts;
pub(crate) use self::room::{Room, START_TIME, Start};
use self::sorts::{Claim, Sorts};
use self::tables::Tables;
use crate::usage::Usage;

/// Queries with more than their share leave one part in so many of the pool free, and their sorts more.
const HEADROOM: usize = 8;
const PATIENT_HEADROOM: usize = 2;

/// What nobody has charged counts for one part in so many of the pool at most. A part of it is memory that is free again
/// but not yet back with the system, and operators that get nothing at all cannot even spill.
const UNKNOWN_SHARE: usize = 4;

/// What consumers that cannot give way may take beyond the pool, one part in so many of it and so many bytes at most: they
/// would end their queries for want of a little that they mostly hold already. Those that can are refused meanwhile, so
/// the pool recovers.
const OVERDRAFT_SHARE: usize = 8;
const OVERDRAFT_BYTES: usize = 16 * 1024 * 1024;

/// Kept rows go to disk at least so much of the pool at a time, one part in so many.
const MOVED_SHARE: usize = 32;

/// How many of the largest consumers an out-of-memory message names.
const NAMED_CONSUMERS: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not 0");

/// Counts what the consumers of the process hold.
pub(crate) type ProcessPool = TrackConsumersPool<GreedyMemoryPool>;

/// The pool of a process that may hold `bytes`.
pub(crate) fn process_pool(bytes: usize) -> Arc<ProcessPool> {
    Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(bytes), NAMED_CONSUMERS))
}

/// How much there is for a request.
#[derive(Clone, Copy, Debug)]
enum Bounds {
    /// The pool, of which one part in so many is left for others.
    Pool { headroom: usize },
    /// All of the pool and a little more, without what nobody has charged.
    Overdraft,
}

impl Bounds {
    fn of(claim: Claim) -> Self {
        let headroom = match claim {
            Claim::Needy | Claim::Fair => HEADROOM,
            Claim::Patient => PATIENT_HEADROOM,
        };
        Self::Pool { headroom }
    }
}

/// Who holds how much of the process's memory.
#[derive(Debug)]
pub(crate) struct Shares {
    pool: Arc<ProcessPool>,
    store: Store,
    /// Bytes of the process that nobody has charged, beyond its overhead.
    unknown: AtomicUsize,
    /// Whether it was said that rows cannot go to disk.
    has_warned: AtomicBool,
    queries: Mutex<HashMap<QueryId, Holding>>,
    tables: Mutex<Tables>,
    sorts: Mutex<Sorts>,
    /// Queries that must end, for the attempts that wait for it.
    ended: watch::Sender<Option<(QueryId, Failure)>>,
    starts: Starts,
}

/// What the attempts of a query hold in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Holding {
    attempts: usize,
    /// Attempts that wait for their clients: they ask for nothing.
    parked: usize,
    /// Attempts that have not started, for want of memory.
    waiting: usize,
    bytes: usize,
    reserved: usize,
}

impl Shares {
    /// Shares `pool` out. Rows that `store` keeps in memory make room.
    pub(crate) fn new(pool: Arc<ProcessPool>, store: Store) -> Self {
        Self {
            pool,
            store,
            unknown: AtomicUsize::new(0),
            has_warned: AtomicBool::new(false),
            queries: Mutex::default(),
            tables: Mutex::default(),
            sorts: Mutex::default(),
            ended: watch::Sender::new(None),
            starts: Starts::default(),
        }
    }

    /// Size of the pool, in bytes.
    pub(crate) fn limit_bytes(&self) -> usize {
        match self.pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        }
    }

    /// Bytes taken from the pool.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.pool.reserved()
    }

    /// Moves rows that wait for their readers to disk, up to `bytes` of them. Returns whether any were moved.
    pub(crate) fn make_room(&self, bytes: usize) -> bool {
        match self.store.move_to_disk(bytes) {
            Ok(has_moved) => {
                self.has_warned.store(false, Ordering::Relaxed);
                has_moved
            }
            Err(failure) => {
                // A full disk is full each time.
                if !self.has_warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%failure, "rows that wait for their readers stay in memory");
                }
                false
            }
        }
    }

    /// Counts so many bytes as taken that nobody has charged.
    pub(crate) fn set_unknown(&self, bytes: usize) {
        self.unknown.store(bytes, Ordering::Relaxed);
    }

    /// Ends the query that began last, with `failure`.
    pub(crate) fn end_newest(&self, failure: &Failure) {
        // Ids of queries sort by time.
        let newest = self.queries().keys().max().copied();
        self.end(newest, failure);
    }

    /// Ends the query that began last of those whose results nobody reads, with `failure`. Returns whether there was one.
    pub(crate) fn end_newest_unread(&self, failure: &Failure) -> bool {
        let queries = self.queries();
        let unread = queries.iter().filter(|(_, holding)| holding.is_unread());
        let newest = unread.map(|(query, _)| *query).max();
        drop(queries);
        self.end(newest, failure);
        newest.is_some()
    }

    fn end(&self, query: Option<QueryId>, failure: &Failure) {
        if let Some(query) = query {
            self.ended.send_replace(Some((query, failure.clone())));
        }
    }

    /// Says how much of its memory the process holds.
    pub(crate) fn set_room(&self, room: Room) {
        self.starts.set_room(room);
    }

    fn has_unread(&self) -> bool {
        self.queries().values().any(Holding::is_unread)
    }

    /// Bytes taken of a pool of `limit`, known or not.
    fn taken(&self, limit: usize) -> usize {
        let unknown = self.unknown.load(Ordering::Relaxed).min(limit / UNKNOWN_SHARE);
        self.pool.reserved().saturating_add(unknown)
    }

    fn queries(&self) -> MutexGuard<'_, HashMap<QueryId, Holding>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, query: QueryId, change: impl FnOnce(&mut Holding)) {
        if let Some(holding) = self.queries().get_mut(&query) {
            change(holding);
        }
    }

    fn join(&self, query: QueryId, reserved: usize) {
        let mut queries = self.queries();
        let holding = queries.entry(query).or_default();
        holding.attempts += 1;
        holding.reserved = reserved;
    }

    fn leave(&self, query: QueryId, was_parked: bool) {
        let mut queries = self.queries();
        if let Some(holding) = queries.get_mut(&query) {
            holding.attempts -= 1;
            holding.parked -= usize::from(was_parked);
            if holding.attempts == 0 {
                queries.remove(&query);
            }
        }
    }

    fn try_grow(&self, query: QueryId, reservation: &MemoryReservation, bytes: usize) -> Result<()> {
        let claim = self.claim(query, reservation.consumer(), bytes);
        let Err(refused) = self.try_grow_within(Bounds::of(claim), query, reservation, bytes) else {
            return Ok(());
        };
        let mut outcome = match self.make_room(bytes.max(self.limit_bytes() / MOVED_SHARE)) {
            true => self.try_grow_within(Bounds::of(claim), query, reservation, bytes),
            false => Err(refused),
        };
        if outcome.is_err() && claim == Claim::Needy {
            outcome = self
                .try_grow_within(Bounds::Overdraft, query, reservation, bytes)
                .or(outcome);
        }
        if outcome.is_err() {
            self.tables().refused(reservation);
        }
        outcome
    }

    fn claim(&self, query: QueryId, consumer: &MemoryConsumer, bytes: usize) -> Claim {
        if let Some(claim) = Claim::unless_sort(consumer) {
            return claim;
        }
        let running = self.queries().values().filter(|holding| holding.is_running()).count();
        let share = self.limit_bytes() / running.max(1);
        self.sorts().claim(query, consumer, bytes, share)
    }

    fn sorts(&self) -> MutexGuard<'_, Sorts> {
        self.sorts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the sorts' limits about a change, and about nothing else: all operators ask for memory with each batch.
    fn note_sort(&self, consumer: &MemoryConsumer, change: impl FnOnce(&mut Sorts)) {
        if consumers::is_sort(consumer) {
            change(&mut self.sorts());
        }
    }

    /// Takes `bytes` from the pool, even beyond its limit.
    fn grow(&self, query: QueryId, reservation: &MemoryReservation, bytes: usize) {
        self.pool.grow(reservation, bytes);
        let consumer = reservation.consumer();
        self.note_sort(consumer, |sorts| sorts.grown(query, consumer, bytes));
        self.update(query, |holding| holding.bytes += bytes);
    }

    /// Takes `bytes` from the pool if the query may have them.
    fn try_grow_within(
        &self,
        bounds: Bounds,
        query: QueryId,
        reservation: &MemoryReservation,
        bytes: usize,
    ) -> Result<()> {
        let mut queries = self.queries();
        let mut tables = self.tables();
        let now = Instant::now();
        let leaps = tables.next_leaps(reservation, now);
        if let MemoryLimit::Finite(limit) = self.pool.memory_limit() {
            let wanted = bytes.saturating_add(leaps);
            let overdraft = (limit / OVERDRAFT_SHARE).min(OVERDRAFT_BYTES);
            let (limit_then, taken, headroom) = match bounds {
                Bounds::Pool { headroom } => (limit, self.taken(limit), limit / headroom),
                Bounds::Overdraft => (limit.saturating_add(overdraft), self.pool.reserved(), 0),
            };
            if !allows(&queries, query, wanted, limit_then, taken, headroom) {
                return Err(self.refusal(&queries, query, reservation, bytes));
            }
        }
        match bounds {
            Bounds::Pool { .. } => self.pool.try_grow(reservation, bytes)?,
            Bounds::Overdraft => self.pool.grow(reservation, bytes),
        }
        tables.grown(reservation, bytes, now);
        let consumer = reservation.consumer();
        self.note_sort(consumer, |sorts| sorts.grown(query, consumer, bytes));
        if let Some(holding) = queries.get_mut(&query) {
            holding.bytes += bytes;
        }
        Ok(())
    }

    /// Says who asked for how much, and who holds what.
    fn refusal(
        &self,
        queries: &HashMap<QueryId, Holding>,
        query: QueryId,
        reservation: &MemoryReservation,
        bytes: usize,
    ) -> DataFusionError {
        let held = queries.get(&query).map_or(0, |holding| holding.bytes);
        let limit = self.limit_bytes();
        DataFusionError::ResourcesExhausted(format!(
            "{} asked for {} more; its query holds {} of the {} of --memory, of which {} is taken, most of it by {}; {} \
             other queries run here: raise --memory, or run fewer queries at once",
            reservation.consumer().name(),
            human_readable_size(bytes),
            human_readable_size(held),
            human_readable_size(limit),
            human_readable_size(self.taken(limit)),
            self.largest_consumers(),
            queries.len().saturating_sub(1),
        ))
    }

    /// Who holds most, for messages.
    fn largest_consumers(&self) -> String {
        let mut consumers = self.pool.metrics();
        consumers.sort_by_key(|consumer| Reverse(consumer.reserved));
        let largest = consumers.iter().take(NAMED_CONSUMERS.get());
        let named = largest.map(|consumer| format!("{} ({})", consumer.name, human_readable_size(consumer.reserved)));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// Whether `query` may take `bytes` more of a pool of `limit`, of which `taken` is taken. If it then has more than an equal
/// share, it leaves `headroom`.
fn allows(
    queries: &HashMap<QueryId, Holding>,
    query: QueryId,
    bytes: usize,
    limit: usize,
    taken: usize,
    headroom: usize,
) -> bool {
    let Some(free) = limit.saturating_sub(taken).checked_sub(bytes) else {
        return false;
    };
    let running = queries.values().filter(|holding| holding.is_running()).count();
    let reserved = queries.values().map(|holding| holding.reserved);
    let reserved = reserved.fold(0, usize::saturating_add);
    let half_share = limit.saturating_sub(reserved) / (2 * running.max(1));
    let sure = |holding: &Holding| match holding.is_running() {
        true => holding.reserved.saturating_add(half_share),
        false => holding.reserved,
    };
    let own = queries.get(&query).copied().unwrap_or_default();
    let wanted = own.bytes.saturating_add(bytes);
    if wanted <= sure(&own) {
        return true;
    }
    let others = queries.iter().filter(|(other, _)| **other != query);
    let claims = others.map(|(_, holding)| sure(holding).saturating_sub(holding.bytes));
    let claimed = claims.fold(0, usize::saturating_add);
    let headroom = if wanted > limit / (running + 1) { headroom } else { 0 };
    free >= claimed.saturating_add(headroom)
}

impl Holding {
    fn is_running(&self) -> bool {
        self.attempts > self.parked + self.waiting
    }

    /// Whether it holds rows that nobody reads.
    fn is_unread(&self) -> bool {
        self.parked > 0 && !self.is_running()
    }
}

/// The process's memory as one attempt sees it: within its query's share, and counted to the attempt.
#[derive(Debug)]
pub(crate) struct AttemptPool {
    shares: Arc<Shares>,
    query: QueryId,
    is_parked: AtomicBool,
    usage: Arc<Usage>,
}

impl AttemptPool {
    /// `reserved` bytes are kept for the query in this process.
    pub(crate) fn new(shares: Arc<Shares>, query: QueryId, reserved: usize, usage: Arc<Usage>) -> Self {
        shares.join(query, reserved);
        Self {
            shares,
            query,
            is_parked: AtomicBool::new(false),
            usage,
        }
    }

    /// Waits until the query must end for want of memory.
    pub(crate) async fn ended(&self) -> Failure {
        let mut ended = self.shares.ended.subscribe();
        let is_own = |ended: &Option<(QueryId, Failure)>| ended.as_ref().is_some_and(|(query, _)| *query == self.query);
        let found = ended.wait_for(is_own).await.ok().and_then(|found| found.clone());
        match found {
            Some((_, failure)) => failure,
            // Never: the sender lives in `shares`.
            None => std::future::pending().await,
        }
    }

    /// Waits until a plan may start that streams its rows, and calls `waits` before it does. Nothing when others may start
    /// beside it.
    pub(crate) async fn wait_for_room(&self, waits: impl FnOnce()) -> Option<Start> {
        let has_unread = || self.shares.has_unread();
        if self.shares.starts.is_free(has_unread) {
            return None;
        }
        waits();
        let _waiting = WaitingForRoom::new(self);
        Some(self.shares.starts.wait(has_unread).await)
    }

    /// The attempt waits for its client, or no longer does.
    pub(crate) fn set_parked(&self, is_parked: bool) {
        if self.is_parked.swap(is_parked, Ordering::Relaxed) == is_parked {
            return;
        }
        self.shares.update(self.query, |holding| match is_parked {
            true => holding.parked += 1,
            false => holding.parked -= 1,
        });
    }
}

/// Counts an attempt as waiting until it is dropped.
struct WaitingForRoom<'a>(&'a AttemptPool);

impl<'a> WaitingForRoom<'a> {
    fn new(pool: &'a AttemptPool) -> Self {
        pool.shares.update(pool.query, |holding| holding.waiting += 1);
        Self(pool)
    }
}

impl Drop for WaitingForRoom<'_> {
    fn drop(&mut self) {
        self.0.shares.update(self.0.query, |holding| holding.waiting -= 1);
    }
}

impl Drop for AttemptPool {
    fn drop(&mut self) {
        self.shares.leave(self.query, *self.is_parked.get_mut());
    }
}

impl fmt::Display for AttemptPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shares.pool.fmt(f)
    }
}

impl MemoryPool for AttemptPool {
    fn name(&self) -> &str {
        self.shares.pool.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.shares.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.shares.pool.unregister(consumer);
        self.shares.tables().ended(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.shares.grow(self.query, reservation, additional);
        self.usage.grow(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.shares.pool.shrink(reservation, shrink);
        self.shares.tables().shrunk(reservation);
        let consumer = reservation.consumer();
        let shrunk = |sorts: &mut Sorts| sorts.shrunk(self.query, consumer, shrink);
        self.shares.note_sort(consumer, shrunk);
        self.shares.update(self.query, |holding| holding.bytes -= shrink);
        self.usage.shrink(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.shares.try_grow(self.query, reservation, additional)?;
        self.usage.grow(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.shares.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.shares.pool.memory_limit()
    }
}

#[cfg(test)]
mod tests;
