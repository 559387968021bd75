//! What tells a process to end: SIGTERM, Ctrl-C, and for children of a test the end of their standard input.

use tokio_util::sync::CancellationToken;
use tracing::info;

/// Set for processes that shall not outlive the one that holds the other end of their standard input.
const EXIT_ON_STDIN_EOF: &str = "SQUADRON_EXIT_ON_STDIN_EOF";

/// A token that is cancelled when this process is told to end. A second signal ends it at once.
pub fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    let told = token.clone();
    // The one task without an owner: it lives as long as the process and is what ends it.
    #[allow(clippy::disallowed_methods, reason = "lives as long as the process")]
    tokio::spawn(async move {
        signal().await;
        info!("told to end; once more ends at once");
        told.cancel();
        signal().await;
        std::process::exit(1);
    });
    if std::env::var_os(EXIT_ON_STDIN_EOF).is_some() {
        // A thread, since a read of standard input cannot be cancelled.
        std::thread::spawn(|| {
            let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(i32::from(ended.is_err()));
        });
    }
    token
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn signal() {
    let _ = tokio::signal::ctrl_c().await;
}
