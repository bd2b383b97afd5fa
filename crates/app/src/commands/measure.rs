//! `cooee measure`: the mouth-to-ear delay in a recording, as the paper's `adelay` measured it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use cooee_lab::measure::{Recording, draw, measure};

use crate::output::Output;

/// `cooee measure`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee measure recording.wav                          stereo: left the mouth, right the ear
  cooee measure alice-mouth.wav bob-ear.wav            two recordings of a node, by their time base
  cooee measure recording.wav --picture delay.png")]
pub(crate) struct MeasureArgs {
    /// One stereo recording, or what was said and what was heard
    #[arg(required = true, num_args = 1..=2, value_name = "WAV")]
    files: Vec<PathBuf>,
    /// Draw both waveforms and the delays here (.png or .svg)
    #[arg(long, value_name = "PATH")]
    picture: Option<PathBuf>,
}

/// Measures and prints.
pub(crate) fn run(arguments: &MeasureArgs, output: Output) -> Result<()> {
    let recording = match &arguments.files[..] {
        [stereo] => Recording::from_stereo(stereo)?,
        [mouth, ear] => Recording::from_pair(mouth, ear)?,
        _ => bail!("one or two files are wanted"),
    };
    let report = measure(&recording.mouth, &recording.ear, recording.rate_hz);
    if let Some(picture) = &arguments.picture {
        draw(&recording, &report, "Mouth to ear", picture)?;
    }
    output.json_line(&report);
    for window in &report.windows {
        let delay = window.delay_ms.map_or("-".to_owned(), |delay| format!("{delay:.2} ms"));
        let (start, confidence) = (window.start_s, window.confidence);
        output.line(format!("{start:7.1} s  {delay:>12}  (confidence {confidence:.2})"));
    }
    match (report.mean_ms, report.sd_ms) {
        (Some(mean), Some(sd)) => {
            output.line(format!("mean {mean:.2} ms, standard deviation {sd:.2} ms"));
            Ok(())
        }
        (Some(mean), None) => {
            output.line(format!("{mean:.2} ms, in one window"));
            Ok(())
        }
        _ => bail!("no window has speech that is heard again"),
    }
}
