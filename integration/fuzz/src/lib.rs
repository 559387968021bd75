//! Runs the targets of [`squadron_integration::fuzz`] under libFuzzer.

use std::panic;
use std::sync::{Arc, OnceLock};

use squadron_integration::fuzz::{Server, target};

/// Judges `bytes`, and aborts the process where the answer is wrong, so that libFuzzer keeps them.
pub fn judge(name: &str, bytes: &[u8]) {
    static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
    SERVER.get_or_init(|| {
        // Rust's start-up does this, which libFuzzer leaves out: a closed socket is an error of its write.
        // SAFETY: no handler is installed, and no other thread runs yet.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        // libFuzzer's hook aborts at every panic. One that the product contains shows in its answer.
        drop(panic::take_hook());
        Server::get()
    });
    if let Err(wrong) = (target(name).judge)(bytes) {
        eprintln!("{wrong}");
        std::process::abort();
    }
}
