//! Where statements are planned: on threads of their own, a few at a time, in the order in which they are due.
//!
//! ```text
//! work ──due──> waits for its turn ──> polled ──┬─ waits for I/O: its turn is over, and it comes back when it can go on
//!                                               └─ done
//! ```
//!
//! Work is due when it came and what its query took the last time have passed, less of the latter for a higher priority.
//! So short queries and important ones pass long ones that came about when they did, and nobody waits for ever: whoever
//! comes later is due later. Turns are for processor time alone: nobody holds one while it waits for a store. Work that does not
//! give its turn back within [`PATIENCE`] keeps its thread and loses its turn, so that a monster of a statement does not hold
//! up those that are planned in a millisecond.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use squadron_proto::{Failure, FailureKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, Interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::scheduler::Policy;

/// How long work may keep its turn while others wait.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many may have lost their turn and work on: threads beyond those that have one.
const OVERLONG: usize = 8;
/// What came so much earlier is first, whatever it costs.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// The default of a query that has not run yet; little, so that it gets a chance to show itself.
const UNKNOWN_COST: Duration = Duration::from_millis(20);
/// Planning recurses with the nesting of a statement; what is not touched of a stack costs address space alone.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Plans statements. Clones share the threads, which end with the last of them.
#[derive(Clone, Debug)]
pub struct Planning {
    threads: Arc<Threads>,
    turns: Arc<Turns>,
    policy: Policy,
}

impl Planning {
    /// Lets `turns` statements be planned at once. Policies that know no sizes go by the order of arrival.
    ///
    /// # Errors
    /// `Exhausted` when no threads can be had.
    pub fn start(turns: usize, policy: Policy) -> Result<Self, Failure> {
        Ok(Self {
            threads: Arc::new(Threads::start(turns.max(1) + OVERLONG)?),
            turns: Arc::new(Turns::new(turns.max(1))),
            policy,
        })
    }

    /// When work that comes now is due: for a query that usually takes `cost` of a processor, where that is known.
    pub(super) fn due(&self, cost: Option<Duration>, priority: i32) -> Instant {
        let cost = match self.policy {
            Policy::Stride => cost.unwrap_or(UNKNOWN_COST),
            Policy::Fair | Policy::Fifo => Duration::ZERO,
        };
        // As in the policy of the scheduler, 10 points of priority are worth a factor of two.
        let delay = cost.as_secs_f64() / 2_f64.powf(f64::from(priority) / 10.0);
        Instant::now() + Duration::from_secs_f64(delay.min(LONGEST_DELAY.as_secs_f64()))
    }

    /// Does the work when its turns come. Dropping the future ends it where it waits next.
    ///
    /// # Errors
    /// `Internal` when the work panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        due: Instant,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let in_turn = InTurn::new(Arc::clone(&self.turns), due, work.boxed());
        let task = self.threads.handle().spawn(in_turn.in_current_span());
        AbortOnDropHandle::new(task)
            .await
            .map_err(|error| Failure::internal(format!("planning ended early: {error}")))
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

/// When work is due, and which work it is; the smallest is next.
type Place = (Instant, u64);

/// Who may be polled.
#[derive(Debug)]
struct Turns {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    free: usize,
    numbers: u64,
    waiting: BTreeMap<Place, Waker>,
    /// Those who have been called and do not know it yet.
    called: BTreeSet<Place>,
    /// Those who have a turn, with its start.
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

    fn place(&self, due: Instant) -> Place {
        let mut inner = self.lock();
        inner.numbers += 1;
        (due, inner.numbers)
    }

    /// Takes a turn if it is this one's, else wakes it when it is.
    fn take(&self, place: Place, waker: &Waker) -> Option<Turn<'_>> {
        let mut inner = self.lock();
        let mut may = inner.called.remove(&place);
        if !may && inner.free > 0 {
            // Whoever is free has nobody who waits.
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

    /// Takes the turns of those who have had theirs for too long.
    fn hurry(&self) {
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

    /// The work is dropped while it has no turn.
    fn leave(&self, place: Place) {
        let mut inner = self.lock();
        inner.waiting.remove(&place);
        if inner.called.remove(&place) {
            inner.pass_on();
        }
    }
}

impl Inner {
    /// A turn is to be had: calls whoever is due first.
    fn pass_on(&mut self) {
        match self.waiting.pop_first() {
            Some((place, waker)) => {
                self.called.insert(place);
                waker.wake();
            }
            None => self.free += 1,
        }
    }
}

/// While it lives, the work is polled.
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
    /// Looks for those who keep their turns too long, while this waits for one.
    watch: Option<Pin<Box<Interval>>>,
}

impl<T> InTurn<T> {
    fn new(turns: Arc<Turns>, due: Instant, work: BoxFuture<'static, T>) -> Self {
        Self {
            place: turns.place(due),
            turns,
            work,
            watch: None,
        }
    }

