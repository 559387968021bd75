//! What of a part of a result has gone to its client, so that another attempt at the part can go on from there.
//!
//! Whether another attempt gives the same rows in the same order is not guessed from its plan but seen: of each partition
//! the number of messages that were forwarded is kept, with a hash of all their bytes. The messages of the other attempt
//! are compared with that, and not forwarded again. If they are the same, all rows that the client has are those of this
//! attempt, which goes on; its own inputs are as they were, or else the part is void and not read again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};

use arrow_flight::FlightData;
use foldhash::quality::FixedState;

/// The messages of a part that were forwarded, and those of another attempt that were compared with them.
#[derive(Debug, Default)]
pub(super) struct Delivered(BTreeMap<u32, Prefix>);

/// The first messages of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Messages {
    count: u64,
    hash: u64,
}

#[derive(Debug, Default)]
struct Prefix {
    /// Those of the attempt that is read.
    read: Messages,
    /// Those that were forwarded, while another attempt has not given as many.
    forwarded: Option<Messages>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Forward,
    /// The client has it.
    Skip,
    /// The client has other messages in this place.
    Differs,
}

impl Delivered {
    /// Whether the client has anything of the part.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the attempt that is read has not given all that the client has.
    pub(super) fn is_behind(&self) -> bool {
        self.0.values().any(|prefix| prefix.forwarded.is_some())
    }

    /// Another attempt is read from its start.
    pub(super) fn start_again(&mut self) {
        for prefix in self.0.values_mut() {
            prefix.forwarded.get_or_insert(prefix.read);
            prefix.read = Messages::default();
        }
    }

    /// Takes the next message of a partition.
    pub(super) fn take(&mut self, partition: u32, message: &FlightData) -> Fate {
        let prefix = self.0.entry(partition).or_default();
        prefix.read = prefix.read.and(message);
        match prefix.forwarded {
            None => Fate::Forward,
            Some(forwarded) if prefix.read.count < forwarded.count => Fate::Skip,
            Some(forwarded) if prefix.read == forwarded => {
                prefix.forwarded = None;
                Fate::Skip
            }
            Some(_) => Fate::Differs,
        }
    }
}

impl Messages {
    fn and(self, message: &FlightData) -> Self {
        let mut hasher = FixedState::with_seed(self.hash).build_hasher();
        hasher.write_usize(message.data_header.len());
        hasher.write(&message.data_header);
        hasher.write(&message.data_body);
        Self {
            count: self.count + 1,
            hash: hasher.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: &str, body: &str) -> FlightData {
        FlightData::new()
            .with_data_header(header.to_owned())
            .with_data_body(body.to_owned())
    }

    /// Has forwarded two messages of partition 0 and one of partition 1.
    fn delivered() -> Delivered {
        let mut delivered = Delivered::default();
        for (partition, body) in [(0, "a"), (1, "x"), (0, "b")] {
            assert_eq!(delivered.take(partition, &message("h", body)), Fate::Forward);
        }
        assert!(!delivered.is_behind() && !delivered.is_empty());
        delivered.start_again();
        assert!(delivered.is_behind());
        delivered
    }

    #[test]
    fn same_messages_are_skipped_and_the_rest_is_forwarded() {
        let mut delivered = delivered();
        let again = [
            (0, "a", Fate::Skip),
            (0, "b", Fate::Skip),
            (0, "c", Fate::Forward),
            (1, "x", Fate::Skip),
            (1, "y", Fate::Forward),
            (2, "z", Fate::Forward),
        ];
        for (partition, body, fate) in again {
            assert_eq!(delivered.take(partition, &message("h", body)), fate, "{body}");
        }
        assert!(!delivered.is_behind());
    }

    #[test]
    fn other_messages_are_seen() {
        for [first, second] in [["a", "c"], ["b", "a"], ["", "ab"]] {
            let mut delivered = delivered();
            assert_eq!(delivered.take(0, &message("h", first)), Fate::Skip);
            assert_eq!(delivered.take(0, &message("h", second)), Fate::Differs);
        }
        let mut delivered = delivered();
        assert_eq!(
            delivered.take(1, &message("hx", "")),
            Fate::Differs,
            "the header counts"
        );
    }

    #[test]
    fn attempt_may_be_lost_before_it_has_caught_up() {
        let mut delivered = delivered();
        assert_eq!(delivered.take(0, &message("h", "a")), Fate::Skip);
        delivered.start_again();
        for (body, fate) in [("a", Fate::Skip), ("b", Fate::Skip), ("c", Fate::Forward)] {
            assert_eq!(delivered.take(0, &message("h", body)), fate);
        }
        assert!(delivered.is_behind(), "partition 1 is");
    }
}
