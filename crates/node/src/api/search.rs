//! `/v1/search`: finds users. `/v1/keepers`: which super nodes keep a name. `/v1/presence`: what
//! this
//! user shows.

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Served, types::Problem};
use crate::node::{Node, ShownPresence};

pub(super) fn routes() -> Router<Served> {
    Router::new()
        .route("/v1/search", get(search))
        .route("/v1/keepers", get(keepers))
        .route("/v1/presence", get(presence).post(set_presence))
}

#[derive(Debug, Deserialize)]
struct Asked {
    query: String,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

async fn search(State(served): State<Served>, Query(asked): Query<Asked>) -> Answer<Value> {
    served.node.search(&asked.query).await.map(Json)
}

async fn keepers(State(served): State<Served>, Query(named): Query<Named>) -> Answer<Value> {
    served.node.keepers_of(&Node::user_name(&named.name)?).map(Json)
}

#[derive(Debug, Deserialize)]
struct Chosen {
    presence: String,
}

async fn presence(State(served): State<Served>) -> Json<Value> {
    Json(json!({ "presence": served.node.presence().name() }))
}

async fn set_presence(State(served): State<Served>, Json(chosen): Json<Chosen>) -> Answer<Value> {
    let unknown = || Problem::bad_request("online, away, do-not-disturb or invisible");
    let presence = ShownPresence::parse(&chosen.presence).ok_or_else(unknown)?;
    served.node.set_presence(presence).await?;
    Ok(Json(json!({ "presence": presence.name() })))
}
