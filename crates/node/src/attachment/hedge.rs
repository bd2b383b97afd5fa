//! Asks one super node, and the next one too when the first hesitates.
//!
//! A super node that has fallen silent is noticed here at the latest: when something is to be said.
//! Whoever hesitates is asked for a sign of life and loses its connection if it gives none.

use std::time::Duration;

use futures::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use tokio::time::timeout;

use super::connection;
use crate::{
    room::Room,
    transport::{ControlChannel, TransportError},
};

/// How long the first may take before the next is asked too. Chosen: well above a look-up or a
/// splice over two super nodes at 200 ms round trip.
const HESITATION: Duration = Duration::from_millis(700);

/// The first success among these; with none, the last error. `None` if there was nothing to try.
pub(super) async fn first<T>(
    attempts: Vec<(ControlChannel, impl Future<Output = Result<T, TransportError>> + Send)>,
    room: &Room,
) -> Option<Result<T, TransportError>> {
    let (channels, attempts): (Vec<_>, Vec<_>) = attempts.into_iter().unzip();
    staggered(attempts, |hesitant| connection::check_among(hesitant, &channels, room)).await
}

/// Starts one after the other, the next one as soon as the one before has failed or hesitates.
pub(super) async fn staggered<T>(
    attempts: Vec<impl Future<Output = Result<T, TransportError>> + Send>,
    hesitates: impl Fn(usize),
) -> Option<Result<T, TransportError>> {
    let mut waiting = attempts.into_iter().enumerate();
    let mut running = FuturesUnordered::<BoxFuture<'_, (usize, _)>>::new();
    let mut last = None;
    let mut newest = None;
    loop {
        if let Some((number, attempt)) = waiting.next() {
            newest = Some(number);
            running.push(attempt.map(move |result| (number, result)).boxed());
        } else if running.is_empty() {
            return last;
        }
        match timeout(HESITATION, running.next()).await {
            Ok(Some((_, Ok(value)))) => return Some(Ok(value)),
            Ok(Some((_, Err(error)))) => last = Some(Err(error)),
            Ok(None) => {}
            // Told once for each.
            Err(_) => newest.take().into_iter().for_each(&hesitates),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Mutex};

    use super::*;

    type Answer = BoxFuture<'static, Result<u8, TransportError>>;

    #[tokio::test]
    async fn the_second_answers_for_a_first_that_is_silent_and_the_first_is_told_of() {
        let silent = Mutex::new(Vec::new());
        let attempts: Vec<Answer> = vec![pending().boxed(), async { Ok(2) }.boxed()];
        let answer = staggered(attempts, |number| silent.lock().unwrap().push(number)).await;
        assert_eq!(answer.unwrap().unwrap(), 2);
        assert_eq!(*silent.lock().unwrap(), [0]);
    }

    #[tokio::test]
    async fn a_failure_starts_the_next_at_once_and_the_last_error_is_kept() {
        let refuse = || async { Err(TransportError::Closed) }.boxed();
        let attempts: Vec<Answer> = vec![refuse(), refuse()];
        let answer = staggered(attempts, |_| panic!("nobody hesitates")).await;
        assert!(matches!(answer, Some(Err(TransportError::Closed))));
        assert!(staggered(Vec::<Answer>::new(), |_| ()).await.is_none());
    }
}
