//! Table III: mouth-to-ear delay and memory, idle and in a call, beside the telephones that are
//! installed here.
//!
//! As in the paper a recording of 24 s is said into one telephone and heard at the other, both on
//! one time line, delays by cross-correlation in windows of 2 s. Every telephone uses the same
//! sound server ([`crate::voice::rig`]), whose own delay is measured too; both machines are on one
//! network without delay.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Bench, median};
use crate::{
    deployment::{Deployment, DeploymentPlan},
    measure::{Recording, draw, measure},
    network::Network,
    report::{Section, Table, Target, picture},
    speech::{RATE_HZ, Voice, speak},
    voice::{
        peers::{Baresip, Call, Chromium, Cooee, Kind, Stage},
        rig::{CHANNELS, Rig, read},
        topology, usage,
    },
};

/// The paper's Table III: memory idle and in a call of caller and callee in MB, delay and its
/// standard deviation in ms.
const PAPER: [(&str, &str, &str, &str); 4] = [
    ("Skype 1.4", "19, 19", "21, 27", "96 (4)"),
    ("Yahoo 7.0", "38, 34", "43, 42", "152 (12)"),
    ("MSN 7.5", "25, 22", "34, 31", "184 (16)"),
    ("Google Talk 1.0", "9, 9", "13, 13", "109 (10)"),
];

/// Skype's delay in the paper, in ms.
const PAPER_DELAY_MS: f64 = 96.0;

/// Skype's memory in a call in the paper, in MB.
const PAPER_MEMORY_MB: f64 = 27.0;

/// Length of the recording, in seconds: the paper's.
const SPEECH_S: f64 = 24.0;

/// Talk before the measuring begins: buffers find their length, in seconds.
const SETTLING_S: f64 = 8.0;

/// Programs of the rig, and the packages that have them.
const TOOLS: [(&str, &str); 3] =
    [("pulseaudio", "pulseaudio"), ("parec", "pulseaudio-utils"), ("pactl", "pulseaudio-utils")];

/// What one telephone was measured to do.
#[derive(Debug, Default)]
struct Figures {
    idle_mib: f64,
    call_mib: Vec<f64>,
    delay_ms: Vec<f64>,
    /// Standard deviation within a call.
    sd_ms: Vec<f64>,
}

pub(super) fn run(bench: &Bench) -> Result<Section> {
    if let Some((tool, package)) = TOOLS.iter().find(|(tool, _)| !is_installed(tool)) {
        bail!("{tool} is missing: apt-get install {package}");
    }
    let mut section = Section::new(
        "peers",
        "Mouth-to-ear delay and memory beside other telephones (Table III)",
        "The same recording, sound server, machines and cross-correlation for all; the sound \
         server's own loop is the first row. One way, 24 s of synthetic speech after 8 s of \
         settling, windows of 2 s; median of the calls (lowest to highest).",
    );
    let folder = bench.folder_for("peers")?;
    let conversation = folder.join("speech.raw");
    write_speech(&conversation, bench.choose(10.0, SPEECH_S))?;
    let rig = Rig::start(&folder.join("pulse"))?;
    let network = Network::up(&topology(), "p")?;
    let stage = Stage { rig: &rig, network: &network };
    let plan = DeploymentPlan {
        login_server: "login".to_owned(),
        super_nodes: vec!["sn1".to_owned()],
        super_node_port: None,
        well_known_ports: false,
    };
    let deployment = Deployment::start(&stage, &bench.program, &folder, plan, |_| {})?;
    let mut table = Table::new(
        "",
        &["telephone", "memory idle, MB", "in a call", "mouth to ear, ms (sd)", "calls"],
    );
    for (name, idle, call, delay) in PAPER {
        table.row([&format!("paper: {name}"), idle, call, delay, "4"]);
    }
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::CooeePlain) {
        if let Some((program, packages)) = kind.needs()
            && !is_installed(program)
        {
            section.notes.push(format!("{}: not here; apt-get install {packages}", kind.name()));
            continue;
        }
        bench.tell(&format!("peers: {}", kind.name()));
        let place = Place { bench, stage: &stage, folder: &folder, conversation: &conversation };
        match place.figures(kind, &deployment, &mut section) {
            Ok(figures) => {
                table.row(row(kind, &figures));
                judge(&mut section, kind, &figures);
            }
            Err(error) => section.notes.push(format!("{}: {error:#}", kind.name())),
        }
    }
    section.tables.push(table);
    Ok(section)
}

struct Place<'p> {
    bench: &'p Bench,
    stage: &'p Stage<'p>,
    folder: &'p Path,
    conversation: &'p Path,
}

