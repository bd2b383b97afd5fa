//! Draws a run over virtual time: super nodes and users, traffic, look-ups.

use std::{error::Error, path::Path};

use plotters::prelude::*;

use crate::overlay::{Report, report::Sample};

type Curve = (&'static str, RGBColor, fn(&Sample) -> f64);

const PANELS: [(&str, &[Curve]); 4] = [
    ("super nodes alive", &[("super nodes", BLUE, |s| s.super_nodes as f64)]),
    (
        "users",
        &[
            ("want to be attached", RED, |s| s.wanting as f64),
            ("attached", GREEN, |s| s.attached as f64),
        ],
    ),
    ("bytes per second and super node", &[("traffic", MAGENTA, |s| s.bytes_per_s)]),
    ("look-up delay, median, ms", &[("delay", BLACK, |s| s.lookup_ms)]),
];

/// Draws `report` into the SVG file at `path`.
pub(crate) fn draw(report: &Report, path: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (900, 1000)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{}, seed {}", report.scenario, report.seed);
    let root = root.titled(&title, ("sans-serif", 20))?;
    let last = report.samples.last().map_or(1.0, |sample| sample.minute);
    let first = report.samples.first().map_or(0.0, |sample| sample.minute);
    for (area, (name, curves)) in root.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        let values = report.samples.iter().flat_map(|s| curves.iter().map(move |c| (c.2)(s)));
        let top = values.fold(1.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .caption(name, ("sans-serif", 14))
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(first..last.max(first + 1.0), 0.0..top)?;
        chart.configure_mesh().x_desc("virtual minutes").light_line_style(WHITE).draw()?;
        for (label, colour, value) in curves {
            let points = report.samples.iter().map(|s| (s.minute, value(s)));
            chart
                .draw_series(LineSeries::new(points, colour))?
                .label(*label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        if curves.len() > 1 {
            chart.configure_series_labels().border_style(BLACK).draw()?;
        }
    }
    root.present()?;
    Ok(())
}
