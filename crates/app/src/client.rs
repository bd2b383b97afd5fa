//! Talks to the local API of a running node: the same one that the page and other programs use.

use std::path::Path;

use anyhow::{Context, Result};
use cooee_node::api::types::{Access, Problem};
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::failure::{Failure, FailureKind};

/// A connection to the node of one profile.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    access: Access,
    http: reqwest::Client,
}

/// What the node tells as it happens.
pub(crate) struct Events {
    socket: tokio_tungstenite::WebSocketStream<
        tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>,
    >,
}

impl Client {
    /// Finds the running node of `profile`.
    pub(crate) fn of_profile(profile: &Path) -> Result<Self> {
        let path = profile.join("api.json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Err(not_running(profile)) };
        let access = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; restart the node", path.display()))?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { access, http })
    }

    /// Where the API listens, and the page with it.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// `GET` of a JSON object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.finish(self.http.get(self.url(path))).await
    }

    /// `POST` of `body`; the answer as JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        self.finish(self.http.post(self.url(path)).json(body)).await
    }

    /// `DELETE`.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.finish(self.http.delete(self.url(path))).await
    }

    /// Follows what happens from now on.
    pub(crate) async fn events(&self) -> Result<Events> {
        let url = format!("ws://{}/v1/events", self.access.address);
        let mut request = url.into_client_request()?;
        let bearer = format!("Bearer {}", self.access.token).parse()?;
        request.headers_mut().insert("authorization", bearer);
        let (socket, _) = tokio_tungstenite::connect_async(request)
            .await
            .map_err(|error| self.unreachable(&error.to_string()))?;
        Ok(Events { socket })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.access.address)
    }

    async fn finish<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let answer = request
            .bearer_auth(&self.access.token)
            .send()
            .await
            .map_err(|error| self.unreachable(&error.to_string()))?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if status.is_success() {
            return serde_json::from_slice(&body).context("the node's answer is not understood");
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            kind: "failed".to_owned(),
            message: format!("the node answered {status}"),
        });
        Err(of_problem(problem))
    }

    fn unreachable(&self, said: &str) -> anyhow::Error {
        let message = format!(
            "the node (process {}) does not answer on {}: {said}. Is it still running?",
            self.access.pid, self.access.address
        );
        Failure::new(FailureKind::Unreachable, message).into()
    }
}

impl Events {
    /// The next event; `None` when the node has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>> {
        while let Some(message) = self.socket.next().await {
            match message {
                Ok(Message::Text(text)) => return Ok(Some(serde_json::from_str(&text)?)),
                Ok(Message::Close(_)) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
        Ok(None)
    }
}

fn not_running(profile: &Path) -> anyhow::Error {
    let message = format!(
        "no node runs for the profile {}. Start one with `cooee up` (in another terminal, or as \
         a service)",
        profile.display()
    );
    Failure::new(FailureKind::Unreachable, message).into()
}

fn of_problem(problem: Problem) -> anyhow::Error {
    let kind = match problem.kind.as_str() {
        "unreachable" => FailureKind::Unreachable,
        "refused" => FailureKind::Refused,
        "not_taken" => FailureKind::NotTaken,
        "unknown_user" => FailureKind::UnknownUser,
        _ => return anyhow::anyhow!(problem.message),
    };
    Failure::new(kind, problem.message).into()
}
