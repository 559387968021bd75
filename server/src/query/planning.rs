//! Planning threads: statements are planned on threads of their own, a few at a time, the highest priority first.
//!
//! ```text
//! work ──> waits for its turn ──> polled ──┬─ waits for I/O: its turn is over, and it queues again when it can go on
//!                                          └─ done
//! ```
//!
//! As in admission, the highest priority comes first, then the earliest arrival. A turn is a right to processor time:
//! work that waits for a store holds none. Work that does not return its turn within [`PATIENCE`] keeps its thread and
//! loses its turn, so that a huge statement does not delay statements that are planned in a millisecond.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use squadron_proto::{Failure, FailureKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::plan_limits::{self, PlanBudget, PlanBudgets, PlanLimits, too_slow};

/// How long work may keep its turn while others wait.
const PATIENCE: Duration = Duration::from_millis(50);
/// How much work may go on without its turn: threads beyond one for each turn.
const OVERLONG: usize = 8;
/// How much longer than its time limit work may take to notice it.
const GRACE: Duration = Duration::from_millis(500);
/// Planning recurses with the nesting of a statement, which has a limit ([`crate::plan_limits`]); the untouched part of a
/// stack costs address space alone.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Plans statements. Clones share the threads, which end with the last of them.
#[derive(Clone, Debug)]
pub struct Planning {
    threads: Arc<Threads>,
    turns: Arc<Turns>,
    budgets: Arc<PlanBudgets>,
}

impl Planning {
    /// Lets `turns` statements be planned at once, each within `limits`.
    ///
    /// # Errors
    /// `Exhausted` when no threads can be had.
    pub fn start(turns: usize, limits: PlanLimits) -> Result<Self, Failure> {
        Ok(Self {
            threads: Arc::new(Threads::start(turns.max(1) + OVERLONG)?),
            turns: Arc::new(Turns::new(turns.max(1))),
            budgets: PlanBudgets::new(limits),
        })
    }

    /// Does the work when its turns come. Dropping the future ends it where it waits or passes a checkpoint next.
    ///
    /// # Errors
    /// That of the work, `Internal` when it panics, `Deadline` when it takes longer than the limit.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        priority: i32,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let budget = AbandonOnDrop(self.budgets.budget());
        let (begun, begins) = oneshot::channel();
        let turns = Arc::clone(&self.turns);
        let in_turn = InTurn::new(turns, priority, Arc::clone(&budget.0), begun, work.boxed());
        let task = self.threads.handle().spawn(in_turn.in_current_span());
        tokio::select! {
            outcome = AbortOnDropHandle::new(task) => match outcome {
                Ok(outcome) => outcome,
                Err(error) => Err(Failure::internal(format!("planning ended early: {error}"))),
            },
            // A pass that is overlong by itself goes on, without anybody who waits for it.
            () = elapsed(begins, self.budgets.timeout() + GRACE) => Err(too_slow(self.budgets.timeout())),
        }
    }
}

/// Ends the planning of a statement when nobody waits for it any more.
struct AbandonOnDrop(Arc<PlanBudget>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Waits until work that has begun has had so much time.
async fn elapsed(begins: oneshot::Receiver<()>, time: Duration) {
    match begins.await {
        Ok(()) => tokio::time::sleep(time).await,
        // It ended without beginning.
        Err(_) => std::future::pending().await,
    }
}

/// The threads on which statements are planned.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Threads {
    fn start(count: usize) -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_stack_size(STACK_BYTES)
            .thread_name("squadron-plan")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            let said = format!("cannot start {count} threads to plan statements: {error}");
            Failure::new(FailureKind::Exhausted, said)
        })?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        let runtime = self.0.as_ref().expect("taken only when dropped");
        runtime.handle()
    }
}

impl Drop for Threads {
    /// Waits for nothing: the last owner may be a task, which must not block.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The priority of work, and how much work came before it; the smallest place is next.
type Place = (Reverse<i32>, u64);

/// Which work may be polled.
#[derive(Debug)]
struct Turns {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    free: usize,
    numbers: u64,
    waiting: BTreeMap<Place, Waker>,
    /// Work that was given a turn and was not polled since.
    granted: BTreeSet<Place>,
    /// Work that has a turn, with the start of its turn.
    polled: BTreeMap<Place, Instant>,
    overlong: usize,
}

impl Turns {
    fn new(count: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                free: count,
                ..Inner::default()
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, priority: i32) -> Place {
        let mut inner = self.lock();
        inner.numbers += 1;
        (Reverse(priority), inner.numbers)
    }

