//! What was measured, to look at: both waveforms over the delay of each window.

use std::{ops::Range, path::Path};

use plotters::{coord::Shift, prelude::*};

use super::{delay::DelayReport, recording::Recording};
use crate::canvas::{self, INK, Sketch};

const WIDTH: u32 = 1_400;
const HEIGHT: u32 = 900;

/// Columns of a waveform: one per two pixels of a screen's width.
const COLUMNS: usize = 1_200;

const MOUTH: RGBColor = RGBColor(31, 105, 165);
const EAR: RGBColor = RGBColor(200, 92, 30);
const DELAY: RGBColor = RGBColor(40, 130, 70);
const GAP: RGBColor = RGBColor(205, 40, 50);

/// Draws to `path`, PNG or SVG by its extension.
pub fn draw(
    recording: &Recording,
    report: &DelayReport,
    title: &str,
    path: &Path,
) -> anyhow::Result<()> {
    canvas::draw(path, (WIDTH, HEIGHT), &Picture { recording, report, title })
}

struct Picture<'p> {
    recording: &'p Recording,
    report: &'p DelayReport,
    title: &'p str,
}

impl Sketch for Picture<'_> {
    fn draw_on<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        draw_all(area, self.recording, self.report, self.title)
    }
}

fn draw_all<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    recording: &Recording,
    report: &DelayReport,
    title: &str,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let area = area.margin(14, 10, 12, 24);
    let (heading, body) = area.split_vertically(70);
    canvas::title(&heading, title, 25)?;
    heading.draw(&Text::new(summary(report), (12, 38), canvas::text(18)))?;
    let panels = body.split_evenly((3, 1));
    let seconds = duration_s(recording).max(0.1);
    draw_waveform(&panels[0], recording, &recording.mouth, ("mouth", MOUTH), seconds, &[])?;
    let gaps = &recording.ear_gaps_s;
    draw_waveform(&panels[1], recording, &recording.ear, ("ear", EAR), seconds, gaps)?;
    draw_delays(&panels[2], report, seconds)?;
    area.present()?;
    Ok(())
}

fn summary(report: &DelayReport) -> String {
    let counted = report.delays().count();
    match (report.mean_ms, report.sd_ms) {
        (Some(mean), Some(sd)) => format!(
            "mouth to ear {mean:.1} ms, standard deviation {sd:.2} ms, \
             {counted} of {} windows of 2 s",
            report.windows.len()
        ),
        _ => format!("nothing heard in {} windows of 2 s", report.windows.len()),
    }
}

fn duration_s(recording: &Recording) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let samples = recording.mouth.len().max(recording.ear.len()) as f64;
    samples / f64::from(recording.rate_hz)
}

fn draw_waveform<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    recording: &Recording,
    samples: &[f32],
    (name, color): (&str, RGBColor),
    seconds: f64,
    gaps_s: &[(f64, f64)],
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let peak = samples.iter().fold(0.05_f32, |peak, s| peak.max(s.abs()));
    let peak = f64::from(peak) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin_bottom(6)
        .x_label_area_size(26)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..seconds, -peak..peak)?;
    canvas::frame(&mut chart.configure_mesh(), color)
        .y_desc(name)
        .y_labels(5)
        .x_labels(14)
        .draw()?;
    for (start, length) in gaps_s {
        let corners = [(*start, -peak), ((start + length).max(start + seconds / 700.0), peak)];
        chart.draw_series([Rectangle::new(corners, GAP.mix(0.35).filled())])?;
    }
    let columns = envelope(samples, recording.rate_hz, seconds);
    chart.draw_series(columns.into_iter().map(|(span, range)| {
        Rectangle::new([(span.start, range.start), (span.end, range.end)], color.filled())
    }))?;
    Ok(())
}

/// Lowest and highest sample of each column.
fn envelope(samples: &[f32], rate_hz: u32, seconds: f64) -> Vec<(Range<f64>, Range<f64>)> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let per_column = ((seconds * f64::from(rate_hz)) as usize / COLUMNS).max(1);
    #[allow(clippy::cast_precision_loss)]
    let width_s = per_column as f64 / f64::from(rate_hz);
    let columns = samples.chunks(per_column).enumerate();
    columns
        .map(|(index, chunk)| {
            let low = chunk.iter().copied().fold(f32::INFINITY, f32::min);
            let high = chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            #[allow(clippy::cast_precision_loss)]
            let start = index as f64 * width_s;
            (start..start + width_s, f64::from(low)..f64::from(high))
        })
        .collect()
}

fn draw_delays<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    report: &DelayReport,
    seconds: f64,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let highest = report.delays().map(|(_, delay)| delay).fold(10.0_f64, f64::max);
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(46)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..seconds, 0.0..highest * 1.25)?;
    canvas::frame(&mut chart.configure_mesh(), INK)
        .x_desc("time (s)")
        .y_desc("delay (ms)")
        .x_labels(14)
        .y_labels(6)
        .draw()?;
    if let (Some(mean), Some(sd)) = (report.mean_ms, report.sd_ms) {
        let band = [(0.0, mean - sd), (seconds, mean + sd)];
        chart.draw_series([Rectangle::new(band, DELAY.mix(0.15).filled())])?;
        let line = [(0.0, mean), (seconds, mean)];
        chart.draw_series([PathElement::new(line, DELAY.mix(0.6).stroke_width(2))])?;
    }
    let window = super::delay::WINDOW_SECONDS;
    for (start, delay) in report.delays() {
        let span = [(start, delay), ((start + window).min(seconds), delay)];
        chart.draw_series([PathElement::new(span, DELAY.stroke_width(3))])?;
        chart.draw_series([Circle::new((start + window / 2.0, delay), 4, DELAY.filled())])?;
        let label = canvas::text(14);
        let place = (start + window / 2.0, delay + highest * 0.13);
        let centred = label.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Center,
        ));
        chart.draw_series([Text::new(format!("{delay:.1}"), place, centred)])?;
    }
    let skipped = report.windows.iter().filter(|w| w.delay_ms.is_none());
    let foot = highest * 0.06;
    chart.draw_series(skipped.map(|w| Cross::new((w.start_s + window / 2.0, foot), 5, GAP)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::measure, speech};

    #[test]
    fn both_kinds_of_picture_show_the_measurement() {
        let folder = tempfile::tempdir().unwrap();
        let mouth = speech::speak(speech::Voice::High, 21, 20.0);
        let mut ear = vec![0.0; 2_016];
        ear.extend(mouth.iter().map(|s| s * 0.7));
        ear[300_000..304_800].fill(0.0);
        let recording = Recording { rate_hz: 48_000, mouth, ear, ear_gaps_s: vec![(6.25, 0.1)] };
        let report = measure(&recording.mouth, &recording.ear, 48_000);
        let svg = folder.path().join("call.svg");
        draw(&recording, &report, "alice to bob", &svg).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in ["alice to bob", "mouth to ear 42.0 ms", "delay (ms)", "time (s)"] {
            assert!(text.contains(word), "{word}");
        }
        let png = folder.path().join("call.png");
        draw(&recording, &report, "alice to bob", &png).unwrap();
        let bytes = std::fs::read(&png).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000);
        if let Some(keep) = std::env::var_os("COOEE_KEEP_PICTURES") {
            std::fs::copy(&png, Path::new(&keep).join("measure.png")).unwrap();
        }
        assert!(draw(&recording, &report, "", &folder.path().join("x.bmp")).is_err());
    }
}
