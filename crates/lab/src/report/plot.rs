//! Charts of the experiments: lines, points and names on the axes.

use std::path::Path;

use plotters::{
    coord::{Shift, ranged1d::ValueFormatter},
    prelude::*,
};

use crate::canvas::{self, GRID, INK, Sketch};

const WIDTH: u32 = 1_200;

/// Colours in the order of the series.
const COLOURS: [RGBColor; 7] = [
    RGBColor(31, 105, 165),
    RGBColor(200, 92, 30),
    RGBColor(40, 130, 70),
    RGBColor(150, 60, 150),
    RGBColor(205, 40, 50),
    RGBColor(110, 110, 110),
    RGBColor(180, 150, 20),
];

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line through the points.
    Line,
    /// The points alone.
    Points,
    /// A line along the top edge of steps.
    Steps,
}

/// Points of one kind.
#[derive(Debug, Clone)]
pub struct Series {
    /// What they are.
    pub name: String,
    /// Where they are.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub style: Style,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What, with its unit.
    pub label: String,
    /// From and to.
    pub range: (f64, f64),
    /// Logarithmic; only the horizontal one may be.
    pub is_logarithmic: bool,
    /// Names of 0, 1, 2 …, instead of numbers.
    pub names: Vec<String>,
}

impl Axis {
    /// A linear axis with numbers.
    pub fn new(label: &str, from: f64, to: f64) -> Self {
        Self {
            label: label.to_owned(),
            range: (from, to.max(from + 1e-9)),
            is_logarithmic: false,
            names: Vec::new(),
        }
    }

    /// A logarithmic axis.
    pub fn logarithmic(label: &str, from: f64, to: f64) -> Self {
        Self { is_logarithmic: true, ..Self::new(label, from, to) }
    }

    /// An axis of names.
    pub fn of_names(label: &str, names: Vec<String>) -> Self {
        let to = names.len() as f64 - 0.4;
        Self { names, ..Self::new(label, -0.6, to) }
    }

    fn format(&self, value: f64) -> String {
        if self.names.is_empty() {
            let digits = usize::from(self.range.1 - self.range.0 < 5.0);
            return format!("{value:.digits$}");
        }
        let index = value.round();
        if (value - index).abs() > 0.01 || index < 0.0 {
            return String::new();
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small index"
        )]
        self.names.get(index as usize).cloned().unwrap_or_default()
    }
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
    /// Height in pixels.
    pub height: u32,
}

/// Draws to `path`, PNG or SVG by its extension.
pub fn draw(chart: &Chart, path: &Path) -> anyhow::Result<()> {
    canvas::draw(path, (WIDTH, chart.height), chart)
}

impl Sketch for Chart {
    fn draw_on<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        draw_on(area, self)
    }
}

fn draw_on<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let area = area.margin(12, 12, 12, 28);
    let (heading, body) = area.split_vertically(40);
    canvas::title(&heading, &chart.title, 22)?;
    let (x, y) = (chart.x.range, chart.y.range);
    let mut builder = ChartBuilder::on(&body);
    builder.x_label_area_size(48).y_label_area_size(if chart.y.names.is_empty() {
        84
    } else {
        190
    });
    if chart.x.is_logarithmic {
        let built = builder.build_cartesian_2d((x.0..x.1).log_scale(), y.0..y.1)?;
        fill(built, chart)?;
    } else {
        let built = builder.build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        fill(built, chart)?;
    }
    area.present()?;
    Ok(())
}

fn fill<'a, B: DrawingBackend + 'a, X>(
    mut context: ChartContext<'a, B, Cartesian2d<X, plotters::coord::types::RangedCoordf64>>,
    chart: &Chart,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let y_labels = if chart.y.names.is_empty() { 8 } else { 2 * chart.y.names.len() + 1 };
    canvas::frame(&mut context.configure_mesh(), INK)
        .x_desc(chart.x.label.as_str())
        .y_desc(chart.y.label.as_str())
        .x_labels(14)
        .y_labels(y_labels)
        .x_label_formatter(&|value| chart.x.format(*value))
        .y_label_formatter(&|value| chart.y.format(*value))
        .draw()?;
    for (index, series) in chart.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = match series.style {
            Style::Steps => steps(&series.points),
            _ => series.points.clone(),
        };
        let drawn = if series.style == Style::Points {
            context.draw_series(points.into_iter().map(|at| Circle::new(at, 4, colour.filled())))?
        } else {
            context.draw_series(LineSeries::new(points, colour.stroke_width(2)))?
        };
        if chart.series.len() > 1 {
            drawn.label(series.name.as_str()).legend(move |(x, y)| {
                Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled())
            });
        }
    }
    if chart.series.len() > 1 {
        context
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(canvas::text(15))
            .draw()?;
    }
    Ok(())
}

fn steps(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut out = Vec::with_capacity(points.len() * 2);
    for (index, point) in points.iter().enumerate() {
        if let Some(before) = index.checked_sub(1).and_then(|before| points.get(before)) {
            out.push((point.0, before.1));
        }
        out.push(*point);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_carry_names_and_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let series = |name: &str, style| Series {
            name: name.to_owned(),
            points: vec![(50.0, 0.0), (1000.0, 1.0), (15_000.0, 0.0)],
            style,
        };
        let chart = Chart {
            title: "Attempts".to_owned(),
            x: Axis::logarithmic("frequency (Hz)", 50.0, 20_000.0),
            y: Axis::of_names("", vec!["super node".to_owned(), "login server".to_owned()]),
            series: vec![series("one", Style::Line), series("two", Style::Points)],
            height: 400,
        };
        let svg = folder.path().join("chart.svg");
        draw(&chart, &svg).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in ["Attempts", "frequency (Hz)", "super node", "login server", "one", "two"] {
            assert!(text.contains(word), "{word}");
        }
        draw(&chart, &folder.path().join("chart.png")).unwrap();
        assert_eq!(steps(&[(0.0, 1.0), (2.0, 3.0)]), [(0.0, 1.0), (2.0, 1.0), (2.0, 3.0)]);
    }
}
