//! The workers as the scheduler knows them: the pool of all workers, and where tasks find free slots.

pub(crate) mod placement;
pub(crate) mod pool;
