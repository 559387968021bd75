//! How urgent an attempt is on its worker.

/// Which of a worker's lanes an attempt runs in. Attempts of one lane share the processor equally; a lane yields the
/// processor to the lanes before it, and needs none of their slots.
///
/// | lane | number | meant for |
/// |---|---|---|
/// | `Short` | 0 | attempts of well under a second; also planning |
/// | `Medium` | 1 | attempts of seconds |
/// | `Long` | 2 | longer attempts, and those that no client waits for |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Never held back by attempts of other lanes.
    #[default]
    Short,
    /// Yields to `Short`.
    Medium,
    /// Yields to both others.
    Long,
}

impl Lane {
    /// In order of urgency.
    pub const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    /// The lane's number on the wire, also its index in [`Lane::ALL`].
    pub fn number(self) -> u32 {
        match self {
            Self::Short => 0,
            Self::Medium => 1,
            Self::Long => 2,
        }
    }

    /// The lane of that number. A number that this release does not know means the last lane: a newer release added it
    /// behind the others.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Short,
            1 => Self::Medium,
            _ => Self::Long,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_lane_numbers_mean_last_lane() {
        for (number, lane) in (0..).zip(Lane::ALL) {
            assert_eq!(lane.number(), number);
            assert_eq!(Lane::from_number(number), lane);
        }
        assert!(Lane::ALL.is_sorted());
        assert_eq!(Lane::from_number(3), Lane::Long);
        assert_eq!(Lane::from_number(u32::MAX), Lane::Long);
        assert_eq!(Lane::default(), Lane::Short);
    }
}