    /// Until the turn comes.
    fn watches(&mut self, context: &mut Context<'_>) {
        let watch = self.watch.get_or_insert_with(|| {
            let first = Instant::now() + PATIENCE;
            Box::pin(tokio::time::interval_at(first, PATIENCE))
        });
        while watch.poll_tick(context).is_ready() {
            self.turns.hurry();
        }
    }
}

impl<T> Future for InTurn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let turns = Arc::clone(&self.turns);
        let Some(_turn) = turns.take(self.place, context.waker()) else {
            self.watches(context);
            return Poll::Pending;
        };
        self.watch = None;
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

    use futures::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    fn one_turn() -> Planning {
        Planning::start(1, Policy::Stride).unwrap()
    }

    /// Work that holds its thread until the sender is dropped, once it has begun.
    async fn hog(planning: &Planning) -> (mpsc::Sender<()>, impl Future<Output = ()> + use<>) {
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let planning = planning.clone();
        let work = tokio::spawn(async move {
            let work = async move {
                let _ = begun.send(());
                let _ = held.recv();
            };
            planning.run(Instant::now(), work).await.unwrap();
        });
        begins.await.unwrap();
        (release, async move { work.await.unwrap() })
    }

    fn in_turn(planning: &Planning, due: Instant) -> InTurn<()> {
        InTurn::new(Arc::clone(&planning.turns), due, async {}.boxed())
    }

    fn is_at_rest(planning: &Planning) -> bool {
        let inner = planning.turns.lock();
        inner.free == 1
            && inner.overlong == 0
            && inner.waiting.is_empty()
            && inner.called.is_empty()
            && inner.polled.is_empty()
    }

    #[tokio::test]
    async fn who_is_due_first_is_planned_first() {
        let planning = one_turn();
        let now = Instant::now();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (release, hog) = hog(&planning).await;
        let works: Vec<_> = [30, 10, 20]
            .into_iter()
            .map(|due| {
                let (planning, order) = (planning.clone(), Arc::clone(&order));
                tokio::spawn(async move {
                    let work = async move { order.lock().unwrap().push(due) };
                    let due = now + Duration::from_secs(due);
                    planning.run(due, work).await.unwrap();
                })
            })
            .collect();
        // The hog may lose its turn before all have come: only who waits can be passed.
        let mut early = Vec::new();
        while planning.turns.lock().waiting.len() + early.len() < 3 {
            tokio::task::yield_now().await;
            early.clone_from(&order.lock().unwrap());
        }
        drop(release);
        hog.await;
        join_all(works).await;
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 3);
        assert!(order[early.len()..].is_sorted(), "{early:?}: {order:?}");
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn who_waits_for_something_else_holds_nobody_up() {
        let planning = one_turn();
        let (answer, question) = oneshot::channel();
        let waits = planning.run(Instant::now(), question);
        let mut waits = std::pin::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(planning.run(later, async { 1 }).await, Ok(1));
        answer.send(2).unwrap();
        assert_eq!(waits.await, Ok(Ok(2)));
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn a_monster_keeps_its_thread_and_loses_its_turn() {
        let planning = one_turn();
        let (release, hog) = hog(&planning).await;
        assert_eq!(planning.run(Instant::now(), async { 1 }).await, Ok(1));
        assert_eq!(planning.turns.lock().overlong, 1);
        drop(release);
        hog.await;
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_turn_along() {
        let planning = one_turn();
        let now = Instant::now();
        let waker = Waker::noop();
        let mut context = Context::from_waker(waker);
        let (mut first, mut second) = (in_turn(&planning, now), in_turn(&planning, now));
        let held = planning.turns.take((now, 0), waker).unwrap();
        assert!(first.poll_unpin(&mut context).is_pending());
        assert!(second.poll_unpin(&mut context).is_pending());
        drop(held);
        assert!(planning.turns.lock().called.contains(&first.place));
        drop(first);
        assert!(planning.turns.lock().called.contains(&second.place));
        assert!(second.poll_unpin(&mut context).is_ready());
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn a_panic_gives_its_turn_back() {
        let planning = one_turn();
        let panics = planning.run(Instant::now(), async { panic!("on purpose") });
        let failure = panics.await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal);
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn what_costs_less_and_what_counts_more_is_due_earlier() {
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        let planning = one_turn();
        let begin = Instant::now();
        let dues = [
            planning.due(seconds(1.0), 100),
            planning.due(None, 0),
            planning.due(seconds(1.0), 10),
            planning.due(seconds(1.0), 0),
            planning.due(seconds(1.0), -10),
            planning.due(seconds(3600.0), 0),
        ];
        assert!(dues.is_sorted(), "{dues:?}");
        assert!(dues[5] <= begin.max(Instant::now()) + LONGEST_DELAY);
        let fair = Planning::start(1, Policy::Fair).unwrap();
        let due = fair.due(seconds(1.0), 0);
        assert!(due <= Instant::now());
    }
}
