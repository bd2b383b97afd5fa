//! Ctrl-C and SIGTERM: the program ends cleanly on either.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the user or the system asks the program to end. Make it once and keep it: a signal
/// that comes while no future waits for it is lost.
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
