//! The scheduler as a whole: single situations, shares, stops, absences, recovery, avoided workers, second attempts, and random histories checked by a model of the workers.

mod absence;
mod avoidance;
pub(crate) mod model;
mod properties;
mod recovery;
mod scheduling;
mod shares;
mod speculation;
mod stops;
