//! The workers as the scheduler knows them: who there is, and where tasks find free slots.

pub(crate) mod placement;
pub(crate) mod pool;
