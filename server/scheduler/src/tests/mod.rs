//! The scheduler as a whole: single situations, shares, stops, and random histories checked by a model of the workers.

pub(crate) mod model;
mod properties;
mod scheduling;
mod shares;
mod stops;
