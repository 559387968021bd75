//! Where tasks go: a pool of workers, ordered by what they have free.
//!
//! A task goes to the worker with the most free slots; among equals to the one that holds most of its input, then to the
//! one with the fewest bytes to read. It takes as many slots as it would like, but never more than the worker has. All
//! choices are logarithmic in the number of workers.
//!
//! Each lane of a worker has its own view of the slots: those are free for it that are not taken by attempts of that lane
//! and of the lanes before it. So short attempts find slots on a worker that is full of long ones, whose threads give way.
//!
//! Tasks that start together either all find room, or none is placed, unless the pool could never hold them or they have
//! waited long enough: then they share slots with others, as soon as any slot is free. Nothing waits for ever for room
//! that may never come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use squadron_proto::WorkerId;
use squadron_proto::control::Lane;

/// How many holders of input are looked at for one choice.
const HOLDERS_LOOKED_AT: usize = 16;

/// How many workers are looked at for one that has room in a lane alone.
const WORKERS_LOOKED_AT: usize = 16;

/// What a task wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) slots: u32,
    pub(crate) bytes: u64,
    pub(crate) lane: Lane,
}

/// What a task got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) worker: WorkerId,
    pub(crate) slots: u32,
}

/// Workers of one placement, and their slots.
#[derive(Debug, Default)]
pub(crate) struct SlotPool {
    workers: HashMap<WorkerId, Offer>,
    views: [View; Lane::ALL.len()],
    /// How many offered workers there are of each size.
    sizes: BTreeMap<u32, usize>,
    total_slots: u64,
    memory_bytes: u64,
}

/// The slots as a lane sees them.
#[derive(Debug, Default)]
struct View {
    /// Offered workers; most free slots first, then fewest bytes.
    by_free: BTreeSet<(Reverse<i64>, u64, WorkerId)>,
    /// Offered workers of which no slot is taken; largest first.
    idle: BTreeSet<(Reverse<u32>, WorkerId)>,
    free_slots: u64,
}

#[derive(Clone, Copy, Debug)]
struct Offer {
    slots: u32,
    memory_bytes: u64,
    /// By the attempts of each lane. May exceed `slots`: parked attempts that resume take their slots back unasked.
    used: [u32; Lane::ALL.len()],
    attempts: u32,
    bytes: u64,
    offered: bool,
}

fn index(lane: Lane) -> usize {
    lane.number() as usize
}

impl Offer {
    /// Slots that attempts of this lane find taken.
    fn taken(&self, lane: Lane) -> u32 {
        self.used[..=index(lane)].iter().sum()
    }

    /// Whether the lane of the attempt has room for it, whatever runs in the lanes before.
    fn has_room_beside(&self, want: Want) -> bool {
        let used = self.used[index(want.lane)];
        used == 0 || used + want.slots <= self.slots
    }

    fn free(&self, lane: Lane) -> i64 {
        i64::from(self.slots) - i64::from(self.taken(lane))
    }
}

impl View {
    fn insert(&mut self, worker: WorkerId, offer: Offer, lane: Lane) {
        let free = offer.free(lane);
        self.by_free.insert((Reverse(free), offer.bytes, worker));
        if offer.taken(lane) == 0 {
            self.idle.insert((Reverse(offer.slots), worker));
        }
        self.free_slots += u64::try_from(free).unwrap_or(0);
    }

    fn remove(&mut self, worker: WorkerId, offer: Offer, lane: Lane) {
        let free = offer.free(lane);
        self.by_free.remove(&(Reverse(free), offer.bytes, worker));
        if offer.taken(lane) == 0 {
            self.idle.remove(&(Reverse(offer.slots), worker));
        }
        self.free_slots -= u64::try_from(free).unwrap_or(0);
    }
}

impl SlotPool {
    /// A worker offers its slots, at least one.
    pub(crate) fn join(&mut self, worker: WorkerId, slots: u32, memory_bytes: u64) {
        let offer = Offer {
            slots,
            memory_bytes,
            used: [0; Lane::ALL.len()],
            attempts: 0,
            bytes: 0,
            offered: true,
        };
        self.workers.insert(worker, offer);
        self.index(worker, offer);
    }

    /// A worker takes no more tasks; those it has go on.
    pub(crate) fn withdraw(&mut self, worker: WorkerId) {
        self.change(worker, |offer| offer.offered = false);
    }

    /// A worker is gone.
    pub(crate) fn leave(&mut self, worker: WorkerId) {
        self.withdraw(worker);
        self.workers.remove(&worker);
    }

