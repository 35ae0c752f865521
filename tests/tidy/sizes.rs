//! Files that can be read without scrolling back. Functions and parameters are clippy's (`clippy.toml`).

use crate::sources::{rust_sources, sources};

/// Longest file, in lines, without its tests.
const MAX_FILE_LINES: usize = 600;

/// Widest line outside the formatter's reach, such as comments; tests may hold long literals.
const MAX_LINE_CHARS: usize = 140;

/// "a file under 600 without its tests".
#[test]
fn files_are_short() {
    for source in rust_sources() {
        let lines = source.without_tests().lines().count();
        assert!(lines <= MAX_FILE_LINES, "{}: {lines} lines", source.path);
    }
    for source in sources("tests", "py") {
        let lines = source.text.lines().count();
        assert!(lines <= MAX_FILE_LINES, "{}: {lines} lines", source.path);
    }
}

/// No line runs off the screen.
#[test]
fn lines_are_narrow() {
    for source in rust_sources() {
        for (number, line) in source.without_tests().lines().enumerate() {
            assert!(
                line.chars().count() <= MAX_LINE_CHARS,
                "{}:{}: too wide",
                source.path,
                number + 1
            );
        }
    }
}

/// Nothing is left for later in the code.
#[test]
fn nothing_is_left_undone() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("unimple", "mented!("),
        concat!("to", "do!("),
    ];
    for source in rust_sources() {
        for word in words {
            assert!(!source.text.contains(word), "{}: {word}", source.path);
        }
    }
}
