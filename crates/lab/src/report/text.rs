//! A section for a terminal.

use std::fmt::Write;

use super::{Section, Table};

/// Everything but the pictures.
pub(super) fn section(section: &Section) -> String {
    let mut out = format!("{}\n", section.title);
    for table in &section.tables {
        out.push('\n');
        out.push_str(&table_text(table));
    }
    if !section.targets.is_empty() {
        out.push('\n');
    }
    for target in &section.targets {
        let verdict = if target.met { "met   " } else { "MISSED" };
        let _ = writeln!(
            out,
            "{verdict}  {}: {} (target {}, the paper {})",
            target.what, target.ours, target.target, target.paper
        );
    }
    for note in &section.notes {
        let _ = writeln!(out, "note    {note}");
    }
    out
}

fn table_text(table: &Table) -> String {
    let mut widths: Vec<usize> = table.columns.iter().map(|cell| cell.chars().count()).collect();
    for row in &table.rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let cells: Vec<_> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    let mut out = format!("{}\n{}", table.title, line(&table.columns));
    for row in &table.rows {
        out.push_str(&line(row));
    }
    out
}
