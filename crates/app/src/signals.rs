//! Ctrl-C and SIGTERM: the program ends cleanly on either.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the user or the system asks the program to end.
pub(crate) async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
