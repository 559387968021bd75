//! How long a worker waits before it tries again to reach the server.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);

/// Doubles from a tenth of a second to three seconds. A random part of up to a half keeps workers that lost the same
/// server from coming back all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Returns the next pause and doubles the one after it.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(LONGEST);
        pause
    }

    /// Starts again with a short pause, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_bound_until_reset() {
        let mut backoff = Backoff::new();
        assert!(backoff.next_pause() <= FIRST);
        for _ in 0..20 {
            let pause = backoff.next_pause();
            assert!(pause >= FIRST && pause <= LONGEST, "{pause:?}");
        }
        assert!(backoff.next_pause() >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next_pause() <= FIRST);
    }
}
