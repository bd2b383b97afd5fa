//! `/v1/buddies`, `/v1/messages`, `/v1/search`.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Served, types::Problem};
use crate::node::Node;

pub(super) fn routes() -> Router<Served> {
    Router::new()
        .route("/v1/buddies", get(buddies).post(add))
        .route("/v1/buddies/{name}", delete(remove))
        .route("/v1/buddies/{name}/accept", post(accept))
        .route("/v1/messages", get(messages).post(send))
        .route("/v1/search", get(search))
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Written {
    to: String,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    query: String,
}

async fn buddies(State(served): State<Served>) -> Answer<Value> {
    served.node.buddies().await.map(Json)
}

async fn add(State(served): State<Served>, Json(named): Json<Named>) -> Answer<Value> {
    let name = Node::user_name(&named.name)?;
    served.node.add_buddy(name).await?;
    Ok(Json(json!({ "ok": true })))
}

async fn accept(State(served): State<Served>, Path(name): Path<String>) -> Answer<Value> {
    let name = Node::user_name(&name)?;
    served.node.accept_buddy(name).await?;
    Ok(Json(json!({ "ok": true })))
}

async fn remove(State(served): State<Served>, Path(name): Path<String>) -> Answer<Value> {
    let name = Node::user_name(&name)?;
    served.node.remove_buddy(name).await?;
    Ok(Json(json!({ "ok": true })))
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

async fn search(State(served): State<Served>, Query(asked): Query<Asked>) -> Answer<Value> {
    served.node.search(&asked.query).await.map(Json)
}