    /// Takes a turn if one is free or granted to this place; else the waker is woken when one is granted.
    fn take(&self, place: Place, waker: &Waker) -> Option<Turn<'_>> {
        let mut inner = self.lock();
        let mut may = inner.granted.remove(&place);
        if !may && inner.free > 0 {
            // A turn is only free while no work waits for one.
            inner.free -= 1;
            may = true;
        }
        if may {
            inner.waiting.remove(&place);
            inner.polled.insert(place, Instant::now());
            return Some(Turn { turns: self, place });
        }
        inner.waiting.insert(place, waker.clone());
        None
    }

    /// Takes turns away from work that has had them for too long.
    fn take_overlong_turns(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        let overlong = inner.polled.iter();
        let overlong = overlong.filter(|(_, started)| **started + PATIENCE <= now);
        let overlong: Vec<_> = overlong.map(|(place, _)| *place).collect();
        for place in overlong {
            if inner.overlong < OVERLONG && inner.polled.remove(&place).is_some() {
                inner.overlong += 1;
                inner.pass_on();
            }
        }
    }

    fn end(&self, place: Place) {
        let mut inner = self.lock();
        match inner.polled.remove(&place) {
            Some(_) => inner.pass_on(),
            None => inner.overlong -= 1,
        }
    }

    /// The work was dropped.
    fn leave(&self, place: Place) {
        let mut inner = self.lock();
        inner.waiting.remove(&place);
        if inner.granted.remove(&place) {
            inner.pass_on();
        }
    }
}

impl Inner {
    /// A turn is free: gives it to the first work that waits.
    fn pass_on(&mut self) {
        match self.waiting.pop_first() {
            Some((place, waker)) => {
                self.granted.insert(place);
                waker.wake();
            }
            None => self.free += 1,
        }
    }
}

/// The right to be polled, until it is dropped.
struct Turn<'a> {
    turns: &'a Turns,
    place: Place,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.end(self.place);
    }
}

/// Work that is polled in its turns only.
struct InTurn<T> {
    turns: Arc<Turns>,
    place: Place,
    work: BoxFuture<'static, T>,
    budget: Arc<PlanBudget>,
    /// Told when the first turn comes.
    begun: Option<oneshot::Sender<()>>,
    /// Looks for overlong turns while this work waits for one.
    watch: Option<Pin<Box<Interval>>>,
}

impl<T> InTurn<T> {
    fn new(
        turns: Arc<Turns>,
        priority: i32,
        budget: Arc<PlanBudget>,
        begun: oneshot::Sender<()>,
        work: BoxFuture<'static, T>,
    ) -> Self {
        Self {
            place: turns.place(priority),
            turns,
            work,
            budget,
            begun: Some(begun),
            watch: None,
        }
    }

    /// While the work waits for its turn.
    fn poll_watch(&mut self, context: &mut Context<'_>) {
        let watch = self.watch.get_or_insert_with(|| {
            let first = Instant::now() + PATIENCE;
            Box::pin(tokio::time::interval_at(first, PATIENCE))
        });
        while watch.poll_tick(context).is_ready() {
            self.turns.take_overlong_turns();
        }
    }
}

impl<T> Future for InTurn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let turns = Arc::clone(&self.turns);
        let Some(_turn) = turns.take(self.place, context.waker()) else {
            self.poll_watch(context);
            return Poll::Pending;
        };
        self.watch = None;
        if let Some(begun) = self.begun.take() {
            self.budget.begin();
            let _ = begun.send(());
        }
        let _within_budget = plan_limits::enter(&self.budget);
        self.work.poll_unpin(context)
    }
}

