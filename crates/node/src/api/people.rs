//! `/v1/buddies`, `/v1/messages`.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Served, types::Problem};
use crate::node::Node;

pub(super) fn routes() -> Router<Served> {
    Router::new()
        .route("/v1/buddies", get(buddies).post(add))
        .route("/v1/buddies/{name}", get(devices).delete(remove))
        .route("/v1/buddies/{name}/accept", post(accept))
        .route("/v1/buddies/{name}/block", post(block))
        .route("/v1/buddies/{name}/verify", post(verify))
        .route("/v1/messages", get(messages).post(send))
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Compared {
    node: String,
}

#[derive(Debug, Deserialize)]
struct Written {
    to: String,
    text: String,
}

fn done() -> Answer<Value> {
    Ok(Json(json!({ "ok": true })))
}

async fn buddies(State(served): State<Served>) -> Answer<Value> {
    served.node.buddies().await.map(Json)
}

async fn devices(State(served): State<Served>, Path(name): Path<String>) -> Answer<Value> {
    served.node.buddy_devices(Node::user_name(&name)?).await.map(Json)
}

async fn add(State(served): State<Served>, Json(named): Json<Named>) -> Answer<Value> {
    served.node.add_buddy(Node::user_name(&named.name)?).await?;
    done()
}

async fn accept(State(served): State<Served>, Path(name): Path<String>) -> Answer<Value> {
    served.node.accept_buddy(Node::user_name(&name)?).await?;
    done()
}

async fn remove(State(served): State<Served>, Path(name): Path<String>) -> Answer<Value> {
    served.node.remove_buddy(Node::user_name(&name)?).await?;
    done()
}

async fn block(State(served): State<Served>, Path(name): Path<String>) -> Answer<Value> {
    served.node.block_buddy(Node::user_name(&name)?).await?;
    done()
}

async fn verify(
    State(served): State<Served>,
    Path(name): Path<String>,
    Json(compared): Json<Compared>,
) -> Answer<Value> {
    served.node.verify_buddy(Node::user_name(&name)?, &compared.node).await?;
    done()
}

async fn messages(State(served): State<Served>) -> Answer<Value> {
    served.node.messages().await.map(Json)
}

async fn send(State(served): State<Served>, Json(written): Json<Written>) -> Answer<Value> {
    let to = Node::user_name(&written.to)?;
    if written.text.trim().is_empty() {
        return Err(Problem::bad_request("the message is empty"));
    }
    served.node.send_message(to, written.text).await.map(Json)
}
