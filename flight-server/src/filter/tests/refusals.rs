//! What is refused, in which words and at which place.

use super::*;

#[test]
fn text_that_does_not_parse_is_refused_with_its_place() {
    for (sql, place) in [
        ("id >", (1, 5)),
        ("id > > 1", (1, 6)),
        ("(id > 1", (1, 8)),
        ("id > 1)", (1, 7)),
        ("id = 1 AND\n  name = ", (2, 10)),
        ("name = 'open", (1, 8)),
        ("id = 1; drop table x", (1, 7)),
        ("SELECT 1", (1, 8)),
        ("id id2 id3", (1, 4)),
    ] {
        let error = refused(sql);
        assert_eq!(error.position, Some(place), "{sql}: {error}");
        assert!(
            error
                .to_string()
                .ends_with(&format!("(line {}, column {})", place.0, place.1)),
            "{error}"
        );
        assert!(!error.message.contains("at Line"), "{error}");
    }
}

#[test]
fn an_unknown_column_is_refused_with_the_nearest_and_its_place() {
    assert_eq!(
        refused("id = 1 AND pric > 2").to_string(),
        "there is no column pric; did you mean price? (line 1, column 12)"
    );
    assert_eq!(
        refused("ID = 1").to_string(),
        "there is no column ID; did you mean id? (line 1, column 1)"
    );
    assert_eq!(refused("case_ = 1 or\n zzzz = 1").position, Some((1, 1)));
    assert_eq!(
        refused("zzzz = 1").to_string(),
        "there is no column zzzz (line 1, column 1)"
    );
    assert_refused("\"L_TAX\" = 1", "did you mean \"L TAX\"?");
    assert_refused("name = \"someone else\"", "text is written in single quotes");
    assert_refused("s.z = 1", "there is no column s.z; did you mean s.x?");
    assert_refused("s.x.y = 1", "there is no column s.x.y");
    assert_refused("id.x = 1", "there is no column id.x");
    assert_refused("t.id = 1", "there is no column t.id");
    assert_refused("@id = 1", "there is no column");
}

#[test]
fn text_and_numbers_do_not_compare() {
    for sql in [
        "id = '2'",
        "'2' = id",
        "id > 'x'",
        "name = 2",
        "2 = name",
        "name < 1.5",
        "view = 1",
        "large = 1",
        "dict = 1",
        "f = '1.5'",
        "id IN (1, '2')",
        "name IN ('a', 1)",
        "id BETWEEN 1 AND '2'",
        "name BETWEEN 1 AND 2",
        "id = name",
        "name = id",
        "upper(name) = 1",
        "length(name) = '3'",
        "id + 1 = '2'",
        "price = name",
        "id IS DISTINCT FROM '1'",
        "s.x = '1'",
        "CASE id WHEN '1' THEN true ELSE false END",
        "nullif(id, '1') = 1",
        "coalesce(id, '1') = 1",
        "NOT (id = '2')",
        "ok AND (name = 'x' OR id != '2')",
    ] {
        assert_refused(sql, "they do not compare");
    }
    assert_eq!(
        refused("ok AND id = '2'").to_string(),
        "id is a number (Int64) and '2' is text (Utf8): they do not compare; write 2 without quotes (line 1, column 8)"
    );
    assert_refused("name = 2", "write '2' in quotes");
    assert_refused("id LIKE '2%'", "LIKE compares text, and id is a number (Int64)");
    assert_refused("id + '1' = 2", "+ does not take text");
}

#[test]
fn other_kinds_do_not_compare_either() {
    for sql in [
        "ok = 1",
        "ok = 'true'",
        "day = 5",
        "at > 5",
        "5 < at",
        "name = day",
        "ok = name",
        "raw = 5",
        "day = ok",
        "at = INTERVAL '1 day'",
        "s = 1",
    ] {
        assert_refused(sql, "they do not compare");
    }
}

#[test]
fn a_literal_that_does_not_read_is_refused() {
    assert_refused(
        "day = 'yesterday'",
        "'yesterday' does not read as a date such as '2024-01-31' (Date32)",
    );
    assert_refused("day = '1998-13-01'", "does not read as a date");
    assert_refused("at > 'noon'", "does not read as a timestamp");
    assert_refused("at = '1970-01-01T00:00:00.000001001'", "no finer than the other side");
    assert_refused("price = '7 cents'", "does not read as a decimal number");
    assert_refused("price = ''", "does not read as a decimal number");
    assert_refused("uuid = 'short'", "binary of that length, or a UUID");
    assert_refused("CAST('abc' AS INT) = 1", "abc");
}

#[test]
fn what_differs_from_node_to_node_is_refused() {
    for sql in [
        "random() < 0.5",
        "at < now()",
        "day = current_date",
        "at < current_timestamp",
        "uuid() = 'x'",
    ] {
        assert_refused(sql, "gives another answer on another node or at another time");
    }
}

