//! What commands print: tables for people, JSON for programs.

use std::borrow::Cow;
use std::io::Write;

use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::CliError;

/// `-o` of the commands that list.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct OutputArgs {
    /// Form of the answer
    #[arg(short = 'o', long = "output", value_name = "FORM", default_value = "table")]
    pub(super) form: Form,
}

/// Form of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Form {
    /// Aligned columns, for people
    Table,
    /// One JSON document, for programs
    Json,
}

/// Prints text to stdout; a line end is added if it has none.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(end.as_bytes()));
    written
        .and_then(|()| stdout.flush())
        .map_err(|error| CliError::output("to stdout", error))
}

/// Prints a value as one JSON document.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value);
    print(&text.map_err(|error| CliError::Output {
        target: "to stdout".to_owned(),
        source: error.into(),
    })?)
}

/// Rows in aligned columns without borders, so that other tools can cut them.
#[derive(Debug)]
pub(super) struct Columns {
    table: Table,
    right: &'static [usize],
}

impl Columns {
    /// A table with a header; the columns numbered in `right` hold numbers and are aligned right.
    pub(super) fn new(header: &[&str], right: &'static [usize]) -> Self {
        let mut table = plain_table();
        table.set_header(
            header
                .iter()
                .enumerate()
                .map(|(index, name)| cell(name, right.contains(&index))),
        );
        Self { table, right }
    }

    /// A table of names and values, without a header.
    pub(super) fn pairs() -> Self {
        Self {
            table: plain_table(),
            right: &[],
        }
    }

    /// Adds a row; control characters are shown as escapes.
    pub(super) fn row(&mut self, cells: &[&str]) {
        let right = self.right;
        self.table.add_row(
            cells
                .iter()
                .enumerate()
                .map(|(index, text)| cell(text, right.contains(&index))),
        );
    }

    /// The lines, without blanks at their ends.
    pub(super) fn text(mut self) -> String {
        if self.table.row_count() == 0 && self.table.header().is_none() {
            return String::new();
        }
        lines(&mut self.table).map(|line| line + "\n").collect()
    }
}

/// Blanks after each column; none before, so that lines begin with the first value.
pub(super) const COLUMN_PADDING: (u16, u16) = (0, 2);

/// The laid-out lines of a table, without blanks at their ends.
pub(super) fn lines(table: &mut Table) -> impl Iterator<Item = String> {
    for column in table.column_iter_mut() {
        column.set_padding(COLUMN_PADDING);
    }
    table.lines().map(|line| line.trim_end().to_owned())
}

/// A table without borders, two blanks between columns, never wrapped.
pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .force_no_tty();
    table
}

/// A cell of such a table.
pub(super) fn cell(text: &str, right: bool) -> Cell {
    let alignment = if right {
        CellAlignment::Right
    } else {
        CellAlignment::Left
    };
    Cell::new(printable(text)).set_alignment(alignment)
}

/// Text without control characters: names and values come from files, and a terminal obeys what it is sent.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// A byte count for people: `1.2 GiB`.
pub(super) fn human_bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// A count with separators: `6,001,215`.
pub(super) fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_blank_end() {
        let mut columns = Columns::new(&["NAME", "SIZE"], &[1]);
        columns.row(&["a", "5"]);
        columns.row(&["longer", "12345"]);
        let text = columns.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().all(|line| *line == line.trim_end()), "{text:?}");
        assert!(lines[0].starts_with("NAME"), "{text:?}");
        let ends: Vec<_> = lines.iter().map(|line| line.len()).collect();
        assert_eq!(ends, [ends[0]; 3], "numbers end in one column: {text}");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["longer", "12345"]);
    }

    #[test]
    fn a_header_stands_even_without_rows() {
        assert_eq!(Columns::new(&["NAME"], &[]).text().trim(), "NAME");
        assert_eq!(Columns::pairs().text(), "");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(printable("größe 日本"), "größe 日本");
    }

    #[test]
    fn counts_have_separators() {
        assert_eq!(
            [0, 999, 1000, 6_001_215].map(human_count),
            ["0", "999", "1,000", "6,001,215"]
        );
    }
}
