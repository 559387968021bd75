//! Runs the targets of [`squadron_integration::fuzz`] under libFuzzer.

use std::panic;
use std::sync::OnceLock;

use squadron_integration::fuzz::{Server, target};

/// Judges `bytes`, and aborts the process where the answer is wrong, so that libFuzzer keeps them.
pub fn judge(name: &str, bytes: &[u8]) {
    static SERVER: OnceLock<std::sync::Arc<Server>> = OnceLock::new();
    SERVER.get_or_init(|| {
        // libFuzzer's hook aborts at every panic. One that the product contains shows in its answer.
        drop(panic::take_hook());
        Server::get()
    });
    if let Err(wrong) = (target(name).judge)(bytes) {
        eprintln!("{wrong}");
        std::process::abort();
    }
}
