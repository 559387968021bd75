//! How long the allocator keeps freed memory for the next who asks.
//!
//! Memory that goes back to the system at once costs page faults when it is needed again: with a second instead of ten,
//! TPC-H takes a tenth longer. So the allocator keeps it for long while there is plenty, and hands it back early while
//! memory is scarce.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::memory::Room;

/// How long memory must have been plenty before freed memory is kept for long again: a process that goes back and forth
/// between plenty and scarce stays with the shorter time.
const CALM: Duration = Duration::from_secs(5);

/// Tells jemalloc what becomes of freed memory. In a process with another allocator it changes nothing.
#[derive(Debug, Default)]
pub(crate) struct FreedMemory {
    kept: Option<isize>,
    scarce: Option<Instant>,
}

impl FreedMemory {
    /// To be called again and again with the room that there is.
    pub(crate) fn adapt(&mut self, room: Room) {
        if room != Room::Plenty {
            self.scarce = Some(Instant::now());
        }
        let decay_ms = match room {
            Room::Plenty if self.scarce.is_some_and(|scarce| scarce.elapsed() < CALM) => return,
            Room::Plenty => 10_000,
            Room::Scarce => 1_000,
            Room::Exceeded => 100,
        };
        if self.kept != Some(decay_ms) {
            self.kept = Some(decay_ms);
            if let Err(error) = keep_freed(decay_ms) {
                debug!(%error, "the allocator does not take the time for which it keeps freed memory");
            }
        }
    }
}

/// Sets the time in which freed memory goes back to the system, for the arenas that there are and for later ones.
#[cfg(target_os = "linux")]
fn keep_freed(decay_ms: isize) -> Result<(), tikv_jemalloc_ctl::Error> {
    use tikv_jemalloc_ctl::{Access, AsName, Mib};

    b"arenas.dirty_decay_ms\0".name().write(decay_ms)?;
    let arenas: u32 = b"arenas.narenas\0".name().read()?;
    let mut one: Mib<[usize; 3]> = b"arena.0.dirty_decay_ms\0".name().mib()?;
    for arena in 0..arenas as usize {
        one[1] = arena;
        // An arena that no thread uses yet refuses; it begins with the value for later ones.
        let _ = one.write(decay_ms);
    }
    Ok(())
}

/// Elsewhere nobody tells how much memory the process holds, so it is never scarce.
#[cfg(not(target_os = "linux"))]
fn keep_freed(_decay_ms: isize) -> Result<(), std::convert::Infallible> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tikv_jemalloc_ctl::{Access, AsName};

    use super::*;

    #[test]
    fn freed_memory_goes_back_early_while_memory_is_scarce_and_a_while_longer() {
        let kept = || -> isize { b"arenas.dirty_decay_ms\0".name().read().unwrap() };
        let mut freed = FreedMemory::default();
        freed.adapt(Room::Plenty);
        assert_eq!(kept(), 10_000);
        freed.adapt(Room::Exceeded);
        assert_eq!(kept(), 100);
        freed.adapt(Room::Plenty);
        assert_eq!(kept(), 100);
        freed.scarce = Some(Instant::now() - CALM);
        freed.adapt(Room::Plenty);
        assert_eq!(kept(), 10_000);
    }
}
