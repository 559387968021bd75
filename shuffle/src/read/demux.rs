//! Distributes the batches of a few Flight streams to the partitions of one read node.
//!
//! ```text
//! stream of address A --driver--.     .--> queue of partition 0 --> RemotePartition
//! stream of address B --driver--+-----+--> queue of partition 1 --> RemotePartition
//!                                      `--> ...
//! ```
//!
//! The partitions of a node may be read at any speed and in any order, one to its end before the next is begun. Two
//! rules for drivers make sure that this neither blocks nor fills the memory:
//!
//! - a driver reads from the network while any partition is *hungry* (polled and empty), else only while the fetched
//!   bytes in memory are below the budget;
//! - a batch for a partition that is not hungry goes to disk when the budget is used up or the memory pool is full.
//!
//! A partition ends when all its producers have ended it; a driver that ends early fails all partitions.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::physical_plan::metrics::Count;
use futures::{FutureExt, StreamExt};
use squadron_proto::Failure;
use squadron_proto::ticket::Fetch;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::decode::{Packet, schema};
use crate::fetch::{Fetched, Fetcher};
use crate::store::{Block, Charge, MemoryStore, SpillFile, Store};

/// One Flight stream: the outputs to fetch from one address.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) address: String,
    pub(super) fetch: Fetch,
}

/// The streams and their queues. The last [`RemotePartition`] drops it, which stops the streams and frees the queues.
pub(super) struct Demux {
    shared: Arc<Shared>,
    fetcher: Fetcher,
    idle: Mutex<Vec<Source>>,
    drivers: Mutex<JoinSet<()>>,
}

struct Shared {
    schema: SchemaRef,
    budget_bytes: usize,
    memory: Arc<MemoryStore>,
    spill: Arc<SpillFile>,
    state: Mutex<State>,
    /// Notified when drivers may be allowed to read on.
    demand: Notify,
}

#[derive(Default)]
struct State {
    queues: HashMap<u32, Queue>,
    hungry: usize,
    buffered_bytes: usize,
    failure: Option<Failure>,
}

/// The batches that have arrived for one partition and were not read yet.
#[derive(Default)]
struct Queue {
    arrivals: VecDeque<Arrival>,
    /// How many outputs have not ended this partition.
    open: usize,
    hungry: bool,
    closed: bool,
    waker: Option<Waker>,
}

/// One batch, and the schema of its stream.
struct Arrival {
    sent: SchemaRef,
    place: Place,
}

enum Place {
    Memory {
        packet: Packet,
        /// Held for its drop.
        _charge: Charge,
    },
    Disk(Block),
}

/// Where an arriving packet goes.
enum Destination {
    Memory(Place),
    Disk(Packet),
    Nowhere,
}

impl Demux {
    pub(super) fn new(fetcher: &Fetcher, store: &Store, schema: SchemaRef, sources: Vec<Source>) -> Self {
        let mut state = State::default();
        let outputs = sources.iter().flat_map(|source| &source.fetch.outputs);
        for partition in outputs.flat_map(|output| &output.partitions) {
            state.queues.entry(*partition).or_default().open += 1;
        }
        Self {
            shared: Arc::new(Shared {
                schema,
                budget_bytes: fetcher.budget_bytes(),
                memory: Arc::clone(store.memory()),
                spill: store.spill_file(),
                state: Mutex::new(state),
                demand: Notify::new(),
            }),
            fetcher: fetcher.clone(),
            idle: Mutex::new(sources),
            drivers: Mutex::default(),
        }
    }

    /// Starts the drivers, on the first call.
    fn start(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        if idle.is_empty() {
            return;
        }
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        for source in idle {
            let driver = drive(self.fetcher.clone(), Arc::clone(&self.shared), source);
            drivers.spawn_on(driver, self.fetcher.io());
        }
    }
}

impl fmt::Debug for Demux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demux").finish_non_exhaustive()
    }
}

