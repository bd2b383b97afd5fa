//! What the local API does with people: the buddy list and messages.

use cooee_proto::identity::{NodeId, UserName};
use serde_json::{Value, json};

use super::Node;
use crate::{
    api::types::Problem,
    people::{People, PeopleError},
};

impl Node {
    fn people(&self) -> Result<&People, Problem> {
        let none = || Problem::refused("a dedicated super node has no buddies and no messages");
        self.people.as_ref().ok_or_else(none)
    }

    /// The buddy list with presence.
    pub async fn buddies(&self) -> Result<Value, Problem> {
        Ok(json!(self.people()?.buddies().await?))
    }

    /// The known devices of a buddy, with their safety numbers.
    pub async fn buddy_devices(&self, user: UserName) -> Result<Value, Problem> {
        Ok(json!(self.people()?.devices(user).await?))
    }

    /// Asks somebody to be a buddy.
    pub async fn add_buddy(&self, user: UserName) -> Result<(), Problem> {
        Ok(self.people()?.add(user).await?)
    }

    /// Accepts somebody who asked.
    pub async fn accept_buddy(&self, user: UserName) -> Result<(), Problem> {
        Ok(self.people()?.accept(user).await?)
    }

    /// Takes somebody from the list, or declines their request.
    pub async fn remove_buddy(&self, user: UserName) -> Result<(), Problem> {
        Ok(self.people()?.remove(user).await?)
    }

    /// Wants to hear nothing from somebody.
    pub async fn block_buddy(&self, user: UserName) -> Result<(), Problem> {
        Ok(self.people()?.block(user).await?)
    }

    /// The user compared the safety number of a buddy's device.
    pub async fn verify_buddy(&self, user: UserName, node: &str) -> Result<(), Problem> {
        let wrong = || Problem::bad_request("a device is 32 hexadecimal digits");
        let node: NodeId = node.parse().map_err(|_| wrong())?;
        Ok(self.people()?.verify(user, node).await?)
    }

    /// The latest messages, oldest first.
    pub async fn messages(&self) -> Result<Value, Problem> {
        Ok(json!(self.people()?.messages().await?))
    }

    /// Writes to a user; the message is on the disk when this returns.
    pub async fn send_message(&self, to: UserName, text: String) -> Result<Value, Problem> {
        Ok(json!(self.people()?.send(to, text).await?))
    }
}

impl From<PeopleError> for Problem {
    fn from(error: PeopleError) -> Self {
        match error {
            PeopleError::Contact(_) | PeopleError::Message(_) => Self::refused(error.to_string()),
            PeopleError::Store(_) | PeopleError::Stopped => Self::failed(error.to_string()),
        }
    }
}