    /// Slots are taken, whether they are free or not.
    pub(crate) fn take(&mut self, worker: WorkerId, want: Want) {
        self.change(worker, |offer| {
            offer.used[index(want.lane)] += want.slots;
            offer.attempts += 1;
            offer.bytes += want.bytes;
        });
    }

    /// Slots are given back.
    pub(crate) fn give(&mut self, worker: WorkerId, want: Want) {
        self.change(worker, |offer| {
            let used = &mut offer.used[index(want.lane)];
            debug_assert!(*used >= want.slots, "slots of {worker} given back twice");
            *used = used.saturating_sub(want.slots);
            offer.attempts = offer.attempts.saturating_sub(1);
            offer.bytes = offer.bytes.saturating_sub(want.bytes);
        });
    }

    /// How many slots of a worker are taken, and by how many attempts.
    pub(crate) fn load(&self, worker: WorkerId) -> (u32, u32) {
        self.workers
            .get(&worker)
            .map_or((0, 0), |offer| (offer.taken(Lane::Long), offer.attempts))
    }

    /// How many workers offer slots.
    pub(crate) fn offered(&self) -> usize {
        self.view(Lane::Long).by_free.len()
    }

    /// How many slots are offered, taken or not.
    pub(crate) fn total_slots(&self) -> u64 {
        self.total_slots
    }

    /// How many of them attempts of this lane find free.
    pub(crate) fn free_slots(&self, lane: Lane) -> u64 {
        self.view(lane).free_slots
    }

    fn view(&self, lane: Lane) -> &View {
        &self.views[index(lane)]
    }

    /// The memory of the workers that offer slots.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Whether nobody offers slots.
    pub(crate) fn is_empty(&self) -> bool {
        self.offered() == 0
    }

    /// Whether an attempt of this lane would find no slot taken on any worker that offers some.
    pub(crate) fn is_idle(&self, lane: Lane) -> bool {
        self.view(lane).idle.len() == self.view(lane).by_free.len()
    }

    /// Finds and takes a place for one task. `holders`: who has its input, the most bytes first.
    pub(crate) fn place(&mut self, want: Want, holders: &[WorkerId], impatient: bool) -> Option<Place> {
        let worker = match self.choose(want, holders) {
            Some(worker) => worker,
            None if impatient && self.free_slots(want.lane) > 0 => self.least_loaded(want.lane)?,
            None => return None,
        };
        Some(self.take_on(worker, want))
    }

    /// Finds and takes places for tasks of one lane that start together: for all of them, or for none.
    pub(crate) fn place_together(
        &mut self,
        wants: &[Want],
        holders: &[WorkerId],
        impatient: bool,
    ) -> Option<Vec<Place>> {
        let lane = wants.first()?.lane;
        let free_slots = self.free_slots(lane);
        if free_slots == 0 {
            return None;
        }
        let largest = self.sizes.last_key_value().map_or(0, |(slots, _)| *slots);
        let needed: u64 = wants.iter().map(|want| u64::from(want.slots.min(largest))).sum();
        if needed <= free_slots
            && let Some(places) = self.place_all(wants, holders)
        {
            return Some(places);
        }
        if !impatient && needed <= self.total_slots && !self.is_idle(lane) {
            return None;
        }
        wants
            .iter()
            .map(|want| {
                let worker = self.choose(*want, holders).or_else(|| self.least_loaded(lane))?;
                Some(self.take_on(worker, *want))
            })
            .collect()
    }

    fn place_all(&mut self, wants: &[Want], holders: &[WorkerId]) -> Option<Vec<Place>> {
        let mut places = Vec::with_capacity(wants.len());
        for want in wants {
            match self.choose(*want, holders) {
                Some(worker) => places.push(self.take_on(worker, *want)),
                None => {
                    self.give_back(&places, wants);
                    return None;
                }
            }
        }
        Some(places)
    }

    fn give_back(&mut self, places: &[Place], wants: &[Want]) {
        for (place, want) in places.iter().zip(wants) {
            let slots = place.slots;
            self.give(place.worker, Want { slots, ..*want });
        }
    }

    /// Finds and takes places for tasks of one lane, for all of them or for none, where only attempts of that lane count.
    pub(crate) fn place_beside(&mut self, wants: &[Want]) -> Option<Vec<Place>> {
        let mut places: Vec<Place> = Vec::with_capacity(wants.len());
        for want in wants {
            let least_loaded = self.view(want.lane).by_free.iter();
            let mut least_loaded = least_loaded.take(WORKERS_LOOKED_AT);
            let room = least_loaded.find(|&&(_, _, worker)| {
                let offer = self.workers.get(&worker);
                offer.is_some_and(|offer| offer.has_room_beside(*want))
            });
            match room.map(|&(_, _, worker)| worker) {
                Some(worker) => places.push(self.take_on(worker, *want)),
                None => {
                    self.give_back(&places, wants);
                    return None;
                }
            }
        }
        Some(places)
    }

