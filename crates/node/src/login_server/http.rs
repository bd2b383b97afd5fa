//! What an operator's tools ask over HTTP: `/metrics`, `/healthz` (the process lives) and `/readyz`
//! (the database answers). Meant for loopback or a private network: it tells counts, no names.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Metrics, unix_now};
use crate::storage::Storage;

#[derive(Clone)]
struct Shared {
    storage: Storage,
    metrics: Arc<Metrics>,
}

pub(super) async fn serve(
    listener: TcpListener,
    storage: Storage,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Shared { storage, metrics });
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the metrics server stopped");
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.storage.check().await {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn metrics_text(State(shared): State<Shared>) -> String {
    match shared.storage.statistics(unix_now()).await {
        Ok(statistics) => shared.metrics.set_statistics(&statistics),
        Err(error) => tracing::warn!(%error, "no statistics"),
    }
    shared.metrics.text()
}
