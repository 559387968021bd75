//! Where tasks run: the workers of one placement, ordered by their free slots.
//!
//! A task goes to the worker with the most free slots; among equals to the worker that holds most of the task's input,
//! then to the worker with the fewest bytes to read. Workers that it avoids get it only where there are no others. The
//! task takes as many slots as it asks for, but never more than the worker has. All choices are logarithmic in the number
//! of workers.
//!
//! Each lane has its own view of a worker's slots: a slot is free for a lane unless an attempt of that lane or of an
//! earlier lane has taken it. So short attempts find slots on a worker that is full of long ones, whose threads give
//! way.
//!
//! Of tasks that start together either all are placed or none. If the pool could never hold them, or they have waited
//! long enough, they share slots with other attempts as soon as any slot is free, of workers that they do not avoid; so no
//! task waits for ever for slots that may never be free together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use squadron_proto::WorkerId;
use squadron_proto::control::Lane;

/// How many holders of input are checked for one choice.
const MAX_HOLDERS_CHECKED: usize = 16;

/// How many workers are checked for one with free slots when only attempts of one lane count.
const MAX_WORKERS_CHECKED: usize = 16;

/// What a task asks of a worker, or its attempt takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) slots: u32,
    /// Estimated bytes to read.
    pub(crate) bytes: u64,
    pub(crate) lane: Lane,
}

/// Which workers are better or worse for a task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Preferences<'a> {
    /// The workers that hold its input, the most bytes first.
    pub(crate) holders: &'a [WorkerId],
    /// The workers that cannot read its input: they get it only where no other accepts tasks.
    pub(crate) cut_off: &'a [WorkerId],
    /// The workers on which it was tried: they get it only where no other accepts tasks that can read its input.
    pub(crate) tried: &'a [WorkerId],
    /// The workers that get it only where no other accepts tasks but those that are unwanted for the reasons above.
    pub(crate) avoided: &'a [WorkerId],
}

/// The worker for a task, and how many slots the task takes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) worker: WorkerId,
    pub(crate) slots: u32,
}

/// The workers of one placement, and their slots.
#[derive(Debug, Default)]
pub(crate) struct SlotPool {
    workers: HashMap<WorkerId, WorkerSlots>,
    views: [View; Lane::ALL.len()],
    /// How many workers that accept tasks there are of each number of slots.
    sizes: BTreeMap<u32, usize>,
    total_slots: u64,
    memory_bytes: u64,
}

/// The slots of all workers as one lane sees them.
#[derive(Debug, Default)]
struct View {
    /// Workers that accept tasks; most free slots first, then fewest bytes.
    by_free: BTreeSet<(Reverse<i64>, u64, WorkerId)>,
    /// Workers that accept tasks and of which the lane finds no slot taken; largest first.
    idle: BTreeSet<(Reverse<u32>, WorkerId)>,
    free_slots: u64,
}

/// One worker's slots, and what its attempts take of them.
#[derive(Clone, Copy, Debug)]
struct WorkerSlots {
    slots: u32,
    memory_bytes: u64,
    /// The slots taken by the attempts of each lane. May exceed `slots`: parked attempts that resume take their slots,
    /// free or not.
    used: [u32; Lane::ALL.len()],
    attempts: u32,
    /// Estimated bytes that its attempts read.
    bytes: u64,
    accepts_tasks: bool,
}

fn lane_index(lane: Lane) -> usize {
    lane.number() as usize
}

impl Preferences<'_> {
    fn avoids(&self, worker: WorkerId) -> bool {
        [self.cut_off, self.tried, self.avoided]
            .iter()
            .any(|unwanted| unwanted.contains(&worker))
    }
}

impl WorkerSlots {
    /// The slots that attempts of this lane find taken.
    fn taken(&self, lane: Lane) -> u32 {
        self.used[..=lane_index(lane)].iter().sum()
    }

    /// Whether the demand fits if only attempts of its own lane count.
    fn has_room_in_lane(&self, demand: Demand) -> bool {
        let used = self.used[lane_index(demand.lane)];
        used == 0 || used + demand.slots <= self.slots
    }

    fn free(&self, lane: Lane) -> i64 {
        i64::from(self.slots) - i64::from(self.taken(lane))
    }
}

