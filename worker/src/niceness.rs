//! How much of the processor a thread leaves to others (`nice`), where the operating system counts it per thread.

/// Makes the calling thread `steps` nicer than the process was when it started. If the system refuses, the thread runs
/// with the niceness it has, and one line of the log says why.
pub(crate) fn raise(steps: u8) {
    if steps == 0 {
        return;
    }
    if let Err(reason) = system::raise(steps) {
        static WARNED: std::sync::Once = std::sync::Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                reason,
                "long queries cannot be made to give way to short ones by the operating system"
            );
        });
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::sync::OnceLock;

    use thread_priority::{
        NICENESS_MAX, NICENESS_MIN, ThreadPriority, ThreadPriorityValue, set_current_thread_priority,
    };

    pub(super) fn raise(steps: u8) -> Result<(), String> {
        let niceness = process_niceness()?.saturating_add_unsigned(steps);
        let priority = priority(niceness.min(NICENESS_MIN));
        let value = ThreadPriorityValue::try_from(priority)?;
        set_current_thread_priority(ThreadPriority::Crossplatform(value))
            .map_err(|error| format!("niceness {niceness} was refused: {error:?}"))
    }

    /// The niceness of the process: that of the first thread that calls this, before it raises its own.
    fn process_niceness() -> Result<i8, String> {
        static PROCESS: OnceLock<Result<i8, String>> = OnceLock::new();
        PROCESS.get_or_init(thread_niceness).clone()
    }

    /// The niceness of the calling thread.
    pub(super) fn thread_niceness() -> Result<i8, String> {
        let path = "/proc/thread-self/stat";
        let stat = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        // The second field is the thread's name in parentheses and may hold anything; niceness is the 19th.
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
        let field = after_name.and_then(|rest| rest.split_ascii_whitespace().nth(16));
        field
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| format!("{path} has no niceness"))
    }

    /// The crate knows priorities of 0 to 99 and maps them to niceness by `39 - 39 * priority / 99 - 20`, rounded down;
    /// this is the priority in the middle of those that mean `niceness`.
    pub(super) fn priority(niceness: i8) -> u8 {
        let max = f32::from(u8::from(ThreadPriorityValue::MAX));
        let span = f32::from(NICENESS_MIN) - f32::from(NICENESS_MAX);
        let wanted = f32::from(niceness) - f32::from(NICENESS_MAX) + 0.5;
        (max * (1.0 - wanted / span)).round().clamp(0.0, max) as u8
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn raise(_: u8) -> Result<(), String> {
        Err(format!("{} counts niceness per process", std::env::consts::OS))
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn niceness_after(steps: u8) -> i8 {
        let thread = std::thread::spawn(move || {
            raise(steps);
            system::thread_niceness().unwrap()
        });
        thread.join().unwrap()
    }

    #[test]
    fn raise_changes_calling_thread_only() {
        let before = system::thread_niceness().unwrap();
        for steps in 0..40 {
            assert_eq!(
                niceness_after(steps),
                before.saturating_add_unsigned(steps).min(19),
                "{steps}"
            );
        }
        assert_eq!(system::thread_niceness().unwrap(), before);
    }
}