impl<T> Drop for InTurn<T> {
    fn drop(&mut self) {
        self.turns.leave(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use datafusion::common::runtime::SpawnedTask;
    use futures::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    const NO_LIMITS: PlanLimits = PlanLimits {
        plan_bytes: u64::MAX,
        total_bytes: u64::MAX,
        timeout: Duration::from_secs(3600),
    };

    fn one_turn() -> Planning {
        Planning::start(1, NO_LIMITS).unwrap()
    }

    /// Work that holds its thread until the sender is dropped, once it has begun.
    async fn hog(planning: &Planning) -> (mpsc::Sender<()>, impl Future<Output = ()> + use<>) {
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let planning = planning.clone();
        let work = SpawnedTask::spawn(async move {
            let work = async move {
                let _ = begun.send(());
                let _ = held.recv();
                Ok(())
            };
            planning.run(0, work).await.unwrap();
        });
        begins.await.unwrap();
        (release, async move { work.await.unwrap() })
    }

    fn in_turn(planning: &Planning) -> InTurn<()> {
        let (begun, _) = oneshot::channel();
        InTurn::new(
            Arc::clone(&planning.turns),
            0,
            planning.budgets.budget(),
            begun,
            async {}.boxed(),
        )
    }

    fn is_at_rest(planning: &Planning) -> bool {
        let inner = planning.turns.lock();
        inner.free == 1
            && inner.overlong == 0
            && inner.waiting.is_empty()
            && inner.granted.is_empty()
            && inner.polled.is_empty()
    }

    #[tokio::test]
    async fn turns_follow_priority_then_arrival() {
        let planning = one_turn();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (release, hog) = hog(&planning).await;
        let mut works = Vec::new();
        for (number, priority) in [0, 10, 0, -10, 10].into_iter().enumerate() {
            let (of_work, of_order) = (planning.clone(), Arc::clone(&order));
            works.push(SpawnedTask::spawn(async move {
                let order = of_order;
                let work = async move {
                    order.lock().unwrap().push((Reverse(priority), number));
                    Ok(())
                };
                of_work.run(priority, work).await.unwrap();
            }));
            let came = || planning.turns.lock().waiting.len() + order.lock().unwrap().len();
            while came() <= number {
                tokio::task::yield_now().await;
            }
        }
        // The hog may have lost its turn before all work had come: only work that waits is put in order.
        let early = order.lock().unwrap().len();
        drop(release);
        hog.await;
        join_all(works).await;
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 5);
        assert!(order[early..].is_sorted(), "{early}: {order:?}");
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn waiting_work_holds_no_turn() {
        let planning = one_turn();
        let (answer, question) = oneshot::channel();
        let waits = planning.run(0, async { Ok(question.await) });
        let mut waits = std::pin::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(planning.run(-10, async { Ok(1) }).await, Ok(1));
        answer.send(2).unwrap();
        assert_eq!(waits.await, Ok(Ok(2)));
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn overlong_work_loses_its_turn() {
        let planning = one_turn();
        let (release, hog) = hog(&planning).await;
        assert_eq!(planning.run(0, async { Ok(1) }).await, Ok(1));
        assert_eq!(planning.turns.lock().overlong, 1);
        drop(release);
        hog.await;
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn dropped_work_returns_its_turn() {
        let planning = one_turn();
        let waker = Waker::noop();
        let mut context = Context::from_waker(waker);
        let (mut first, mut second) = (in_turn(&planning), in_turn(&planning));
        let held = planning.turns.take((Reverse(0), 0), waker).unwrap();
        assert!(first.poll_unpin(&mut context).is_pending());
        assert!(second.poll_unpin(&mut context).is_pending());
        drop(held);
        assert!(planning.turns.lock().granted.contains(&first.place));
        drop(first);
        assert!(planning.turns.lock().granted.contains(&second.place));
        assert!(second.poll_unpin(&mut context).is_ready());
        assert!(is_at_rest(&planning));
    }

    /// Work that never waits, but passes checkpoints; tells how it ended.
    async fn busy_work(ended: mpsc::Sender<FailureKind>) -> Result<(), Failure> {
        let error = loop {
            if let Err(error) = plan_limits::check() {
                break error;
            }
            std::thread::yield_now();
        };
        let failure = squadron_shuffle::failure::of(&error);
        let _ = ended.send(failure.kind);
        Err(failure)
    }

    #[tokio::test]
    async fn slow_work_ends_at_its_time_limit() {
        let limits = PlanLimits {
            timeout: Duration::from_millis(20),
            ..NO_LIMITS
        };
        let planning = Planning::start(1, limits).unwrap();
        let (ended, end) = mpsc::channel();
        let failure = planning.run(0, busy_work(ended)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        assert!(failure.message.contains("--plan-timeout"), "{failure}");
        assert_eq!(end.recv(), Ok(FailureKind::Deadline));
    }

    #[tokio::test]
    async fn overlong_pass_is_not_waited_for() {
        let limits = PlanLimits {
            timeout: Duration::from_millis(20),
            ..NO_LIMITS
        };
        let planning = Planning::start(1, limits).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let pass = async move {
            let _ = held.recv();
            Ok(())
        };
        let failure = planning.run(0, pass).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        drop(release);
    }

    #[tokio::test]
    async fn dropped_work_ends_at_its_next_checkpoint() {
        let planning = one_turn();
        let (ended, end) = mpsc::channel();
        let (begun, begins) = oneshot::channel();
        let work = async move {
            let _ = begun.send(());
            busy_work(ended).await
        };
        let mut run = Box::pin(planning.run(0, work));
        tokio::select! {
            outcome = &mut run => panic!("ended by itself: {outcome:?}"),
            _ = begins => {}
        }
        drop(run);
        assert_eq!(end.recv(), Ok(FailureKind::Cancelled));
    }

    #[tokio::test]
    async fn panicking_work_returns_its_turn() {
        let planning = one_turn();
        let panics = planning.run::<()>(0, async { panic!("on purpose") });
        let failure = panics.await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal);
        assert!(is_at_rest(&planning));
    }
}
