//! Where values came from, for messages.

use std::collections::BTreeMap;

/// For each flag (without dashes) that was not typed: the variable or the key of the configuration file that gave it.
pub(super) type Origins = BTreeMap<String, String>;
