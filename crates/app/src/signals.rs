//! Ctrl-C and SIGTERM: the program ends cleanly on either.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell reports of a command that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// What asks the program to end, from the moment this is made on: nothing is lost while nobody
/// waits for it.
pub(crate) struct Interrupts {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Interrupts {
    /// From now on the program decides how it ends.
    pub(crate) fn new() -> Self {
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Returns when the user or the system asks the program to end, each time again.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupt) => {}
            () = received(&mut self.terminate) => {}
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
}

/// From now on Ctrl-C and SIGTERM end the program at once, with `message`. For commands that may be
/// cut off anywhere: files are replaced whole, and a second try takes up where this one ended.
pub(crate) fn exit_when_interrupted(message: &'static str) {
    let mut interrupts = Interrupts::new();
    tokio::spawn(async move {
        interrupts.next().await;
        exit(message);
    });
}

/// Ends the program as Ctrl-C would.
pub(crate) fn exit(message: &str) -> ! {
    eprintln!("cooee: {message}");
    std::process::exit(INTERRUPTED)
}
