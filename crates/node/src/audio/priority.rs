//! Real-time priority for the audio thread, and a raised process during a call.
//!
//! Asked for in this order, the first that the system allows is kept: SCHED_RR (root,
//! `CAP_SYS_NICE` or `RLIMIT_RTPRIO`), then a negative nice value (`RLIMIT_NICE`). Never fatal:
//! what was achieved is reported (paper section IV.G: the client raised itself to high priority
//! in a call).

use std::fmt;

use rustix::process::{getpriority_process, setpriority_process};
use serde::Serialize;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Above ordinary real-time work, below a kernel's threads and the sound server's own (chosen:
/// PulseAudio asks for 5, PipeWire's data loop for 88).
const ROUND_ROBIN_PRIORITY: u8 = 10;

/// Nice value of a raised thread or process (chosen; PulseAudio's own is -11).
const RAISED_NICE: i32 = -11;

/// What the audio thread got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum ThreadRank {
    /// SCHED_RR at this priority.
    RoundRobin(u8),
    /// Time-sharing with this nice value.
    Nice(i32),
}

impl fmt::Display for ThreadRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin(priority) => write!(f, "real time (round robin {priority})"),
            Self::Nice(nice) => write!(f, "ordinary (nice {nice})"),
        }
    }
}

/// Raises the calling thread as far as the system allows.
pub fn raise_current_thread() -> ThreadRank {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let value = ThreadPriorityValue::try_from(ROUND_ROBIN_PRIORITY).expect("10 is below 100");
    let priority = ThreadPriority::Crossplatform(value);
    if set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok() {
        return ThreadRank::RoundRobin(ROUND_ROBIN_PRIORITY);
    }
    // On Linux, "process" zero is the calling thread here.
    let _ = setpriority_process(None, RAISED_NICE);
    ThreadRank::Nice(getpriority_process(None).unwrap_or(0))
}

/// Raises every thread of this process for the time of a call; dropping it lowers them again.
#[derive(Debug)]
pub struct RaisedProcess {
    before: Vec<(rustix::process::Pid, i32)>,
}

impl RaisedProcess {
    /// Raises what the system allows.
    pub fn new() -> Self {
        let before = threads()
            .into_iter()
            .filter_map(|thread| {
                let nice = getpriority_process(Some(thread)).ok()?;
                let raised =
                    nice > RAISED_NICE && setpriority_process(Some(thread), RAISED_NICE).is_ok();
                raised.then_some((thread, nice))
            })
            .collect();
        Self { before }
    }

    /// The nice value in a call, if anything could be raised.
    pub fn nice(&self) -> Option<i32> {
        (!self.before.is_empty()).then_some(RAISED_NICE)
    }
}

impl Default for RaisedProcess {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for RaisedProcess {
    fn drop(&mut self) {
        for (thread, nice) in &self.before {
            let _ = setpriority_process(Some(*thread), *nice);
        }
    }
}

fn threads() -> Vec<rustix::process::Pid> {
    let Ok(entries) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_what_the_kernel_says() {
        std::thread::spawn(|| {
            let rank = raise_current_thread();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Fields after the command name: nice is the 19th, rt_priority the 40th (proc(5)).
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            match rank {
                ThreadRank::RoundRobin(priority) => assert_eq!(fields[37], priority.to_string()),
                ThreadRank::Nice(nice) => assert_eq!(fields[16], nice.to_string()),
            }
        })
        .join()
        .unwrap();
    }
}