impl Place<'_> {
    fn figures(
        &self,
        kind: Kind,
        deployment: &Deployment<'_>,
        section: &mut Section,
    ) -> Result<Figures> {
        let mut figures = Figures { idle_mib: f64::NAN, ..Figures::default() };
        let mut nodes = None;
        match kind {
            Kind::Cooee => {
                let mut cooee = Cooee::start(deployment, false)?;
                thread::sleep(Duration::from_secs(2));
                figures.idle_mib = memory_mib(&cooee.pids())?;
                nodes = Some(cooee);
            }
            Kind::Baresip | Kind::BaresipTuned => {
                let idle = Baresip::idle(self.stage, self.folder, kind == Kind::BaresipTuned)?;
                thread::sleep(Duration::from_secs(2));
                figures.idle_mib = memory_mib(&idle.pids())?;
            }
            Kind::Rig | Kind::CooeePlain | Kind::Chromium => {}
        }
        for run in 0..self.bench.runs {
            let recording = self.folder.join(format!("{}-{run}.raw", kind.name()));
            if kind == Kind::Rig {
                let modules = self.stage.rig.loop_back()?;
                let played = self.stage.rig.play(self.conversation, &recording, || {});
                self.stage.rig.end_loop(&modules)?;
                played?;
            } else {
                let call = self.call(kind, nodes.as_mut())?;
                self.stage.wait_for_voice()?;
                self.stage.rig.play(self.conversation, &recording, || {})?;
                figures.call_mib.push(memory_mib(&call.pids())?);
            }
            self.take(kind, run, &recording, &mut figures, section)?;
        }
        Ok(figures)
    }

    fn call(&self, kind: Kind, nodes: Option<&mut Cooee<'_>>) -> Result<Box<dyn Call>> {
        match kind {
            Kind::Rig | Kind::Cooee | Kind::CooeePlain => nodes.context("the nodes run")?.call(),
            Kind::Baresip => Baresip::call(self.stage, self.folder, false),
            Kind::BaresipTuned => Baresip::call(self.stage, self.folder, true),
            Kind::Chromium => Chromium::call(self.stage, self.folder),
        }
    }

    fn take(
        &self,
        kind: Kind,
        run: usize,
        recording: &Path,
        figures: &mut Figures,
        section: &mut Section,
    ) -> Result<()> {
        let [mouth, ear, ..] = read(recording)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
        let from = ((SETTLING_S * f64::from(RATE_HZ)) as usize).min(mouth.len()).min(ear.len());
        let recording = Recording {
            rate_hz: RATE_HZ,
            mouth: mouth[from..].to_vec(),
            ear: ear[from..].to_vec(),
            ear_gaps_s: Vec::new(),
        };
        let report = measure(&recording.mouth, &recording.ear, RATE_HZ);
        let mean =
            report.mean_ms.with_context(|| format!("nothing is heard over {}", kind.name()))?;
        figures.delay_ms.push(mean);
        figures.sd_ms.push(report.sd_ms.unwrap_or(0.0));
        if run > 0 || kind == Kind::Rig {
            return Ok(());
        }
        let title = format!("Mouth to ear over {}", kind.name());
        let file = format!("peers-{}.png", kind.name());
        picture(self.bench.pictures.as_ref(), section, &file, &title, |path| {
            draw(&recording, &report, &title, path)
        })
    }
}

/// The larger of two programs' memory.
fn memory_mib(pids: &[u32]) -> Result<f64> {
    let mut most = 0.0_f64;
    for pid in pids {
        most = most.max(usage::of_tree(*pid)?.rss_mib);
    }
    Ok(most)
}

fn row(kind: Kind, figures: &Figures) -> Vec<String> {
    let one = |value: f64| if value.is_finite() { format!("{value:.1}") } else { "-".to_owned() };
    let low = figures.delay_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.delay_ms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let name = if kind == Kind::Rig { "the sound server's own loop" } else { kind.name() };
    vec![
        name.to_owned(),
        one(figures.idle_mib),
        one(median(&figures.call_mib)),
        format!(
            "{:.1} ({:.1}); {low:.1} to {high:.1}",
            median(&figures.delay_ms),
            median(&figures.sd_ms)
        ),
        figures.delay_ms.len().to_string(),
    ]
}

fn judge(section: &mut Section, kind: Kind, figures: &Figures) {
    let (delay_ms, memory_mib) = (median(&figures.delay_ms), median(&figures.call_mib));
    section.lines.push(json!({
        "peer": kind.name(), "mouth_to_ear_ms": delay_ms, "sd_ms": median(&figures.sd_ms),
        "idle_mib": figures.idle_mib, "call_mib": memory_mib, "runs": figures.delay_ms.len(),
        "delay_ms_runs": figures.delay_ms,
    }));
    if kind != Kind::Cooee {
        return;
    }
    section.targets.push(Target::new(
        "mouth to ear, sound server included",
        "96 ms (sd 4)",
        "below the paper's",
        format!("{delay_ms:.1} ms"),
        delay_ms < PAPER_DELAY_MS,
    ));
    section.targets.push(Target::new(
        "memory in a call",
        "21 and 27 MB",
        "below the paper's",
        format!("{memory_mib:.1} MiB"),
        memory_mib < PAPER_MEMORY_MB,
    ));
}

/// Speech for the rig: Alice alone speaks.
fn write_speech(path: &Path, seconds: f64) -> Result<()> {
    let mut bytes = Vec::new();
    for sample in speak(Voice::High, 24, SETTLING_S + seconds) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
        let value = (sample * 32_767.0).clamp(-32_768.0, 32_767.0) as i16;
        let mut frame = [0_i16; CHANNELS];
        frame[0] = value;
        bytes.extend(frame.iter().flat_map(|value| value.to_le_bytes()));
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
