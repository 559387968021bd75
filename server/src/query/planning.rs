//! Where statements are planned: on threads of their own, a few at a time, the most important first.
//!
//! ```text
//! work ──> waits for its turn ──> polled ──┬─ waits for I/O: its turn is over, and it comes back when it can go on
//!                                          └─ done
//! ```
//!
//! As in admission the highest priority comes first, then who came first. Turns are for processor time alone: nobody holds one
//! while it waits for a store. Work that does not give its turn back within [`PATIENCE`] keeps its thread and loses its turn, so
//! that a monster of a statement does not hold up those that are planned in a millisecond.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use datafusion::error::Result as DataFusionResult;
use futures::FutureExt;
use futures::future::BoxFuture;
use squadron_proto::{Failure, FailureKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, Interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::sql::planning_errors::planning_failure;

/// How long work may keep its turn while others wait.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many may have lost their turn and work on: threads beyond those that have one.
const OVERLONG: usize = 8;
/// Planning recurses with the nesting of a statement; what is not touched of a stack costs address space alone.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Plans statements. Clones share the threads, which end with the last of them.
#[derive(Clone, Debug)]
pub struct Planning {
    threads: Arc<Threads>,
    turns: Arc<Turns>,
}

impl Planning {
    /// Lets `turns` statements be planned at once.
    ///
    /// # Errors
    /// `Exhausted` when no threads can be had.
    pub fn start(turns: usize) -> Result<Self, Failure> {
        Ok(Self {
            threads: Arc::new(Threads::start(turns.max(1) + OVERLONG)?),
            turns: Arc::new(Turns::new(turns.max(1))),
        })
    }

    /// Does the work when its turns come. Dropping the future ends it where it waits next.
    ///
    /// # Errors
    /// That of the work as its client is told it, `Internal` when it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        priority: i32,
        work: impl Future<Output = DataFusionResult<T>> + Send + 'static,
    ) -> Result<T, Failure> {
        let in_turn = InTurn::new(Arc::clone(&self.turns), priority, work.boxed());
        let task = self.threads.handle().spawn(in_turn.in_current_span());
        match AbortOnDropHandle::new(task).await {
            Ok(outcome) => outcome.map_err(|error| planning_failure(&error)),
            Err(error) => Err(Failure::internal(format!("planning ended early: {error}"))),
        }
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

/// The priority of work, and how much came before it; the smallest is next.
type Place = (Reverse<i32>, u64);

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

    fn place(&self, priority: i32) -> Place {
        let mut inner = self.lock();
        inner.numbers += 1;
        (Reverse(priority), inner.numbers)
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
    /// A turn is to be had: calls whoever is first.
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
    fn new(turns: Arc<Turns>, priority: i32, work: BoxFuture<'static, T>) -> Self {
        Self {
            place: turns.place(priority),
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

    use datafusion::common::runtime::SpawnedTask;
    use futures::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    fn one_turn() -> Planning {
        Planning::start(1).unwrap()
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
        InTurn::new(Arc::clone(&planning.turns), 0, async {}.boxed())
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
    async fn the_most_important_is_planned_first_then_who_came_first() {
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
        // The hog may have lost its turn before all had come: only who waits can be passed.
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
    async fn who_waits_for_something_else_holds_nobody_up() {
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
    async fn a_monster_keeps_its_thread_and_loses_its_turn() {
        let planning = one_turn();
        let (release, hog) = hog(&planning).await;
        assert_eq!(planning.run(0, async { Ok(1) }).await, Ok(1));
        assert_eq!(planning.turns.lock().overlong, 1);
        drop(release);
        hog.await;
        assert!(is_at_rest(&planning));
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_turn_along() {
        let planning = one_turn();
        let waker = Waker::noop();
        let mut context = Context::from_waker(waker);
        let (mut first, mut second) = (in_turn(&planning), in_turn(&planning));
        let held = planning.turns.take((Reverse(0), 0), waker).unwrap();
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
        let panics = planning.run::<()>(0, async { panic!("on purpose") });
        let failure = panics.await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Internal);
        assert!(is_at_rest(&planning));
    }
}