impl View {
    fn insert(&mut self, worker: WorkerId, entry: WorkerSlots, lane: Lane) {
        let free = entry.free(lane);
        self.by_free.insert((Reverse(free), entry.bytes, worker));
        if entry.taken(lane) == 0 {
            self.idle.insert((Reverse(entry.slots), worker));
        }
        self.free_slots += u64::try_from(free).unwrap_or(0);
    }

    fn remove(&mut self, worker: WorkerId, entry: WorkerSlots, lane: Lane) {
        let free = entry.free(lane);
        self.by_free.remove(&(Reverse(free), entry.bytes, worker));
        if entry.taken(lane) == 0 {
            self.idle.remove(&(Reverse(entry.slots), worker));
        }
        self.free_slots -= u64::try_from(free).unwrap_or(0);
    }
}

impl SlotPool {
    /// Adds a worker with its slots, at least one.
    pub(crate) fn join(&mut self, worker: WorkerId, slots: u32, memory_bytes: u64) {
        let entry = WorkerSlots {
            slots,
            memory_bytes,
            used: [0; Lane::ALL.len()],
            attempts: 0,
            bytes: 0,
            accepts_tasks: true,
        };
        self.workers.insert(worker, entry);
        self.add_to_index(worker, entry);
    }

    /// The worker accepts no more tasks; its attempts go on.
    pub(crate) fn withdraw(&mut self, worker: WorkerId) {
        self.update(worker, |entry| entry.accepts_tasks = false);
    }

    /// The worker accepts tasks again.
    pub(crate) fn readmit(&mut self, worker: WorkerId) {
        self.update(worker, |entry| entry.accepts_tasks = true);
    }

    /// Removes a worker.
    pub(crate) fn leave(&mut self, worker: WorkerId) {
        self.withdraw(worker);
        self.workers.remove(&worker);
    }

    /// Takes slots, whether they are free or not.
    pub(crate) fn take_slots(&mut self, worker: WorkerId, demand: Demand) {
        self.update(worker, |entry| {
            entry.used[lane_index(demand.lane)] += demand.slots;
            entry.attempts += 1;
            entry.bytes += demand.bytes;
        });
    }

    /// Gives slots back.
    pub(crate) fn release_slots(&mut self, worker: WorkerId, demand: Demand) {
        self.update(worker, |entry| {
            let used = &mut entry.used[lane_index(demand.lane)];
            debug_assert!(*used >= demand.slots, "slots of {worker} given back twice");
            *used = used.saturating_sub(demand.slots);
            entry.attempts = entry.attempts.saturating_sub(1);
            entry.bytes = entry.bytes.saturating_sub(demand.bytes);
        });
    }

    /// How many slots of a worker are taken, and by how many attempts.
    pub(crate) fn load(&self, worker: WorkerId) -> (u32, u32) {
        self.workers
            .get(&worker)
            .map_or((0, 0), |entry| (entry.taken(Lane::Long), entry.attempts))
    }

    /// How many workers accept tasks.
    pub(crate) fn open_workers(&self) -> usize {
        self.view(Lane::Long).by_free.len()
    }

    /// How many slots these workers have, taken or not.
    pub(crate) fn total_slots(&self) -> u64 {
        self.total_slots
    }

    /// How many slots attempts of this lane find free.
    pub(crate) fn free_slots(&self, lane: Lane) -> u64 {
        self.view(lane).free_slots
    }

    fn view(&self, lane: Lane) -> &View {
        &self.views[lane_index(lane)]
    }

    /// The memory of the workers that accept tasks.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The memory of a worker, whether it accepts tasks or not.
    pub(crate) fn memory_of(&self, worker: WorkerId) -> u64 {
        self.workers.get(&worker).map_or(0, |entry| entry.memory_bytes)
    }