#[test]
fn what_is_not_a_function_of_the_row_is_refused() {
    assert_refused("sum(id) > 5", "there is no scalar function sum()");
    assert_refused("row_number() OVER () = 1", "OVER");
    assert_refused("uper(name) = 'X'", "did you mean upper()?");
    assert_refused("id IN (SELECT 1)", "no query of its own");
    assert_refused("EXISTS (SELECT 1)", "no query of its own");
    assert_refused("id = (SELECT 1)", "no query of its own");
    assert_refused("id = $1", "stands for a value");
    assert_refused("id = 1 AS x", "leave out AS");
    assert_refused("*", "");
    assert_refused("repeat(name, 1000000000) = 'x'", "grow");
    assert_refused("list_repeat(s, 9) = s", "array_repeat() may grow");
    for name in [
        "repeat(name, 2)",
        "lpad(name, 9)",
        "rpad(name, 9)",
        "replace(name, 'a', 'b')",
        "regexp_replace(name, 'a', 'b')",
    ] {
        assert_refused(&format!("{name} = 'x'"), "may grow");
    }
    assert_refused("range(9) = s", "range() may grow");
    assert_refused("generate_series(9) = s", "generate_series() may grow");
    assert_refused("array_resize(s, 9) = s", "array_resize() may grow");
    assert_refused("array_to_string(s, 'x') = 'x'", "array_to_string() may grow");
    assert_refused("unnest(s) = 1", "there is no scalar function unnest()");
}

#[test]
fn a_filter_is_true_or_false() {
    assert_eq!(
        refused("id + 1").to_string(),
        "a filter must be true or false, and id + 1 is a number (Int64) (line 1, column 1)"
    );
    assert_refused("name", "name is text (Utf8)");
    assert_refused("'true'", "is text");
    assert_refused("s", "a nested value");
    assert_refused("id AND ok", "");
}

#[test]
fn size_and_depth_are_bounded() {
    assert_refused("", "there is no text");
    assert_refused(" \n\t ", "there is no text");
    assert_refused(
        &format!("name = '{}'", "x".repeat(MAX_FILTER_BYTES)),
        "bytes are more than",
    );
    assert_refused(&format!("{}id = 1{}", "(".repeat(500), ")".repeat(500)), "nests deeper");
    assert_refused(&format!("{} ok", "NOT ".repeat(1000)), "found: NOT");
    assert_refused(&vec!["id"; 8000].join("+"), "words and signs");
    assert_refused("-- only a comment", "");
}

/// The longest chains that are allowed, on three quarters of a server thread's stack of 2 MiB.
#[test]
fn chains_at_the_limit_leave_stack_to_spare() {
    let run = || {
        for (taken, sql) in [
            (true, vec!["ok"; 1024].join(" AND ")),
            (true, vec!["id = 1"; 680].join(" OR ")),
            (
                true,
                (0..680).map(|i| format!("id <> {i}")).collect::<Vec<_>>().join(" AND "),
            ),
            (
                true,
                (0..680)
                    .map(|i| if i % 2 == 0 { "id > 1" } else { "f < 1" })
                    .collect::<Vec<_>>()
                    .join(" OR "),
            ),
            (true, vec!["id"; 250].join("+") + " > 1"),
            (true, vec!["name"; 250].join("||") + " > 'a'"),
            (true, format!("ok{}", " IS TRUE".repeat(250))),
            (true, format!("id{} = 1", "::bigint::int".repeat(120))),
            (true, format!("{}id{} = 1", "(".repeat(40), ")".repeat(40))),
            (
                true,
                format!(
                    "id IN ({})",
                    (0..10_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",")
                ),
            ),
            (false, vec!["id"; 2000].join("+") + " > 1"),
            (false, format!("name{}", " || name".repeat(1900)) + " = 'x'"),
            (false, format!("ok{}", " IS TRUE".repeat(1900))),
            (false, format!("id{} = 1", "::bigint::int".repeat(900))),
            (false, format!("s{} = 1", "['x']".repeat(1300))),
            (false, format!("id = 1{}", " IS NULL".repeat(1900))),
            (false, format!("id{} 5", " = id".repeat(1900))),
        ] {
            let predicate = Predicate::parse(&sql, &schema());
            assert_eq!(predicate.is_ok(), taken, "{}: {:?}", &sql[..60], predicate.err());
            if let Ok(predicate) = predicate {
                let batch = batch();
                let filter = predicate.row_filter(&batch.schema()).unwrap();
                filter
                    .evaluate(&batch)
                    .unwrap_or_else(|error| panic!("{}: {error}", &sql[..60]));
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(3 << 19)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

proptest::proptest! {
    #[test]
    fn random_text_is_an_error_or_a_filter(sql: String) {
        let _ = Predicate::parse(&sql, &schema());
    }

    #[test]
    fn random_words_are_an_error_or_a_filter(
        words in proptest::collection::vec(proptest::sample::select(&[
            "id", "name", "ok", "f", "s", ".", "x", "(", ")", "'a'", "'1998-12-01'", "1", "-1", "2.5", "=", "<", ">=", "AND", "OR", "NOT",
            "IN", "BETWEEN", "IS", "NULL", "LIKE", "CASE", "WHEN", "THEN", "END", "CAST", "AS", "INT", ",", "+", "*", "/", "[", "]", "::",
            "upper", "length", "INTERVAL", "DATE", "day", "at", "true", "||", "~", "price",
        ][..]), 1..14)
    ) {
        let sql = words.join(" ");
        if let Ok(predicate) = Predicate::parse(&sql, &schema()) {
            let batch = batch();
            let _ = predicate.row_filter(&batch.schema()).unwrap().evaluate(&batch);
        }
    }
}