async fn drive(fetcher: Fetcher, shared: Arc<Shared>, source: Source) {
    // However a driver ends, also by a panic, the partitions get its outcome.
    let mut outcome = Outcome {
        shared: &shared,
        result: Err(Failure::internal("a fetch stopped without a reason")),
    };
    outcome.result = transfer(&fetcher, &shared, source).await;
}

struct Outcome<'a> {
    shared: &'a Shared,
    result: Result<(), Failure>,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if let Err(failure) = &self.result {
            self.shared.fail(failure);
        }
    }
}

async fn transfer(fetcher: &Fetcher, shared: &Arc<Shared>, source: Source) -> Result<(), Failure> {
    let mut stream = fetcher.open(&source.address, source.fetch).await?;
    let mut sent = SchemaRef::clone(&shared.schema);
    let mut packet = Packet::default();
    loop {
        shared.wait_for_demand().await;
        match stream.next().await.transpose()? {
            Some(Fetched::Schema(data)) => sent = schema(&data)?,
            Some(Fetched::Frame(tag, data)) => {
                if packet.push(data)? {
                    let packet = std::mem::take(&mut packet);
                    shared.deliver(tag.partition, &sent, packet).await?;
                }
            }
            Some(Fetched::End(tag)) if packet.is_empty() => shared.end(tag.partition),
            Some(Fetched::End(_)) => {
                return Err(Failure::internal("a partition ended within a batch"));
            }
            None => return Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for_demand(&self) {
        loop {
            let demand = self.demand.notified();
            tokio::pin!(demand);
            // From here on no notification is missed.
            demand.as_mut().enable();
            {
                let state = self.lock();
                if state.hungry > 0 || state.buffered_bytes < self.budget_bytes {
                    return;
                }
            }
            demand.await;
        }
    }

    async fn deliver(self: &Arc<Self>, partition: u32, sent: &SchemaRef, packet: Packet) -> Result<(), Failure> {
        let place = match self.place(partition, packet)? {
            Destination::Memory(place) => place,
            Destination::Disk(packet) => {
                let spill = Arc::clone(&self.spill);
                let write = SpawnedTask::spawn_blocking(move || spill.append(&packet.to_bytes()));
                let written = write.await.map_err(Failure::internal)?;
                Place::Disk(written?)
            }
            Destination::Nowhere => return Ok(()),
        };
        let sent = SchemaRef::clone(sent);
        self.lock().arrive(partition, Arrival { sent, place });
        Ok(())
    }

    fn place(&self, partition: u32, packet: Packet) -> Result<Destination, Failure> {
        let bytes = packet.bytes();
        let state = self.lock();
        let queue = state
            .queues
            .get(&partition)
            .ok_or_else(|| Failure::internal(format!("rows of partition {partition}, which nobody reads")))?;
        let charge = if queue.closed {
            return Ok(Destination::Nowhere);
        } else if queue.hungry {
            Some(self.memory.charge(bytes))
        } else if state.buffered_bytes < self.budget_bytes {
            self.memory.try_charge(bytes)
        } else {
            None
        };
        Ok(match charge {
            Some(_charge) => Destination::Memory(Place::Memory { packet, _charge }),
            None => Destination::Disk(packet),
        })
    }

    fn end(&self, partition: u32) {
        let mut state = self.lock();
        if let Some(queue) = state.queues.get_mut(&partition) {
            queue.open -= 1;
            if queue.open == 0 {
                state.wake_reader(partition);
            }
        }
    }

    fn fail(&self, failure: &Failure) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        state.failure = Some(failure.clone());
        for queue in state.queues.values_mut() {
            queue.arrivals.clear();
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }

    fn poll_arrival(&self, partition: u32, cx: &mut Context<'_>) -> Poll<Option<Result<Arrival, Failure>>> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Poll::Ready(Some(Err(failure.clone())));
        }
        let State {
            queues,
            hungry,
            buffered_bytes,
            ..
        } = &mut *state;
        let Some(queue) = queues.get_mut(&partition) else {
            return Poll::Ready(None);
        };
        if let Some(arrival) = queue.arrivals.pop_front() {
            *buffered_bytes -= arrival.memory_bytes();
            self.demand.notify_waiters();
            return Poll::Ready(Some(Ok(arrival)));
        }
        if queue.open == 0 {
            return Poll::Ready(None);
        }
        if !queue.hungry {
            queue.hungry = true;
            *hungry += 1;
            self.demand.notify_waiters();
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends `partition`: its reader is gone, and batches for it are dropped.
    fn close(&self, partition: u32) {
        let mut state = self.lock();
        state.wake_reader(partition);
        if let Some(queue) = state.queues.get_mut(&partition) {
            queue.closed = true;
            let unread = std::mem::take(&mut queue.arrivals);
            let bytes: usize = unread.iter().map(Arrival::memory_bytes).sum();
            state.buffered_bytes -= bytes;
        }
        self.demand.notify_waiters();
    }
}

impl State {
    fn arrive(&mut self, partition: u32, arrival: Arrival) {
        if self.failure.is_some() {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&partition).filter(|queue| !queue.closed) {
            self.buffered_bytes += arrival.memory_bytes();
            queue.arrivals.push_back(arrival);
            self.wake_reader(partition);
        }
    }

    /// Wakes the reader of `partition`, which has a batch or has ended.
    fn wake_reader(&mut self, partition: u32) {
        let Some(queue) = self.queues.get_mut(&partition) else {
            return;
        };
        if std::mem::take(&mut queue.hungry) {
            self.hungry -= 1;
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}

impl Arrival {
    fn memory_bytes(&self) -> usize {
        match &self.place {
            Place::Memory { packet, .. } => packet.bytes(),
            Place::Disk(_) => 0,
        }
    }
}

/// The fetched rows of one partition.
pub(super) struct RemotePartition {
    demux: Arc<Demux>,
    partition: u32,
    loading: Option<SpawnedTask<Result<(Packet, SchemaRef), Failure>>>,
}

impl RemotePartition {
    pub(super) fn new(demux: Arc<Demux>, partition: u32) -> Self {
        Self {
            demux,
            partition,
            loading: None,
        }
    }

    /// Starts the fetch, unless another partition has started it.
    pub(super) fn start(&self) {
        self.demux.start();
    }

    /// The next batch, decoded on the polling thread.
    pub(super) fn poll_batch(
        &mut self,
        fetched_bytes: &Count,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<RecordBatch, Failure>>> {
        let shared = &self.demux.shared;
        loop {
            if let Some(load) = &mut self.loading {
                let loaded = ready!(load.poll_unpin(cx));
                self.loading = None;
                let loaded = loaded.map_err(Failure::internal).flatten();
                return Poll::Ready(Some(loaded.and_then(|(packet, sent)| {
                    fetched_bytes.add(packet.bytes());
                    packet.decode(&sent, &shared.schema)
                })));
            }
            let arrival = match ready!(shared.poll_arrival(self.partition, cx)) {
                Some(Ok(arrival)) => arrival,
                Some(Err(failure)) => return Poll::Ready(Some(Err(failure))),
                None => return Poll::Ready(None),
            };
            match arrival.place {
                Place::Memory { packet, .. } => {
                    fetched_bytes.add(packet.bytes());
                    return Poll::Ready(Some(packet.decode(&arrival.sent, &shared.schema)));
                }
                Place::Disk(block) => {
                    self.loading = Some(SpawnedTask::spawn_blocking(move || {
                        let packet = Packet::from_bytes(block.read()?.into())?;
                        Ok((packet, arrival.sent))
                    }));
                }
            }
        }
    }
}

impl Drop for RemotePartition {
    fn drop(&mut self) {
        self.demux.shared.close(self.partition);
    }
}
