//! The scheduler as a whole: single situations, shares, stops, absences, restarts, and random histories checked by a model of the workers.

mod absence;
pub(crate) mod model;
mod properties;
mod restarts;
mod scheduling;
mod shares;
mod stops;
