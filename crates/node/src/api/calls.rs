//! `/v1/calls`: place, answer, decline, hang up, hold, resume, mute, press keys, transfer, list,
//! records.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{
    Answer, Served,
    types::{Digits, PlaceCall, Problem, Transfer},
};
use crate::node::{CallAction, Node};

pub(super) fn routes() -> Router<Served> {
    Router::new()
        .route("/v1/calls", get(list).post(place))
        .route("/v1/calls/{id}/dtmf", post(dtmf))
        .route("/v1/calls/{id}/transfer", post(transfer))
        .route("/v1/calls/{id}/{action}", post(act))
        .route("/v1/records", get(records))
}

async fn list(State(served): State<Served>) -> Json<Value> {
    Json(served.node.calls())
}

async fn place(State(served): State<Served>, Json(place): Json<PlaceCall>) -> Answer<Value> {
    served.node.place_call(place).await.map(Json)
}

async fn act(
    State(served): State<Served>,
    Path((id, action)): Path<(String, String)>,
) -> Answer<Value> {
    let action = match action.as_str() {
        "answer" => CallAction::Answer,
        "decline" => CallAction::Decline,
        "hang-up" => CallAction::HangUp,
        "hold" => CallAction::Hold,
        "resume" => CallAction::Resume,
        "mute" => CallAction::Mute,
        "unmute" => CallAction::Unmute,
        other => return Err(Problem::not_found(format!("a call cannot \"{other}\""))),
    };
    served.node.act_on_call(&id, action).await?;
    Ok(Json(json!({ "ok": true, "call": id })))
}

async fn dtmf(
    State(served): State<Served>,
    Path(id): Path<String>,
    Json(digits): Json<Digits>,
) -> Answer<Value> {
    let legal = |digit: char| digit.is_ascii_digit() || "*#ABCD".contains(digit);
    if digits.digits.is_empty() || !digits.digits.chars().all(legal) {
        return Err(Problem::bad_request("keys are 0 to 9, *, # and A to D"));
    }
    for digit in digits.digits.chars() {
        served.node.act_on_call(&id, CallAction::Dtmf(digit)).await?;
    }
    Ok(Json(json!({ "ok": true, "call": id })))
}

async fn transfer(
    State(served): State<Served>,
    Path(id): Path<String>,
    Json(transfer): Json<Transfer>,
) -> Answer<Value> {
    let action = match (&transfer.to, &transfer.with) {
        (Some(to), None) => CallAction::Transfer(Node::user_name(to)?),
        (None, Some(with)) => {
            let is_no_call = |_| Problem::bad_request("a call is 32 hexadecimal digits");
            CallAction::Join(with.parse().map_err(is_no_call)?)
        }
        _ => return Err(Problem::bad_request("either a user to send to, or a call to join with")),
    };
    served.node.act_on_call(&id, action).await?;
    Ok(Json(json!({ "ok": true, "call": id })))
}

async fn records(State(served): State<Served>) -> Json<Value> {
    Json(served.node.records())
}
