//! Filters from the outside: what is refused and in which words, which rows pass.

mod pruning;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
    StructArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};

use super::*;

fn array(values: impl arrow::array::Array + 'static) -> ArrayRef {
    Arc::new(values)
}

/// Four rows; the last is null in every column that may be.
fn batch() -> RecordBatch {
    let micros = |text: &str| chrono_micros(text);
    let structs = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int32, true)),
            array(Int32Array::from(vec![Some(1), Some(2), None, Some(4)])),
        ),
        (
            Arc::new(Field::new("Y y", DataType::Utf8, true)),
            array(StringArray::from(vec!["a", "b", "c", "d"])),
        ),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", array(Int64Array::from(vec![Some(1), Some(2), Some(3), None]))),
        (
            "big",
            array(UInt64Array::from(vec![Some(1), Some(u64::MAX), Some(3), None])),
        ),
        (
            "price",
            array(
                Decimal128Array::from(vec![Some(5), Some(7), Some(100_00), None])
                    .with_precision_and_scale(15, 2)
                    .unwrap(),
            ),
        ),
        (
            "wide",
            array(
                Decimal128Array::from(vec![Some(5), Some(7), Some(10_i128.pow(37)), None])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        (
            "f",
            array(Float64Array::from(vec![Some(1.5), Some(f64::NAN), Some(-0.0), None])),
        ),
        (
            "g",
            array(Float32Array::from(vec![Some(1.5), Some(-f32::NAN), Some(0.0), None])),
        ),
        (
            "ok",
            array(BooleanArray::from(vec![Some(true), Some(false), Some(true), None])),
        ),
        (
            "name",
            array(StringArray::from(vec![Some("ann"), Some("bob"), Some("it's"), None])),
        ),
        (
            "view",
            array(StringViewArray::from(vec![Some("ann"), Some("bob"), Some("cid"), None])),
        ),
        (
            "large",
            array(LargeStringArray::from(vec![
                Some("ann"),
                Some("bob"),
                Some("cid"),
                None,
            ])),
        ),
        (
            "dict",
            array(
                vec![Some("ann"), Some("bob"), Some("ann"), None]
                    .into_iter()
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ),
        (
            "day",
            array(Date32Array::from(vec![Some(0), Some(10_561), Some(19_723), None])),
        ),
        (
            "at",
            array(TimestampMicrosecondArray::from(vec![
                Some(0),
                Some(micros("12:30")),
                Some(1),
                None,
            ])),
        ),
        (
            "utc",
            array(
                TimestampMicrosecondArray::from(vec![Some(0), Some(micros("12:30")), Some(1), None])
                    .with_timezone("UTC"),
            ),
        ),
        (
            "raw",
            array(BinaryArray::from(vec![
                Some(b"ann".as_slice()),
                Some(b"bob"),
                Some(b""),
                None,
            ])),
        ),
        (
            "uuid",
            array(FixedSizeBinaryArray::try_from_iter([[0u8; 16], [1; 16], [2; 16], [3; 16]].into_iter()).unwrap()),
        ),
        ("a.b", array(Int32Array::from(vec![10, 20, 30, 40]))),
        ("L TAX", array(Int32Array::from(vec![1, 2, 3, 4]))),
        ("Case", array(Int32Array::from(vec![1, 2, 3, 4]))),
        ("s", array(structs)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// 2024-01-02 at a time of day, in microseconds since 1970.
fn chrono_micros(time: &str) -> i64 {
    let (hours, minutes) = time.split_once(':').unwrap();
    let minutes = hours.parse::<i64>().unwrap() * 60 + minutes.parse::<i64>().unwrap();
    (19_724 * 24 * 60 + minutes) * 60_000_000
}

fn schema() -> SchemaRef {
    batch().schema()
}

fn parse(sql: &str) -> Predicate {
    Predicate::parse(sql, &schema()).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The rows that pass, from 0.
fn passing(sql: &str) -> Vec<usize> {
    let batch = batch();
    let filter = parse(sql)
        .row_filter(&batch.schema())
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = filter.evaluate(&batch).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(rows.len(), batch.num_rows());
    rows.iter()
        .enumerate()
        .filter_map(|(row, passes)| (passes == Some(true)).then_some(row))
        .collect()
}

fn refused(sql: &str) -> FilterError {
    match Predicate::parse(sql, &schema()) {
        Ok(predicate) => panic!("{sql} was taken as {:?}", predicate.expr),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_refused(sql: &str, words: &str) {
    let error = refused(sql);
    assert!(error.to_string().contains(words), "{error:?}: {sql}");
    assert!(
        !error.to_string().to_lowercase().contains("datafusion"),
        "{sql}: {error}"
    );
}

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
fn names_are_those_of_the_schema() {
    assert_eq!(passing("id = 2"), [1]);
    assert_eq!(passing("\"id\" = 2"), [1]);
    assert_eq!(passing("Case = 2"), [1]);
    assert_eq!(passing("\"L TAX\" = 2"), [1]);
    assert_eq!(passing("a.b = 20"), [1]);
    assert_eq!(passing("\"a.b\" = 20"), [1]);
    assert_eq!(passing("s.x = 2"), [1]);
    assert_eq!(passing("s.\"Y y\" = 'b'"), [1]);
    assert_eq!(passing("s['x'] >= 2"), [1, 3]);
    assert_eq!(passing("s.x IS NULL"), [2]);
}

#[test]
fn the_columns_are_those_that_are_read() {
    assert_eq!(parse("name = 'x' AND id > 1 AND id < 5").columns(), ["id", "name"]);
    assert_eq!(parse("s.x = 1 OR a.b = 2").columns(), ["a.b", "s"]);
    assert!(parse("1 = 1").columns().is_empty());
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
fn a_quoted_literal_stands_for_what_it_is_beside() {
    assert_eq!(passing("day = '1998-12-01'"), [1]);
    assert_eq!(passing("'1998-12-01' = day"), [1]);
    assert_eq!(passing("day BETWEEN '1998-01-01' AND '1999-01-01'"), [1]);
    assert_eq!(passing("day IN ('1970-01-01', '1998-12-01')"), [0, 1]);
    assert_eq!(passing("day < '1998-12-01 00:00:01'"), [0, 1]);
    assert_eq!(passing("day = '1998-12-01 10:00:00'"), [] as [usize; 0]);
    assert_eq!(passing("at = '2024-01-02 12:30:00'"), [1]);
    assert_eq!(passing("at > '1970-01-01'"), [1, 2]);
    assert_eq!(passing("at = '1970-01-01T00:00:00.000001'"), [2]);
    assert_eq!(passing("utc = '2024-01-02T12:30:00Z'"), [1]);
    assert_eq!(passing("utc = '2024-01-02T13:30:00+01:00'"), [1]);
    assert_eq!(passing("price = '0.07'"), [1]);
    assert_eq!(passing("price < '0.055'"), [0]);
    assert_eq!(passing("raw = 'bob'"), [1]);
    assert_eq!(passing("raw = X'626f62'"), [1]);
    assert_eq!(passing("uuid = '01010101-0101-0101-0101-010101010101'"), [1]);
    for name in ["name", "view", "large", "dict"] {
        assert_eq!(passing(&format!("{name} = 'bob'")), [1]);
        assert_eq!(passing(&format!("{name} >= 'b' AND {name} LIKE 'b%'")), [1]);
        assert_eq!(passing(&format!("{name} IN ('bob', 'zed')")), [1]);
    }
    assert_eq!(passing("name = 'it''s'"), [2]);
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
fn decimals_compare_digit_for_digit() {
    assert_eq!(passing("price = 0.07"), [1]);
    assert_eq!(passing("price BETWEEN 0.06 - 0.01 AND 0.06 + 0.01"), [0, 1]);
    assert_eq!(passing("price = 100"), [2]);
    assert_eq!(passing("price > 0.055"), [1, 2]);
    assert_eq!(passing("price IN (0.05, 100.00)"), [0, 2]);
    assert_eq!(passing("wide > 1"), [2]);
    assert_eq!(passing("wide < 0.5"), [0, 1]);
    assert_eq!(passing("wide >= -99999999999999999999"), [0, 1, 2]);
    assert_eq!(passing("-price < -1.5"), [2]);
    assert_eq!(passing("price > f"), [2]);
}

#[test]
fn numbers_of_any_type_compare() {
    assert_eq!(passing("id = 2.0"), [1]);
    assert_eq!(passing("id > 1.5"), [1, 2]);
    assert_eq!(passing("big = 18446744073709551615"), [1]);
    assert_eq!(passing("big > -1"), [0, 1, 2]);
    assert_eq!(passing("big > id"), [1]);
    assert_eq!(passing("g = 1.5"), [0]);
    assert_eq!(passing("id % 2 = 1"), [0, 2]);
}

#[test]
fn nan_is_one_value_above_all_and_zero_has_no_sign() {
    assert_eq!(passing("f > 5"), [1]);
    assert_eq!(passing("f < 5"), [0, 2]);
    assert_eq!(passing("f = 0"), [2]);
    assert_eq!(passing("f = -0.0"), [2]);
    assert_eq!(passing("f >= 0.0"), [0, 1, 2]);
    assert_eq!(passing("g > 5"), [1]);
    assert_eq!(passing("g < 5"), [0, 2]);
    assert_eq!(passing("f = CAST('NaN' AS DOUBLE)"), [1]);
    assert_eq!(passing("f != 1.5"), [1, 2]);
    assert_eq!(passing("NOT isnan(f)"), [0, 2]);
}

#[test]
fn null_passes_nothing_and_is_asked_for_by_name() {
    assert_eq!(passing("id != 1"), [1, 2]);
    assert_eq!(passing("id IS NULL"), [3]);
    assert_eq!(passing("id IS NOT NULL AND ok"), [0, 2]);
    assert_eq!(passing("NOT ok"), [1]);
    assert_eq!(passing("ok IS NOT TRUE"), [1, 3]);
    assert_eq!(passing("id = NULL"), [] as [usize; 0]);
    assert_eq!(passing("NULL"), [] as [usize; 0]);
    assert_eq!(passing("id IN (1, NULL)"), [0]);
    assert_eq!(passing("id NOT IN (1, NULL)"), [] as [usize; 0]);
    assert_eq!(passing("id IS DISTINCT FROM 1"), [1, 2, 3]);
    assert_eq!(passing("coalesce(id, 9) = 9"), [3]);
}

#[test]
fn constants_pass_all_or_nothing() {
    assert_eq!(passing("true"), [0, 1, 2, 3]);
    assert_eq!(passing("1 = 1"), [0, 1, 2, 3]);
    assert_eq!(passing("1 = 2"), [] as [usize; 0]);
    assert_eq!(
        passing("DATE '1998-12-01' - INTERVAL '90' DAY = DATE '1998-09-02'"),
        [0, 1, 2, 3]
    );
}

#[test]
fn functions_of_the_row_are_welcome() {
    assert_eq!(passing("upper(name) = 'BOB'"), [1]);
    assert_eq!(passing("length(name) > 3"), [2]);
    assert_eq!(passing("substr(name, 1, 1) IN ('a', 'b')"), [0, 1]);
    assert_eq!(passing("starts_with(view, 'b')"), [1]);
    assert_eq!(passing("regexp_like(name, '^a')"), [0]);
    assert_eq!(passing("name ~ '^a'"), [0]);
    assert_eq!(passing("name ILIKE 'B%'"), [1]);
    assert_eq!(passing("EXTRACT(year FROM day) = 1998"), [1]);
    assert_eq!(passing("date_trunc('day', at) = '2024-01-02'"), [1]);
    assert_eq!(passing("abs(id - 3) = 1"), [1]);
    assert_eq!(passing("CASE WHEN id = 1 THEN true ELSE ok END"), [0, 2]);
    assert_eq!(passing("CAST(id AS VARCHAR) = '2'"), [1]);
    assert_eq!(passing("name || '!' = 'bob!'"), [1]);
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
    assert_refused(
        &format!("{}id = 1{}", "(".repeat(2000), ")".repeat(2000)),
        "nests deeper",
    );
    assert_refused(&format!("{} ok", "NOT ".repeat(2000)), "nests deeper");
    assert_refused(&vec!["id"; 8000].join("+"), "words and signs");
    assert_refused("-- only a comment", "");
}

/// The longest chains that are allowed, on the smallest stack that a server thread has.
#[test]
fn chains_at_the_limit_fit_a_thread_of_two_mebibytes() {
    let run = || {
        let chains = [
            vec!["id"; 2000].join("+") + " > 1",
            vec!["ok"; 2000].join(" AND "),
            vec!["id = 1"; 1300].join(" OR "),
            (0..1000)
                .map(|i| format!("id <> {i}"))
                .collect::<Vec<_>>()
                .join(" AND "),
            (0..900)
                .map(|i| format!("id = {i} OR name = '{i}'"))
                .collect::<Vec<_>>()
                .join(" OR "),
            format!("name{}", " || name".repeat(1900)) + " = 'x'",
            format!("ok{}", " IS TRUE".repeat(1900)),
            format!("id{} = 1", "::bigint::int".repeat(900)),
            format!("{}id{}", "(".repeat(40), ")".repeat(40)) + " = 1",
            format!(
                "id IN ({})",
                (0..10_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",")
            ),
        ];
        for sql in chains {
            eprintln!("{}", &sql[..30]);
            if let Ok(predicate) = Predicate::parse(&sql, &schema()) {
                eprintln!("parsed");
                let batch = batch();
                let _ = predicate.row_filter(&batch.schema()).unwrap().evaluate(&batch);
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_filter_is_bound_to_other_orders_and_narrower_batches() {
    let batch = batch();
    let predicate = parse("id > 1 AND name = 'bob'");
    let narrow = batch.project(&[7, 0]).unwrap();
    let rows = predicate
        .row_filter(&narrow.schema())
        .unwrap()
        .evaluate(&narrow)
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| row == Some(true)).collect::<Vec<_>>(),
        [false, true, false, false]
    );
    let without = batch.project(&[0]).unwrap();
    assert!(
        predicate
            .row_filter(&without.schema())
            .err()
            .unwrap()
            .message
            .contains("name is not read")
    );
    let other = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, true),
        Field::new("name", DataType::Utf8, true),
    ]));
    assert!(
        predicate
            .row_filter(&other)
            .err()
            .unwrap()
            .message
            .contains("another type")
    );
    let none = batch.slice(0, 0);
    assert_eq!(
        predicate
            .row_filter(&none.schema())
            .unwrap()
            .evaluate(&none)
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_constant_filter_is_bound_to_batches_without_columns() {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(3));
    let empty = Arc::new(Schema::empty());
    let bare = RecordBatch::try_new_with_options(Arc::clone(&empty), vec![], &options).unwrap();
    let rows = parse("1 = 1").row_filter(&empty).unwrap().evaluate(&bare).unwrap();
    assert_eq!(rows.true_count(), 3);
}

#[test]
fn an_error_of_a_row_is_an_error_and_no_panic() {
    let batch = batch();
    let filter = parse("id / (id - 1) > 0").row_filter(&batch.schema()).unwrap();
    assert!(filter.evaluate(&batch).is_err());
    assert!(filter.evaluate(&batch.project(&[7]).unwrap()).is_err());
}

#[test]
fn other_units_and_types_of_moments_compare() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("s", DataType::Timestamp(TimeUnit::Second, None), true),
        Field::new("d64", DataType::Date64, true),
        Field::new("h", DataType::Float16, true),
        Field::new("t", DataType::Time64(TimeUnit::Microsecond), true),
        Field::new(
            "z",
            DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into())),
            true,
        ),
        Field::new("fsb", DataType::FixedSizeBinary(3), true),
        Field::new("l", DataType::new_list(DataType::Int64, true), true),
    ]));
    for sql in [
        "s = '9999-12-31'",
        "d64 < '2024-01-01'",
        "h > 1.5",
        "t > '12:30:00'",
        "z >= '2024-01-01'",
        "fsb = 'abc'",
        "array_length(l) > 2",
        "array_has(l, 5)",
        "l[1] = 5",
        "s < z",
        "d64 < s",
    ] {
        let predicate = Predicate::parse(sql, &schema).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let batch = RecordBatch::new_empty(Arc::clone(&schema));
        predicate
            .row_filter(&schema)
            .unwrap()
            .evaluate(&batch)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
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
