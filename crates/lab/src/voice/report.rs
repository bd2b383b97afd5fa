//! The report: Markdown tables and two pictures.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Cell, Condition, Figures, Kind, Spread, VoicePlan, figures};
use crate::canvas::prepare_fonts;

/// A figure that gets a table: title, digits, which one it is.
type Column = (&'static str, usize, fn(&Figures) -> Option<Spread>);

const TABLES: [Column; 8] = [
    ("Mouth to ear, ms", 1, |f| f.mouth_to_ear_ms),
    ("Standard deviation of the delay within a call, ms", 1, |f| f.mouth_to_ear_ms_sd),
    ("PESQ (wideband)", 2, |f| f.pesq),
    ("ViSQOL (speech)", 2, |f| f.visqol),
    ("PLCMOS", 2, |f| f.plcmos),
    ("Bytes a second in one direction, headers included", 0, |f| f.bytes_per_s),
    ("Processor of one client, % of a core", 1, |f| f.cpu_percent),
    ("Memory of one client, MiB", 1, |f| f.rss_mib),
];

const COLORS: [RGBColor; 6] = [
    RGBColor(150, 150, 150),
    RGBColor(31, 105, 165),
    RGBColor(120, 175, 220),
    RGBColor(200, 92, 30),
    RGBColor(225, 160, 60),
    RGBColor(40, 130, 70),
];

/// Writes `voice.md`, `delay.png`, `pesq.png` and `cells.jsonl` to `folder`.
pub fn write(plan: &VoicePlan, cells: &[Cell], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let figures = figures(cells, &plan.conditions);
    fs::write(folder.join("voice.md"), markdown(plan, cells, &figures)?)?;
    let lines: Result<Vec<String>, _> = cells.iter().map(line).collect();
    fs::write(folder.join("cells.jsonl"), lines?.concat())?;
    for (name, column) in [("delay.png", TABLES[0]), ("pesq.png", TABLES[2])] {
        draw(plan, &figures, column, &folder.join(name))?;
    }
    Ok(())
}

fn line(cell: &Cell) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(cell)?;
    value["peer"] = cell.peer.name().into();
    Ok(format!("{value}\n"))
}

fn markdown(plan: &VoicePlan, cells: &[Cell], figures: &[Figures]) -> Result<String> {
    let mut text = String::from("# Voice compared\n\n");
    let loads = Spread::of(cells.iter().filter_map(|cell| cell.load));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = loads.map_or_else(String::new, |load| {
        format!(
            " Load average while it ran: {:.1} ({:.1} to {:.1}) on {cores} cores.",
            load.median, load.min, load.max
        )
    });
    let (runs, rigs) = (plan.runs, plan.rigs);
    writeln!(
        text,
        "Each figure is the median of {runs} calls (least to most); {rigs} calls at a time.{load} \
         The rig's own delay is in the column rig.\n"
    )?;
    writeln!(text, "| condition | |\n| --- | --- |")?;
    for condition in &plan.conditions {
        writeln!(text, "| {} | {} |", condition.name, condition.about)?;
    }
    for (title, digits, of) in TABLES {
        table(&mut text, plan, figures, (title, digits, of))?;
    }
    let problems: Vec<_> =
        cells.iter().filter_map(|c| Some((c.title(), c.problem.as_ref()?))).collect();
    if !problems.is_empty() {
        writeln!(text, "\n## Calls that failed\n")?;
        for (title, problem) in problems {
            writeln!(text, "- {title}: {}", problem.lines().next().unwrap_or_default())?;
        }
    }
    writeln!(text, "\n![delay](delay.png)\n\n![PESQ](pesq.png)")?;
    Ok(text)
}

fn table(text: &mut String, plan: &VoicePlan, figures: &[Figures], column: Column) -> Result<()> {
    let (title, digits, of) = column;
    let peers = peers(plan);
    let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
    writeln!(text, "\n## {title}\n\n| condition | {} |", names.join(" | "))?;
    writeln!(text, "| --- |{}", " --- |".repeat(peers.len()))?;
    for condition in &plan.conditions {
        write!(text, "| {} |", condition.name)?;
        for peer in &peers {
            match find(figures, *peer, condition).and_then(of) {
                Some(Spread { median, min, max }) if plan.runs > 1 => {
                    write!(text, " {median:.digits$} ({min:.digits$} {max:.digits$}) |")?;
                }
                Some(spread) => write!(text, " {:.digits$} |", spread.median)?,
                None => write!(text, " |")?,
            }
        }
        writeln!(text)?;
    }
    Ok(())
}

fn peers(plan: &VoicePlan) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| plan.peers.contains(kind)).collect()
}

fn find<'f>(figures: &'f [Figures], peer: Kind, condition: &Condition) -> Option<&'f Figures> {
    figures.iter().find(|f| f.peer == peer && f.condition == condition.name)
}

/// Bars: conditions side by side, peers in each.
fn draw(plan: &VoicePlan, figures: &[Figures], column: Column, path: &Path) -> Result<()> {
    prepare_fonts();
    let (title, _, of) = column;
    let peers = peers(plan);
    let count = plan.conditions.len();
    let highest = figures.iter().filter_map(of).map(|s| s.max).fold(1.0, f64::max) * 1.1;
    let problem =
        |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", path.display());
    let width = 240 + 95 * u32::try_from(count)?;
    let area = BitMapBackend::new(path, (width.max(640), 520)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| problem(&e))?;
    #[allow(clippy::cast_precision_loss)]
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..count as f64, 0.0..highest)
        .map_err(|e| problem(&e))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(title)
        .draw()
        .map_err(|e| problem(&e))?;
    #[allow(clippy::cast_precision_loss)]
    let step = 0.84 / peers.len().max(1) as f64;
    for (index, peer) in peers.iter().enumerate() {
        let at = Kind::ALL.iter().position(|kind| kind == peer).unwrap_or(0);
        let color = COLORS[at];
        let mut bars = Vec::new();
        for (place, condition) in plan.conditions.iter().enumerate() {
            let Some(spread) = find(figures, *peer, condition).and_then(of) else { continue };
            #[allow(clippy::cast_precision_loss)]
            let left = place as f64 + 0.08 + index as f64 * step;
            let middle = left + step / 2.0;
            bars.push(Rectangle::new(
                [(left, 0.0), (left + step * 0.9, spread.median)],
                color.filled(),
            ));
            let ends = [(middle - 0.005, spread.min), (middle + 0.005, spread.max)];
            bars.push(Rectangle::new(ends, BLACK.filled()));
        }
        chart
            .draw_series(bars)
            .map_err(|e| problem(&e))?
            .label(peer.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
    }
    let small = ("sans-serif", 13).into_font();
    for (place, condition) in plan.conditions.iter().enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let (x, _) = chart.backend_coord(&(place as f64 + 0.1, 0.0));
        let text = Text::new(condition.name.clone(), (x, 490), small.clone());
        area.draw(&text).map_err(|e| problem(&e))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(|e| problem(&e))?;
    area.present().map_err(|e| problem(&e))?;
    Ok(())
}
