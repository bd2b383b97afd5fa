//! Work inside a network namespace that `ip netns` knows by name.

use std::{fs::File, thread};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread of its own in the namespace called `namespace`. Sockets made there
/// stay there, whoever uses them afterwards.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let path = format!("/run/netns/{namespace}");
                setns(File::open(&path).context(path)?, CloneFlags::CLONE_NEWNET)?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("the thread in {namespace} panicked"))?
    })
}
