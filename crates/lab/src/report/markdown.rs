//! A report that a person can read: Markdown with pictures beside it.

use std::fmt::Write;

use super::{Section, Table};

/// The whole document; `head` is put under the title.
pub fn document(head: &str, sections: &[Section], failures: &[(&str, String)]) -> String {
    let mut out = String::from("# The paper's experiments, run again\n\n");
    out.push_str(head);
    out.push_str("\n\n## Targets\n\n");
    let mut summary = Table::new("", &["experiment", "what", "paper", "target", "ours", ""]);
    for section in sections {
        for target in &section.targets {
            let verdict = if target.met { "met" } else { "**missed**" };
            let cells = [&target.what, &target.paper, &target.target, &target.ours];
            let head = format!("[{}](#{})", section.name, anchor(section.title));
            let cells = cells.into_iter().cloned();
            summary.row([head].into_iter().chain(cells).chain([verdict.to_owned()]));
        }
    }
    out.push_str(&table(&summary));
    for (name, problem) in failures {
        let _ = writeln!(out, "\n**{name} could not be measured**: {problem}");
    }
    for section in sections {
        out.push_str(&self::section(section));
    }
    out
}

fn section(section: &Section) -> String {
    let mut out = format!(
        "\n## {}\n\nCommand: `cooee lab {}`. {}\n",
        section.title, section.name, section.method
    );
    for one in &section.tables {
        if !one.title.is_empty() {
            let _ = write!(out, "\n{}:\n", one.title);
        }
        out.push('\n');
        out.push_str(&table(one));
    }
    for picture in &section.pictures {
        let _ = write!(out, "\n![{}]({})\n", picture.caption, picture.file);
    }
    if !section.notes.is_empty() {
        out.push('\n');
    }
    for note in &section.notes {
        let _ = writeln!(out, "* {note}");
    }
    out
}

fn table(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut out = line(&table.columns);
    out.push_str(&line(&vec!["---".to_owned(); table.columns.len()]));
    for row in &table.rows {
        let row: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        out.push_str(&line(&row));
    }
    out
}

/// The name under which Markdown readers know a heading.
fn anchor(heading: &str) -> String {
    let keep = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' => Some(letter.to_ascii_lowercase()),
        _ => None,
    };
    heading.chars().filter_map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Target;

    #[test]
    fn a_missed_target_stands_in_the_summary_and_bars_do_not_break_tables() {
        let mut section = Section::new("login", "Login (Table I)", "How.");
        section.targets.push(Target::new("time", "3 s", "1 s", "1.2 s".to_owned(), false));
        let mut table = Table::new("Sizes", &["a", "b"]);
        table.row(["1|2", "3"]);
        section.tables.push(table);
        let text = document("Head.", &[section], &[("peers", "no baresip".to_owned())]);
        assert!(
            text.contains("| [login](#login-table-i) | time | 3 s | 1 s | 1.2 s | **missed** |")
        );
        assert!(text.contains("| 1\\|2 | 3 |"));
        assert!(text.contains("**peers could not be measured**: no baresip"));
    }
}
