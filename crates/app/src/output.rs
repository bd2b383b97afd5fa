//! How the program speaks: sentences for people on a terminal, one JSON object a line for scripts.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

/// Where and how results are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// `--json`: machine-readable.
    pub(crate) json: bool,
    colour: bool,
}

impl Output {
    /// Decides on colour from the terminal and `NO_COLOR`.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, colour: !json && wants_colour(&io::stdout()) }
    }

    /// A result: `object` for scripts, `sentence` for people.
    pub(crate) fn result(self, object: &impl Serialize, sentence: impl Display) {
        if self.json {
            self.json_line(object);
        } else {
            self.line(sentence);
        }
    }

    /// One JSON object on a line of its own, in JSON mode only.
    pub(crate) fn json_line(self, object: &impl Serialize) {
        if self.json {
            let line = serde_json::to_string(object).expect("own types serialise");
            print_line(&line);
        }
    }

    /// A line for people; nothing in JSON mode.
    pub(crate) fn line(self, sentence: impl Display) {
        if !self.json {
            print_line(&sentence.to_string());
        }
    }

    /// A progress note for people, on standard error so that results can be piped.
    pub(crate) fn note(self, sentence: impl Display) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{sentence}");
        }
    }

    /// `text` in bold where colour is wanted.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// `text` in green where colour is wanted.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// `text` in red where colour is wanted.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Whether colour is wanted on `stream`: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn wants_colour(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && stream.is_terminal()
}

/// A reader that went away (`| head`) is no error of ours.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
