//! How urgent an attempt is on its worker.

/// Which of a worker's lanes an attempt runs in. Attempts of one lane share the processor as equals; a lane gives way to
/// the lanes before it, and needs no slot of theirs.
///
/// | lane | number | meant for |
/// |---|---|---|
/// | `Short` | 0 | what is done in well under a second; also planning |
/// | `Medium` | 1 | what takes seconds |
/// | `Long` | 2 | what takes longer, or that nobody waits for |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Never held back by attempts of other lanes.
    #[default]
    Short,
    /// Gives way to short ones.
    Medium,
    /// Gives way to all others.
    Long,
}

impl Lane {
    /// From the first to the last.
    pub const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    /// The lane's number on the wire, also its index in [`Lane::ALL`].
    pub fn number(self) -> u32 {
        match self {
            Self::Short => 0,
            Self::Medium => 1,
            Self::Long => 2,
        }
    }

    /// The lane of that number. One that this release does not have is the last: it was meant to come after those.
    pub fn of_number(number: u32) -> Self {
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
    fn numbers_name_lanes_and_those_beyond_the_last_are_the_last() {
        for (number, lane) in (0..).zip(Lane::ALL) {
            assert_eq!(lane.number(), number);
            assert_eq!(Lane::of_number(number), lane);
        }
        assert!(Lane::ALL.is_sorted());
        assert_eq!(Lane::of_number(3), Lane::Long);
        assert_eq!(Lane::of_number(u32::MAX), Lane::Long);
        assert_eq!(Lane::default(), Lane::Short);
    }
}
