//! The workers as the scheduler knows them: the pool of all workers, which of them are avoided, and where tasks find free
//! slots.

pub(crate) mod health;
pub(crate) mod placement;
pub(crate) mod pool;
