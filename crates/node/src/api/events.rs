//! `GET /v1/events`: everything that happens, as JSON texts on a WebSocket.

use axum::{
    Router,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
    routing::get,
};
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::Served;

pub(super) fn routes() -> Router<Served> {
    Router::new().route("/v1/events", get(upgrade))
}

async fn upgrade(State(served): State<Served>, socket: WebSocketUpgrade) -> Response {
    // Before the answer: who has it must miss nothing of what they do next.
    let events = served.node.events();
    socket.on_upgrade(|socket| follow(served, events, socket))
}

async fn follow(served: Served, mut events: Receiver<Value>, mut socket: WebSocket) {
    let ended = served.node.ended();
    tokio::pin!(ended);
    loop {
        let text = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => event.to_string(),
                // A reader that cannot keep up learns that it missed something.
                Err(RecvError::Lagged(missed)) => {
                    json!({ "event": "missed", "count": missed }).to_string()
                }
                Err(RecvError::Closed) => return,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            () = &mut ended => return,
        };
        if socket.send(Message::Text(text.into())).await.is_err() {
            return;
        }
    }
}
