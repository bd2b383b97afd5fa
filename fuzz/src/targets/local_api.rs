//! What the local API takes as JSON.

use cooee_node::api::types::{Access, PlaceCall, Problem, Status};

pub(crate) fn run(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    match choice % 4 {
        0 => drop(serde_json::from_slice::<PlaceCall>(bytes)),
        1 => drop(serde_json::from_slice::<Access>(bytes)),
        2 => drop(serde_json::from_slice::<Problem>(bytes)),
        _ => {
            if let Ok(status) = serde_json::from_slice::<Status>(bytes) {
                let text = serde_json::to_vec(&status).expect("own types");
                assert_eq!(serde_json::from_slice::<Status>(&text).expect("own text"), status);
            }
        }
    }
}
