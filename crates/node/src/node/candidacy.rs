//! A user's node offers itself as a super node: when its owner lets it, it is able, others reach
//! it, and the network needs one more. And it retires when that ends.
//!
//! ```text
//!   ordinary ── able? ─▶ stands by (answers dial-backs) ── Admit ─▶ admitted ─▶ serves
//!       ▲                        │ refused: later again               looked at every
//!       └────────────────────────┴──── drains ◀─ able no more, ────── two minutes
//!                                                not needed, refused
//! ```
//!
//! What the owner says: `--super-node never|auto|always`, `--capacity`, `--relay-budget`. *Always*
//! asks
//! without looking at load and age of this node; whether the network wants it, it says.

use std::{
    path::Path,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use cooee_proto::{
    control::address_to_wire,
    overlay::election::{FREE_MEMORY_MIB_MIN, FREE_PROCESSOR_PERCENT_MIN, UPSTREAM_KBPS_MIN},
    wire::v1::{Admit, Admitted, answer, request},
};
use rand::Rng;
use tokio::time::sleep;

use super::Node;
use crate::{
    overlay::{OverlayDirectory, program_version},
    settings::SuperNodeRole,
};

/// Mean time between two looks; drawn anew each time, so that not all step in at once (as
/// `proto::overlay::election`).
const LOOK_PERIOD: Duration = Duration::from_secs(120);

/// Time for attached nodes to go elsewhere when this node retires.
const RETIRING: Duration = Duration::from_secs(10);

/// Times refused while it serves after which a node retires: one answer may be lost on the way.
const REFUSALS_MAX: u32 = 2;

/// How it stands.
#[derive(Debug, Default)]
pub(super) struct Standing {
    words: String,
    refusals: u32,
}

/// Looks now and then whether to serve, until the node is gone.
pub(super) async fn stand(node: Weak<Node>) {
    let wishes =
        |node: &Node| node.attachment.is_some() && node.settings.super_node != SuperNodeRole::Never;
    loop {
        let Some(strong) = node.upgrade().filter(|node| wishes(node)) else { return };
        // Who is to serve after seconds looks every few seconds.
        let period =
            LOOK_PERIOD.min(Duration::from_secs(strong.settings.super_node_after_s.max(4)));
        drop(strong);
        let pause = period.mul_f64(0.5 + rand::rng().random::<f64>());
        sleep(pause).await;
        let Some(strong) = node.upgrade() else { return };
        strong.look().await;
    }
}

impl Node {
    /// Why this node serves or does not.
    pub(super) fn candidacy_words(&self) -> String {
        self.candidacy.lock().unwrap_or_else(PoisonError::into_inner).words.clone()
    }

    fn say(&self, words: impl Into<String>) {
        let words = words.into();
        tracing::debug!(words, "election");
        self.candidacy.lock().unwrap_or_else(PoisonError::into_inner).words = words;
    }

    async fn look(&self) {
        let Some(serving) = &self.serving else { return };
        let serves = serving.active();
        if let Err(why) = self.is_able() {
            self.say(format!("no super node: {why}"));
            if serves.is_some() {
                serving.retire(RETIRING).await;
            }
            return;
        }
        let overlay = match &serves {
            Some(active) => active.overlay.clone(),
            None => match serving.stand_by(&self.settings) {
                Ok(overlay) => overlay,
                Err(error) => return self.say(format!("no super node: {error}")),
            },
        };
        match self.ask(&overlay, serves.is_some()).await {
            Ok(Admitted { admission: Some(admission), .. }) => {
                let through =
                    self.attachment.as_ref().map(|it| it.to_store().0).unwrap_or_default();
                let through = through.iter().map(|entry| entry.address).collect();
                overlay.admitted(admission, through);
                self.candidacy.lock().unwrap_or_else(PoisonError::into_inner).refusals = 0;
                self.say("elected: others reach this node and the network needs it");
                if serves.is_none() {
                    let begun = serving.begin(&self.settings, &self.invitation, overlay).await;
                    if let Err(error) = begun {
                        return self.say(format!("no super node: {error}"));
                    }
                    self.tell(serde_json::json!({ "event": "elected" }));
                    self.publish().await;
                }
            }
            Ok(Admitted { refused, .. }) => {
                self.say(format!("no super node: {refused}"));
                let refusals = {
                    let mut standing =
                        self.candidacy.lock().unwrap_or_else(PoisonError::into_inner);
                    standing.refusals += 1;
                    standing.refusals
                };
                if serves.is_some() && refusals >= REFUSALS_MAX {
                    serving.retire(RETIRING).await;
                    self.tell(serde_json::json!({ "event": "retired", "reason": refused }));
                }
            }
            // Nobody could be asked: whoever serves goes on, its admission holds for a day.
            Err(error) if serves.is_none() => self.say(format!("no super node yet: {error}")),
            Err(_) => {}
        }
    }

    async fn ask(
        &self,
        overlay: &Arc<OverlayDirectory>,
        serving: bool,
    ) -> Result<Admitted, String> {
        let attachment = self.attachment.as_ref().ok_or("not attached")?;
        let wish = Admit {
            address: Some(address_to_wire(overlay.address())),
            program_version: program_version(),
            serving,
            node: bytes::Bytes::new(),
        };
        match attachment.request(request::Kind::Admit(wish)).await {
            Ok(answer::Kind::Admitted(admitted)) => Ok(admitted),
            Ok(_) => Err("an answer to another question".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What only this node knows: owner, battery, age, resources.
    fn is_able(&self) -> Result<(), String> {
        if on_battery(Path::new("/sys/class/power_supply")) {
            return Err("the machine runs on battery".to_owned());
        }
        if self.settings.super_node == SuperNodeRole::Always {
            return Ok(());
        }
        let age = self.started.elapsed().as_secs();
        if age < self.settings.super_node_after_s {
            return Err(format!("up for {age} s of {} s", self.settings.super_node_after_s));
        }
        let upstream_kbps = self.settings.relay_budget * 8 / 1000;
        if upstream_kbps < u64::from(UPSTREAM_KBPS_MIN) {
            return Err(format!(
                "the owner spares {upstream_kbps} kb/s, {UPSTREAM_KBPS_MIN} are needed"
            ));
        }
        let memory = free_memory_mib();
        if memory < u64::from(FREE_MEMORY_MIB_MIN) {
            return Err(format!("{memory} MiB of memory are free"));
        }
        let processor = free_processor_percent();
        // Who serves already keeps on through a busy minute.
        if processor < FREE_PROCESSOR_PERCENT_MIN && self.overlay().is_none() {
            return Err(format!("{processor} % of the processor are free"));
        }
        Ok(())
    }
}

/// Whether the machine has a battery and no mains: `type` and `online`, `status` of each supply.
fn on_battery(supplies: &Path) -> bool {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(supplies) else { return false };
    let (mut discharging, mut mains) = (false, false);
    for entry in entries.flatten() {
        let supply = entry.path();
        match read(supply.join("type")).trim() {
            // A battery of the machine, not of a mouse.
            "Battery" if read(supply.join("scope")).trim() != "Device" => {
                discharging |= read(supply.join("status")).trim() == "Discharging";
            }
            "Mains" | "USB" => mains |= read(supply.join("online")).trim() == "1",
            _ => {}
        }
    }
    discharging && !mains
}

/// Memory that could be had, in MiB; 0 where the system does not tell.
fn free_memory_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) / 1024
}

/// Share of the processors that nothing wanted over the last minutes, by the load average.
fn free_processor_percent() -> u32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').nth(1).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    ((1.0 - load / processors) * 100.0).clamp(0.0, 100.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_on_battery_does_not_serve() {
        let folder = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            for (file, text) in files {
                std::fs::write(folder.path().join(name).join(file), text).unwrap();
            }
        };
        assert!(!on_battery(folder.path()), "no battery, no mains: a server");
        supply(
            "mouse",
            &[("type", "Battery\n"), ("scope", "Device\n"), ("status", "Discharging\n")],
        );
        assert!(!on_battery(folder.path()), "a mouse's battery");
        supply("BAT0", &[("type", "Battery\n"), ("status", "Discharging\n")]);
        supply("AC", &[("type", "Mains\n"), ("online", "0\n")]);
        assert!(on_battery(folder.path()));
        supply("AC", &[("online", "1\n")]);
        assert!(!on_battery(folder.path()), "plugged in again");
    }
}