    /// The part of `bytes` that falls to a worker, by its part of all memory.
    pub(crate) fn memory_part(&self, worker: WorkerId, bytes: u64) -> u64 {
        let own = self.memory_of(worker);
        let part = u128::from(bytes) * u128::from(own) / u128::from(self.memory_bytes.max(own).max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Whether some worker accepts tasks and is not among those that the preferences avoid.
    pub(crate) fn leaves_worker(&self, wish: Preferences<'_>) -> bool {
        let mut open = self.view(Lane::Long).by_free.iter();
        open.any(|(_, _, worker)| !wish.avoids(*worker))
    }

    /// Whether no worker accepts tasks.
    pub(crate) fn is_empty(&self) -> bool {
        self.open_workers() == 0
    }

    /// Whether an attempt of this lane finds no slot taken on any worker that accepts tasks.
    pub(crate) fn is_idle(&self, lane: Lane) -> bool {
        self.view(lane).idle.len() == self.view(lane).by_free.len()
    }

    /// Finds and takes a place for one task. `may_oversubscribe`: as soon as any slot is free of a worker that it does not
    /// avoid, the task may share slots with other attempts.
    pub(crate) fn place(&mut self, demand: Demand, wish: Preferences<'_>, may_oversubscribe: bool) -> Option<Place> {
        let wish = self.satisfiable(wish);
        let worker = match self.choose(demand, wish) {
            Some(worker) => worker,
            None if may_oversubscribe => self.partly_free(demand.lane, wish)?,
            None => return None,
        };
        Some(self.assign(worker, demand))
    }

    /// Whether slots are free for a task, though on no worker where it may run: it was tried there, or cannot read its
    /// input.
    pub(crate) fn has_room_for_others(&self, demand: Demand, wish: Preferences<'_>) -> bool {
        let wish = self.satisfiable(wish);
        let others = Preferences {
            tried: &[],
            cut_off: &[],
            ..wish
        };
        let has_room = |wish| self.partly_free(demand.lane, wish).is_some();
        !has_room(wish) && has_room(others)
    }

    /// Finds and takes a place of slots that no attempt of any lane has taken, on a worker that is not unwanted.
    pub(crate) fn place_idle(&mut self, demand: Demand, wish: Preferences<'_>) -> Option<Place> {
        let lane = Lane::Long;
        let worker = self.choose(Demand { lane, ..demand }, wish)?;
        Some(self.assign(worker, demand))
    }

    /// Finds and takes places for tasks of one lane that start together: for all of them, or for none. See
    /// [`SlotPool::place`].
    pub(crate) fn place_together(
        &mut self,
        demands: &[Demand],
        wish: Preferences<'_>,
        may_oversubscribe: bool,
    ) -> Option<Vec<Place>> {
        let wish = self.satisfiable(wish);
        let lane = demands.first()?.lane;
        let free_slots = self.free_slots(lane);
        if free_slots == 0 {
            return None;
        }
        let largest = self.sizes.last_key_value().map_or(0, |(slots, _)| *slots);
        let needed: u64 = demands.iter().map(|demand| u64::from(demand.slots.min(largest))).sum();
        if needed <= free_slots
            && let Some(places) = self.place_all(demands, wish)
        {
            return Some(places);
        }
        if !may_oversubscribe && needed <= self.total_slots && !self.is_idle(lane) {
            return None;
        }
        demands
            .iter()
            .map(|demand| {
                let worker = self.choose(*demand, wish).or_else(|| self.least_loaded(lane, wish))?;
                Some(self.assign(worker, *demand))
            })
            .collect()
    }

    fn place_all(&mut self, demands: &[Demand], wish: Preferences<'_>) -> Option<Vec<Place>> {
        let mut places = Vec::with_capacity(demands.len());
        for demand in demands {
            match self.choose(*demand, wish) {
                Some(worker) => places.push(self.assign(worker, *demand)),
                None => {
                    self.release_all(&places, demands);
                    return None;
                }
            }
        }
        Some(places)
    }

    fn release_all(&mut self, places: &[Place], demands: &[Demand]) {
        for (place, demand) in places.iter().zip(demands) {
            let slots = place.slots;
            self.release_slots(place.worker, Demand { slots, ..*demand });
        }
    }

    /// Finds and takes places for tasks of one lane, for all of them or for none, as if only attempts of that lane took
    /// slots.
    pub(crate) fn place_in_lane(&mut self, demands: &[Demand], wish: Preferences<'_>) -> Option<Vec<Place>> {
        let wish = self.satisfiable(wish);
        let mut places: Vec<Place> = Vec::with_capacity(demands.len());
        for demand in demands {
            let least_loaded = self.view(demand.lane).by_free.iter();
            let mut least_loaded = least_loaded.take(MAX_WORKERS_CHECKED);
            let room = least_loaded.find(|&&(_, _, worker)| {
                let entry = self.workers.get(&worker).filter(|_| !wish.avoids(worker));
                entry.is_some_and(|entry| entry.has_room_in_lane(*demand))
            });
            match room.map(|&(_, _, worker)| worker) {
                Some(worker) => places.push(self.assign(worker, *demand)),
                None => {
                    self.release_all(&places, demands);
                    return None;
                }
            }
        }
        Some(places)
    }

    /// As much of the preferences as leaves a worker.
    fn satisfiable<'a>(&self, wish: Preferences<'a>) -> Preferences<'a> {
        let without_avoided = Preferences { avoided: &[], ..wish };
        let without_tried = Preferences {
            tried: &[],
            ..without_avoided
        };
        let without_cut_off = Preferences { cut_off: &[], ..wish };
        let mut possible = [wish, without_avoided, without_tried, without_cut_off].into_iter();
        let possible = possible.find(|wish| self.leaves_worker(*wish));
        possible.unwrap_or(Preferences {
            holders: wish.holders,
            ..Preferences::default()
        })
    }

