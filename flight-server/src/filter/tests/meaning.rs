//! Which rows pass.

use super::*;

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
