//! An operator takes a super node out of service, gently.

use std::time::Duration;

use serde_json::{Value, json};

use super::Node;
use crate::api::types::Problem;

impl Node {
    /// Takes this super node out of service: no new nodes, the attached ones go elsewhere,
    /// splices and relayed calls are carried to their end but no longer than `patience`.
    /// Then the node ends. Tells what was there and what was left.
    pub async fn drain(&self, patience: Duration) -> Result<Value, Problem> {
        if self.attachment.is_some() {
            return Err(Problem::refused(
                "a user's node is drained by `cooee down`; `cooee up --super-node never` serves \
                 nobody",
            ));
        }
        let active = self.serving.as_ref().and_then(super::serving::Serving::active);
        let active = active.ok_or_else(|| Problem::refused("this node serves nobody"))?;
        self.tell(json!({ "event": "draining", "patience_s": patience.as_secs() }));
        let drained = active.drain(patience).await;
        let drained = serde_json::to_value(drained).expect("own types serialise");
        self.tell(json!({ "event": "drained", "left": drained }));
        self.shut_down();
        Ok(drained)
    }
}