    /// A worker with as many free slots as asked for, or a smaller one of which no slot is taken.
    fn choose(&self, demand: Demand, wish: Preferences<'_>) -> Option<WorkerId> {
        let view = self.view(demand.lane);
        let mut by_free = view.by_free.iter().filter(|(_, _, worker)| !wish.avoids(*worker));
        let &(Reverse(free), _, most_free) = by_free.next()?;
        if free < i64::from(demand.slots) {
            let mut idle = view.idle.iter().map(|&(_, worker)| worker);
            return idle.find(|&worker| !wish.avoids(worker));
        }
        let is_equal = |worker: &WorkerId| {
            self.workers
                .get(worker)
                .is_some_and(|entry| entry.accepts_tasks && entry.free(demand.lane) == free && !wish.avoids(*worker))
        };
        let holder = wish.holders.iter().take(MAX_HOLDERS_CHECKED).copied().find(is_equal);
        Some(holder.unwrap_or(most_free))
    }

    fn least_loaded(&self, lane: Lane, wish: Preferences<'_>) -> Option<WorkerId> {
        let mut by_free = self.view(lane).by_free.iter().map(|&(_, _, worker)| worker);
        by_free.find(|&worker| !wish.avoids(worker))
    }

    /// The least loaded worker, if any of its slots is free: a full worker refuses the task.
    fn partly_free(&self, lane: Lane, wish: Preferences<'_>) -> Option<WorkerId> {
        let worker = self.least_loaded(lane, wish)?;
        self.workers.get(&worker).filter(|entry| entry.free(lane) > 0)?;
        Some(worker)
    }

    fn assign(&mut self, worker: WorkerId, demand: Demand) -> Place {
        let limit = self.workers.get(&worker).map_or(demand.slots, |entry| entry.slots);
        let slots = demand.slots.min(limit);
        self.take_slots(worker, Demand { slots, ..demand });
        Place { worker, slots }
    }

    fn update(&mut self, worker: WorkerId, change: impl FnOnce(&mut WorkerSlots)) {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let was = *entry;
        change(entry);
        let is = *entry;
        if was.accepts_tasks && is.accepts_tasks && was.slots == is.slots {
            // The usual case: of slots, only the attempt's lane and later lanes see the change.
            for (view, lane) in self.views.iter_mut().zip(Lane::ALL) {
                if was.taken(lane) != is.taken(lane) || was.bytes != is.bytes {
                    view.remove(worker, was, lane);
                    view.insert(worker, is, lane);
                }
            }
            return;
        }
        self.remove_from_index(worker, was);
        self.add_to_index(worker, is);
    }

    fn add_to_index(&mut self, worker: WorkerId, entry: WorkerSlots) {
        if !entry.accepts_tasks {
            return;
        }
        for (view, lane) in self.views.iter_mut().zip(Lane::ALL) {
            view.insert(worker, entry, lane);
        }
        *self.sizes.entry(entry.slots).or_default() += 1;
        self.total_slots += u64::from(entry.slots);
        self.memory_bytes = self.memory_bytes.saturating_add(entry.memory_bytes);
    }

    fn remove_from_index(&mut self, worker: WorkerId, entry: WorkerSlots) {
        if !entry.accepts_tasks {
            return;
        }
        for (view, lane) in self.views.iter_mut().zip(Lane::ALL) {
            view.remove(worker, entry, lane);
        }
        if let Some(count) = self.sizes.get_mut(&entry.slots) {
            *count -= 1;
            if *count == 0 {
                self.sizes.remove(&entry.slots);
            }
        }
        self.total_slots -= u64::from(entry.slots);
        self.memory_bytes = self.memory_bytes.saturating_sub(entry.memory_bytes);
    }
}

#[cfg(test)]
mod tests;