    /// A worker with room for all the slots, or a smaller one that is wholly free.
    fn choose(&self, want: Want, holders: &[WorkerId]) -> Option<WorkerId> {
        let view = self.view(want.lane);
        let &(Reverse(free), _, most_free) = view.by_free.first()?;
        if free < i64::from(want.slots) {
            return view.idle.first().map(|&(_, worker)| worker);
        }
        let is_equal = |worker: &WorkerId| {
            self.workers
                .get(worker)
                .is_some_and(|offer| offer.offered && offer.free(want.lane) == free)
        };
        let holder = holders.iter().take(HOLDERS_LOOKED_AT).copied().find(is_equal);
        Some(holder.unwrap_or(most_free))
    }

    fn least_loaded(&self, lane: Lane) -> Option<WorkerId> {
        let by_free = &self.view(lane).by_free;
        by_free.first().map(|&(_, _, worker)| worker)
    }

    fn take_on(&mut self, worker: WorkerId, want: Want) -> Place {
        let limit = self.workers.get(&worker).map_or(want.slots, |offer| offer.slots);
        let slots = want.slots.min(limit);
        self.take(worker, Want { slots, ..want });
        Place { worker, slots }
    }

    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Offer)) {
        let Some(offer) = self.workers.get_mut(&worker) else {
            return;
        };
        let was = *offer;
        change(offer);
        let is = *offer;
        if was.offered && is.offered && was.slots == is.slots {
            // Most changes: the lanes after that of the attempt see it, those before it do not.
            for (view, lane) in self.views.iter_mut().zip(Lane::ALL) {
                if was.taken(lane) != is.taken(lane) || was.bytes != is.bytes {
                    view.remove(worker, was, lane);
                    view.insert(worker, is, lane);
                }
            }
            return;
        }
        self.unindex(worker, was);
        self.index(worker, is);
    }

    fn index(&mut self, worker: WorkerId, offer: Offer) {
        if !offer.offered {
            return;
        }
        for (view, lane) in self.views.iter_mut().zip(Lane::ALL) {
            view.insert(worker, offer, lane);
        }
        *self.sizes.entry(offer.slots).or_default() += 1;
        self.total_slots += u64::from(offer.slots);
        self.memory_bytes = self.memory_bytes.saturating_add(offer.memory_bytes);
    }

    fn unindex(&mut self, worker: WorkerId, offer: Offer) {
        if !offer.offered {
            return;
        }
        for (view, lane) in self.views.iter_mut().zip(Lane::ALL) {
            view.remove(worker, offer, lane);
        }
        if let Some(count) = self.sizes.get_mut(&offer.slots) {
            *count -= 1;
            if *count == 0 {
                self.sizes.remove(&offer.slots);
            }
        }
        self.total_slots -= u64::from(offer.slots);
        self.memory_bytes = self.memory_bytes.saturating_sub(offer.memory_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId::from_u128(1);
    const B: WorkerId = WorkerId::from_u128(2);
    const C: WorkerId = WorkerId::from_u128(3);

    fn pool(slots: &[(WorkerId, u32)]) -> SlotPool {
        let mut pool = SlotPool::default();
        for &(worker, slots) in slots {
            pool.join(worker, slots, 0);
        }
        pool
    }

    fn want(slots: u32) -> Want {
        Want {
            slots,
            bytes: 0,
            lane: Lane::Short,
        }
    }

    fn workers(places: &[Place]) -> Vec<WorkerId> {
        places.iter().map(|place| place.worker).collect()
    }

    #[test]
    fn tasks_spread_over_the_workers_with_most_free_slots() {
        let mut pool = pool(&[(A, 2), (B, 2)]);
        let places: Vec<_> = (0..4).map(|_| pool.place(want(1), &[], false).unwrap()).collect();
        assert_eq!(workers(&places), [A, B, A, B]);
        assert_eq!(pool.place(want(1), &[], false), None);
        pool.give(B, want(1));
        assert_eq!(pool.place(want(1), &[], false), Some(Place { worker: B, slots: 1 }));
    }

    #[test]
    fn among_equals_bytes_are_balanced_and_input_attracts() {
        let mut pool = pool(&[(A, 4), (B, 4), (C, 4)]);
        let read = |bytes| Want { bytes, ..want(1) };
        assert_eq!(pool.place(read(100), &[], false).unwrap().worker, A);
        assert_eq!(pool.place(read(10), &[], false).unwrap().worker, B);
        assert_eq!(pool.place(read(10), &[], false).unwrap().worker, C);
        assert_eq!(
            pool.place(read(10), &[], false).unwrap().worker,
            B,
            "has the fewest bytes"
        );
        assert_eq!(
            pool.place(read(0), &[B, A, C], false).unwrap().worker,
            A,
            "B has fewer slots free"
        );
    }

    #[test]
    fn a_wide_task_fits_a_small_worker_that_is_wholly_free() {
        let mut pool = pool(&[(A, 4), (B, 2)]);
        pool.take(A, want(1));
        assert_eq!(pool.place(want(4), &[], false), Some(Place { worker: B, slots: 2 }));
        assert_eq!(
            pool.place(want(4), &[], false),
            None,
            "three free of four are not enough"
        );
        assert_eq!(
            pool.place(want(4), &[], true),
            Some(Place { worker: A, slots: 4 }),
            "unless it has waited"
        );
        assert_eq!(pool.place(want(1), &[], true), None, "but never where no slot is free");
    }

    #[test]
    fn tasks_that_start_together_get_all_or_nothing() {
        let mut pool = pool(&[(A, 2), (B, 2)]);
        pool.take(A, want(1));
        assert_eq!(pool.place_together(&[want(2), want(2)], &[], false), None);
        assert_eq!((pool.load(A), pool.load(B)), ((1, 1), (0, 0)), "nothing is kept");
        pool.give(A, want(1));
        let places = pool.place_together(&[want(2), want(2)], &[], false).unwrap();
        assert_eq!(workers(&places), [A, B]);
    }

    #[test]
    fn tasks_that_never_fit_share_slots() {
        let mut pool = pool(&[(A, 1), (B, 1)]);
        let places = pool.place_together(&[want(1); 5], &[], false).unwrap();
        assert_eq!(workers(&places), [A, B, A, B, A]);
        assert_eq!(pool.place_together(&[want(1)], &[], true), None, "no slot is free");
    }

    #[test]
    fn tasks_that_fit_by_number_alone_start_on_an_idle_pool() {
        let mut pool = pool(&[(A, 5), (B, 4)]);
        assert_eq!(pool.place_together(&[want(3); 3], &[], false).unwrap().len(), 3);
    }

    #[test]
    fn a_lane_sees_what_it_and_those_before_it_have_taken() {
        let mut pool = pool(&[(A, 2)]);
        let of = |lane, slots| Want { lane, ..want(slots) };
        assert!(pool.place(of(Lane::Long, 2), &[], false).is_some());
        let free = |pool: &SlotPool| Lane::ALL.map(|lane| pool.free_slots(lane));
        assert_eq!(free(&pool), [2, 2, 0]);
        assert!(pool.place(of(Lane::Short, 2), &[], false).is_some());
        assert_eq!(free(&pool), [0, 0, 0]);
        assert_eq!(pool.load(A), (4, 2));
        pool.give(A, of(Lane::Long, 2));
        assert_eq!(free(&pool), [0, 0, 0], "those before it are counted");
        assert!(!pool.is_idle(Lane::Short));
        pool.give(A, of(Lane::Short, 2));
        assert_eq!(free(&pool), [2, 2, 2]);
        assert!(pool.is_idle(Lane::Long));
    }

    #[test]
    fn who_is_rescued_finds_the_slots_of_its_lane_beside_those_taken_before_it() {
        let mut pool = pool(&[(A, 2), (B, 2)]);
        let of = |lane, slots| Want { lane, ..want(slots) };
        let fills_short = [of(Lane::Short, 2); 2];
        assert!(pool.place_together(&fills_short, &[], false).is_some());
        let long = of(Lane::Long, 3);
        assert_eq!(pool.place(long, &[], true), None);
        let places = pool.place_beside(&[long]).unwrap();
        assert_eq!(places[0].slots, 2);
        assert_eq!(pool.place_beside(&[long, long]), None, "one lane is free");
        assert_eq!(pool.place_beside(&[long]).unwrap().len(), 1);
        assert_eq!(pool.place_beside(&[of(Lane::Long, 1)]), None);
        assert!(pool.place_beside(&[of(Lane::Medium, 1); 4]).is_some());
    }

    #[test]
    fn a_worker_that_leaves_gets_nothing_more() {
        let mut pool = pool(&[(A, 1), (B, 1)]);
        pool.take(A, want(1));
        pool.withdraw(A);
        pool.give(A, want(1));
        assert_eq!(pool.place(want(1), &[A], false).unwrap().worker, B);
        assert_eq!(pool.place(want(1), &[A], true), None);
        pool.leave(B);
        assert!(pool.is_empty());
    }
}
