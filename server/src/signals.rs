//! How a process is told to end: by SIGTERM, Ctrl-C, and for children of a test by the end of their standard input.

use tokio_util::sync::CancellationToken;
use tracing::info;

/// Set for processes that shall end with the process at the other end of their standard input.
const EXIT_ON_STDIN_EOF: &str = "SQUADRON_EXIT_ON_STDIN_EOF";

/// Returns a token that is cancelled by the first signal to end. A second signal exits at once.
pub fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // The one task without an owner: it lives as long as the process, which it ends.
    #[allow(clippy::disallowed_methods, reason = "lives as long as the process")]
    tokio::spawn(async move {
        signal().await;
        info!("shutting down; a second signal exits at once");
        cancelled.cancel();
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
