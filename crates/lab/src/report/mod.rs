//! What an experiment found, for people (text, Markdown with pictures) and for scripts (JSON
//! lines).

mod markdown;
pub mod plot;
mod text;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

pub use markdown::document;

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

/// A picture in the report's folder.
#[derive(Debug, Clone)]
pub struct Picture {
    /// File name.
    pub file: String,
    /// What it shows.
    pub caption: String,
}

/// What we wanted, and whether we have it.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// Of what.
    pub what: String,
    /// What the paper measured.
    pub paper: String,
    /// What is wanted.
    pub target: String,
    /// What was measured.
    pub ours: String,
    /// Whether it is met.
    pub met: bool,
}

impl Target {
    /// A target.
    pub fn new(what: &str, paper: &str, target: &str, ours: String, met: bool) -> Self {
        let owned = str::to_owned;
        Self { what: owned(what), paper: owned(paper), target: owned(target), ours, met }
    }
}

/// One experiment's result.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Name on the command line.
    pub name: &'static str,
    /// Heading: the paper's table or figure.
    pub title: &'static str,
    /// How it was measured, in a few sentences.
    pub method: String,
    /// Tables.
    pub tables: Vec<Table>,
    /// Pictures.
    pub pictures: Vec<Picture>,
    /// Targets.
    pub targets: Vec<Target>,
    /// What else there is to say.
    pub notes: Vec<String>,
    /// For scripts: one object a line.
    pub lines: Vec<Value>,
    /// The lines are complete: no summary behind them.
    pub lines_only: bool,
}

impl Section {
    /// An empty section.
    pub fn new(name: &'static str, title: &'static str, method: &str) -> Self {
        Self { name, title, method: method.to_owned(), ..Self::default() }
    }

    /// Every target met.
    pub fn is_ok(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }

    /// The JSON lines, the summary last.
    pub fn json_lines(&self) -> Vec<Value> {
        let mut lines = self.lines.clone();
        if !self.lines_only {
            let targets = &self.targets;
            lines.push(json!({ "experiment": self.name, "ok": self.is_ok(), "targets": targets }));
        }
        lines
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        text::section(self)
    }
}

/// A file in the folder of pictures, if there is one.
pub fn picture(
    folder: Option<&PathBuf>,
    section: &mut Section,
    file: &str,
    caption: &str,
    draw: impl FnOnce(&std::path::Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    draw(&folder.join(file))?;
    section.pictures.push(Picture { file: file.to_owned(), caption: caption.to_owned() });
    Ok(())
}
