//! Where statements end in what was typed: at a semicolon that is in no quotes and in no comment.

/// The statements that are whole, without their semicolons, and what was begun after the last of them.
pub(super) fn split(text: &str) -> (Vec<&str>, &str) {
    let mut statements = Vec::new();
    let mut begin = 0;
    let mut at = Place::Plain;
    let mut chars = text.char_indices().peekable();
    while let Some((index, char)) = chars.next() {
        let next = chars.peek().map(|&(_, next)| next);
        let (moved, taken) = at.after(char, next);
        if at == Place::Plain && char == ';' {
            let statement = text[begin..index].trim();
            statements.extend((!statement.is_empty()).then_some(statement));
            begin = index + 1;
        }
        if taken == 2 {
            chars.next();
        }
        at = moved;
    }
    (statements, text[begin..].trim())
}

/// Whether nothing is waited for: what was typed ends with a statement's end, or is a help, or is nothing.
pub(super) fn is_whole(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('\\') || without_comments(split(text).1).is_empty()
}

/// Where a character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    /// In quotes of this kind; two of them are one of the text.
    Quoted(char),
    /// In a comment up to the line's end.
    Line,
    /// In so many comments within each other.
    Block(u32),
}

impl Place {
    /// Where what follows `char` stands, and how many characters led there.
    fn after(self, char: char, next: Option<char>) -> (Self, usize) {
        match (self, char, next) {
            (Self::Plain, '\'' | '"' | '`', _) => (Self::Quoted(char), 1),
            (Self::Plain, '-', Some('-')) => (Self::Line, 2),
            (Self::Plain, '/', Some('*')) => (Self::Block(1), 2),
            // Two quotes are left and entered again, which comes to the same.
            (Self::Quoted(quote), char, _) if quote == char => (Self::Plain, 1),
            (Self::Line, '\n', _) => (Self::Plain, 1),
            (Self::Block(depth), '/', Some('*')) => (Self::Block(depth + 1), 2),
            (Self::Block(1), '*', Some('/')) => (Self::Plain, 2),
            (Self::Block(depth), '*', Some('/')) => (Self::Block(depth - 1), 2),
            (place, ..) => (place, 1),
        }
    }
}

/// The text that is in no comment.
fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut at = Place::Plain;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let (moved, taken) = at.after(char, chars.peek().copied());
        let is_comment = |place| matches!(place, Place::Line | Place::Block(_));
        if !is_comment(at) && !is_comment(moved) {
            kept.push(char);
        }
        if taken == 2 {
            chars.next();
        }
        at = moved;
    }
    kept.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons() {
        assert_eq!(split("select 1; select 2 ;"), (vec!["select 1", "select 2"], ""));
        assert_eq!(split(" select 1\n"), (vec![], "select 1"));
        assert_eq!(split(";;"), (vec![], ""));
    }

    #[test]
    fn semicolons_in_quotes_and_comments_end_nothing() {
        for text in [
            "select 'a;b'",
            "select 'it''s;'",
            "select \"a;b\" from t",
            "select 1 -- one; two",
            "select /* a; /* b; */ c; */ 1",
            "select 'never closed;",
        ] {
            assert_eq!(split(text), (vec![], text), "{text}");
        }
        assert_eq!(split("select 1 -- a\n; select 2").0, ["select 1 -- a"]);
        assert_eq!(split("select 2 - -1;").0, ["select 2 - -1"]);
    }

    #[test]
    fn what_is_whole_is_not_waited_for() {
        for text in [
            "",
            "  ",
            "\\d",
            "select 1;",
            "select 1; -- done",
            "select 1; /* done */ ",
            "-- nothing",
        ] {
            assert!(is_whole(text), "{text}");
        }
        for text in ["select 1", "select 1; select", "select ';", "select 1 -- ;"] {
            assert!(!is_whole(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_split_without_loss_of_what_is_no_blank(text in "[a;'\"/*\\- \n]{0,40}") {
            let (statements, rest) = split(&text);
            let count = |text: &str| text.chars().filter(|char| !char.is_whitespace() && *char != ';').count();
            let found: usize = statements.iter().map(|statement| count(statement)).sum();
            proptest::prop_assert_eq!(found + count(rest), count(&text));
        }
    }
}
