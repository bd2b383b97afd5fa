//! The local API: HTTP and WebSocket on loopback, guarded by a token in the profile.
//!
//! The program's own commands, the embedded page and other people's programs use the same one.
//! `docs/protocol/local-api.md` lists the paths. Nothing is decided here: every path is one
//! method of [`Node`].

mod calls;
mod events;
mod page;
mod people;
mod search;
pub mod types;

use std::{io, net::Ipv4Addr, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::net::TcpListener;

use self::types::{Access, Problem, Status};
use crate::node::Node;

/// Name of the file in the profile that says where the API is.
pub const ACCESS_FILE: &str = "api.json";

/// Why the API cannot be served. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The port is taken or not allowed.
    #[error(
        "the local API cannot listen on 127.0.0.1:{port}: {source}; choose another with --api-port"
    )]
    Listen {
        /// Port asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The profile cannot be written.
    #[error("cannot write {file}: {source}")]
    Access {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Clone)]
struct Served {
    node: Arc<Node>,
    token: Arc<str>,
}

type Answer<T> = Result<Json<T>, Problem>;

/// Binds the API and writes [`ACCESS_FILE`]; the returned future serves until the node ends.
pub async fn serve(
    node: Arc<Node>,
    profile: &Path,
    port: u16,
) -> Result<impl Future<Output = ()> + use<>, ApiError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|source| ApiError::Listen { port, source })?;
    let token = new_token();
    let address = listener.local_addr().map_err(|source| ApiError::Listen { port, source })?;
    let access =
        Access { address: address.to_string(), token: token.clone(), pid: std::process::id() };
    let file = profile.join(ACCESS_FILE);
    let text = serde_json::to_vec(&access).expect("own types serialise");
    crate::profile::write_atomically(&file, &text, true)
        .map_err(|source| ApiError::Access { file: file.display().to_string(), source })?;
    let ended = node.ended();
    let app = router(Served { node, token: token.into() });
    Ok(async move {
        let serving = axum::serve(listener, app).with_graceful_shutdown(ended);
        if let Err(error) = serving.await {
            tracing::error!(%error, "the local API ended");
        }
        let _ = std::fs::remove_file(file);
    })
}

fn router(served: Served) -> Router {
    let guarded = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/shut-down", post(shut_down))
        .route("/v1/drain", post(drain))
        .route("/v1/devices", get(devices))
        .route("/metrics", get(metrics))
        .merge(calls::routes())
        .merge(events::routes())
        .merge(people::routes())
        .merge(search::routes())
        .layer(middleware::from_fn_with_state(served.clone(), check_token));
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .merge(page::routes())
        .merge(guarded)
        .fallback(|| async { Problem::not_found("there is no such path in the local API") })
        .with_state(served)
}

async fn status(State(served): State<Served>) -> Json<Status> {
    Json(served.node.status())
}

async fn ready(State(served): State<Served>) -> Response {
    let status = served.node.status();
    let code =
        if status.state == "attached" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, status.state).into_response()
}

async fn shut_down(State(served): State<Served>) -> Json<serde_json::Value> {
    served.node.shut_down();
    Json(json!({ "ok": true }))
}

async fn drain(
    State(served): State<Served>,
    Json(wish): Json<types::Drain>,
) -> Answer<serde_json::Value> {
    // On its own: who asked may go away, what has begun goes on.
    let patience = std::time::Duration::from_secs(wish.patience_s);
    let draining = tokio::spawn(async move { served.node.drain(patience).await });
    Ok(Json(draining.await.map_err(|error| Problem::failed(error.to_string()))??))
}

async fn devices() -> Answer<serde_json::Value> {
    let listed = tokio::task::spawn_blocking(crate::audio::list_devices).await;
    match listed {
        Ok(Ok(devices)) => Ok(Json(serde_json::to_value(devices).expect("own types serialise"))),
        Ok(Err(error)) => Err(Problem::unreachable(error.to_string())),
        Err(error) => Err(Problem::failed(error.to_string())),
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.node.metrics()).into_response()
}

/// 192 random bits, which no other program on the machine can guess.
fn new_token() -> String {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The token as a bearer header, or as `?token=` for the page and its WebSocket. A `Host` other
/// than loopback is refused: a web page elsewhere must not reach the API by a name of its own.
async fn check_token(State(served): State<Served>, request: Request, next: Next) -> Response {
    if !is_local(request.headers()) {
        return Problem::refused("the local API answers on 127.0.0.1 only").into_response();
    }
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let query = request.uri().query().unwrap_or_default();
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    if bearer.or(in_query).is_some_and(|token| same(token, &served.token)) {
        return next.run(request).await;
    }
    Problem::refused(format!("a token is needed: it is in {ACCESS_FILE} of the profile"))
        .into_response()
}

fn is_local(headers: &HeaderMap) -> bool {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(|host| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        matches!(name, "127.0.0.1" | "localhost")
    })
}

/// Compares without telling by its time how much was right.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one.bytes().zip(other.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

impl Problem {
    /// A problem of `kind`.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into() }
    }

    /// The caller named something that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not_found", message)
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new("bad_request", message)
    }

    /// Somebody said no.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new("refused", message)
    }

    /// The network or a device cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new("unreachable", message)
    }

    /// Anything else that went wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new("failed", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = match self.kind.as_str() {
            "not_found" => StatusCode::NOT_FOUND,
            "bad_request" => StatusCode::BAD_REQUEST,
            "refused" => StatusCode::FORBIDDEN,
            "unreachable" => StatusCode::BAD_GATEWAY,
            "not_taken" => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_local() {
        let with = |host: &str| HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        assert!(is_local(&with("127.0.0.1:4000")));
        assert!(is_local(&with("localhost")));
        assert!(!is_local(&with("evil.example:4000")));
        assert!(!is_local(&HeaderMap::new()));
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, other) = (new_token(), new_token());
        assert_eq!(one.len(), 32);
        assert!(!same(&one, &other) && same(&one, &one.clone()));
    }
}
