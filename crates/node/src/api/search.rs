//! `/v1/search`: finds users. `/v1/keepers`: which super nodes keep a name.

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, Served};
use crate::node::Node;

pub(super) fn routes() -> Router<Served> {
    Router::new().route("/v1/search", get(search)).route("/v1/keepers", get(keepers))
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
