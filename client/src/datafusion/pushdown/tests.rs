//! Conditions, and what is said of them.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::functions::core::get_field;
use datafusion::prelude::{cast, col, ident, in_list, lit};
use datafusion::scalar::ScalarValue;

use super::*;

fn schema() -> Schema {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let fields = vec![field("x", DataType::Int64), field("f \"f\"", DataType::Float64)];
    Schema::new(vec![
        field("n", DataType::Int64),
        field("m", DataType::Int64),
        field("small", DataType::Int8),
        field("Big \"u\"", DataType::UInt64),
        field("t", DataType::Utf8),
        field("v", DataType::Utf8View),
        field(
            "d",
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        ),
        field("b", DataType::Boolean),
        field("day", DataType::Date32),
        field("at", DataType::Timestamp(TimeUnit::Microsecond, None)),
        field("utc", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        field("p", DataType::Decimal128(15, 2)),
        field("f", DataType::Float64),
        field("g", DataType::Float32),
        field("raw", DataType::Binary),
        field("s", DataType::Struct(fields.into())),
    ])
}

fn pushed(condition: &Expr) -> Option<(String, bool)> {
    Pushed::of(condition, &schema()).map(|pushed| (pushed.sql, pushed.is_exact))
}

#[track_caller]
fn assert_exact(condition: Expr, sql: &str) {
    assert_eq!(pushed(&condition), Some((sql.to_owned(), true)), "{condition}");
}

#[track_caller]
fn assert_wider(condition: Expr, sql: &str) {
    assert_eq!(pushed(&condition), Some((sql.to_owned(), false)), "{condition}");
}

#[track_caller]
fn assert_not_pushed(condition: Expr) {
    assert_eq!(pushed(&condition), None, "{condition}");
}

fn value(value: ScalarValue) -> Expr {
    Expr::Literal(value, None)
}

#[test]
fn comparisons_are_said_with_the_very_value() {
    assert_exact(col("n").lt(lit(5_i64)), r#""n" < 5"#);
    assert_exact(lit(-5_i64).lt(col("n")), r#""n" > -5"#);
    assert_exact(col("n").not_eq(col("m")), r#""n" <> "m""#);
    assert_exact(
        ident("Big \"u\"").eq(lit(u64::MAX)),
        r#""Big ""u""" = 18446744073709551615"#,
    );
    assert_exact(col("t").gt_eq(lit("it's")), r#""t" >= 'it''s'"#);
    assert_exact(
        col("v").eq(value(ScalarValue::Utf8View(Some("a".into())))),
        r#""v" = 'a'"#,
    );
    let coded = ScalarValue::Dictionary(Box::new(DataType::Int32), Box::new(ScalarValue::from("a")));
    assert_exact(col("d").eq(value(coded)), r#""d" = 'a'"#);
    assert_exact(cast(col("d"), DataType::Utf8).eq(lit("a")), r#""d" = 'a'"#);
    assert_exact(
        col("day").lt(value(ScalarValue::Date32(Some(10_561)))),
        r#""day" < '1998-12-01'"#,
    );
    let moment = ScalarValue::TimestampMicrosecond(Some(1_500_000), None);
    assert_exact(col("at").lt(value(moment)), r#""at" < '1970-01-01T00:00:01.500'"#);
    let moment = ScalarValue::TimestampMillisecond(Some(1_500), Some("UTC".into()));
    assert_exact(col("utc").lt(value(moment)), r#""utc" < '1970-01-01T00:00:01.500Z'"#);
    assert_exact(
        col("p").eq(value(ScalarValue::Decimal128(Some(-7), 15, 2))),
        r#""p" = '-0.07'"#,
    );
    assert_exact(col("n").between(lit(1_i64), lit(3_i64)), r#"("n" >= 1 AND "n" <= 3)"#);
    assert_exact(
        col("n").not_between(lit(1_i64), lit(3_i64)),
        r#"NOT ("n" >= 1 AND "n" <= 3)"#,
    );
    assert_exact(
        in_list(col("t"), vec![lit("a"), lit("b")], true),
        r#""t" NOT IN ('a', 'b')"#,
    );
    assert_exact(col("t").like(lit("%x_")), r#""t" LIKE '%x_'"#);
    assert_exact(col("d").not_ilike(lit("X%")), r#""d" NOT ILIKE 'X%'"#);
    assert_exact(col("f").is_null(), r#""f" IS NULL"#);
    let x = Expr::ScalarFunction(datafusion::logical_expr::expr::ScalarFunction {
        func: get_field(),
        args: vec![col("s"), lit("x")],
    });
    assert_exact(x.gt(lit(1_i64)), r#""s"."x" > 1"#);
}

#[test]
fn conditions_are_joined_and_chains_are_flat() {
    let (a, b, c) = (col("n").lt(lit(1_i64)), col("b"), col("t").is_not_null());
    assert_exact(
        a.clone().and(b.clone()).and(c.clone()),
        r#"("n" < 1 AND "b" AND "t" IS NOT NULL)"#,
    );
    assert_exact(
        a.clone().or(b.clone().and(c.clone())),
        r#"("n" < 1 OR ("b" AND "t" IS NOT NULL))"#,
    );
    assert_exact(
        Expr::Not(Box::new(a.clone().or(b.clone()))),
        r#"NOT (("n" < 1 OR "b"))"#,
    );
    assert_exact(a.clone().is_not_true(), r#"("n" < 1) IS NOT TRUE"#);
    let long = (0..200_i64).map(|n| col("n").eq(lit(n))).reduce(Expr::or).unwrap();
    let (sql, is_exact) = pushed(&long).unwrap();
    assert!(is_exact && sql.matches('(').count() == 1, "{sql}");
}

#[test]
fn floats_are_widened() {
    assert_wider(col("f").gt(lit(1.5)), r#""f" > 1.5"#);
    assert_wider(col("f").lt(lit(-1e300)), r#"("f" < -1e300 OR isnan("f"))"#);
    assert_wider(col("f").lt(lit(-0.0)), r#"("f" <= -0.0 OR isnan("f"))"#);
    assert_wider(col("f").gt(lit(0.0)), r#""f" >= 0.0"#);
    assert_wider(col("f").eq(lit(0.0)), r#""f" = 0.0"#);
    // The double that a float is, digit for digit.
    assert_wider(col("g").not_eq(lit(0.1_f32)), r#""g" <> 0.10000000149011612"#);
    assert_wider(
        in_list(col("f"), vec![lit(0.0), lit(2.0)], false),
        r#""f" IN (0.0, 2.0)"#,
    );
    assert_wider(in_list(col("f"), vec![lit(2.0)], true), r#""f" NOT IN (2.0)"#);
    for none in [
        col("f").not_eq(lit(-0.0)),
        in_list(col("f"), vec![lit(0.0)], true),
        col("f").lt(lit(f64::NAN)),
        col("f").lt(lit(f64::INFINITY)),
        col("f").lt(col("f")),
        Expr::Not(Box::new(col("f").lt(lit(1.0)))),
        col("f").not_between(lit(1.0), lit(2.0)),
        col("f").lt(lit(1.0)).is_true(),
    ] {
        assert_not_pushed(none);
    }
}

#[test]
fn what_cannot_be_said_is_left_out_where_that_gives_more_rows() {
    let (said, not) = (col("n").lt(lit(1_i64)), (col("n") + lit(1_i64)).eq(lit(3_i64)));
    assert_wider(said.clone().and(not.clone()), r#""n" < 1"#);
    assert_wider(said.clone().and(not.clone()).or(col("b")), r#"("n" < 1 OR "b")"#);
    assert_not_pushed(said.clone().or(not.clone()));
    assert_not_pushed(Expr::Not(Box::new(said.and(not.clone()))));
    assert_not_pushed(not);
}

#[test]
fn what_would_be_read_otherwise_is_not_said() {
    let unknown = Expr::ScalarFunction(datafusion::logical_expr::expr::ScalarFunction {
        func: get_field(),
        args: vec![col("s"), lit("f \"f\"")],
    });
    for none in [
        col("n").eq(lit(5_i32)),
        col("small").eq(lit(5_i64)),
        cast(col("small"), DataType::Int64).eq(lit(500_i64)),
        col("n").eq(lit("5")),
        col("t").eq(lit(5_i64)),
        col("n").eq(value(ScalarValue::Int64(None))),
        in_list(col("n"), vec![lit(1_i64), value(ScalarValue::Int64(None))], false),
        col("n").eq(col("small")),
        col("raw").eq(value(ScalarValue::Binary(Some(vec![1])))),
        col("raw").is_null(),
        col("absent").eq(lit(1_i64)),
        col("n").eq(lit(1_i64)).eq(col("b")),
        col("n"),
        // Years that are not written with four digits.
        col("day").lt(value(ScalarValue::Date32(Some(i32::MAX / 2)))),
        col("at").lt(value(ScalarValue::TimestampMicrosecond(Some(i64::MIN), None))),
        unknown.gt(lit(1.0)),
        lit(true),
    ] {
        assert_not_pushed(none);
    }
}

#[test]
fn no_more_is_pushed_than_a_filter_takes() {
    let long = |bytes: usize| col("t").eq(lit("x".repeat(bytes)));
    let half = long(MAX_FILTER_BYTES / 2);
    let (conditions, schema) = ([half.clone(), long(MAX_FILTER_BYTES), half.clone(), col("b")], schema());
    let offered: Vec<&Expr> = conditions.iter().collect();
    assert_eq!(
        support(&offered, &schema),
        [
            TableProviderFilterPushDown::Exact,
            TableProviderFilterPushDown::Unsupported,
            TableProviderFilterPushDown::Unsupported,
            TableProviderFilterPushDown::Exact,
        ]
    );
    // More may come than was offered at a time.
    let filter = Filter::of(&conditions, &schema);
    assert_eq!(filter.left, [&conditions[1], &conditions[2]]);
    assert!(!filter.is_exact && filter.sql.unwrap().len() <= MAX_FILTER_BYTES);
    let many = |count: usize| {
        let terms = (0..count).map(|_| col("n").gt(col("m")));
        terms.reduce(Expr::or).unwrap()
    };
    assert!(pushed(&many(MAX_FILTER_TERMS / 8)).is_some());
    assert_not_pushed(many(MAX_FILTER_TERMS / 3));
    let values = (0..MAX_FILTER_TERMS * 2).map(|_| lit(1_i64)).collect();
    assert!(pushed(&in_list(col("n"), values, false)).is_some(), "literals are free");
    let deep = |levels: usize| (0..levels).fold(col("b"), |inner, _| Expr::Not(Box::new(inner)));
    assert!(pushed(&deep(MAX_FILTER_LEVELS)).is_some());
    assert_not_pushed(deep(MAX_FILTER_LEVELS + 1));
}

#[test]
fn words_and_signs_are_counted_as_a_server_counts_them_or_more() {
    for (sql, least) in [
        (r#""a" < 5"#, 2),
        (r#""a" IN (1, 2, -3)"#, 5),
        (r#""a""b" = 'it''s'"#, 2),
        (r#"NOT ("s"."x" >= 1.5e7)"#, 7),
        (r#""t" LIKE 'a ( b'"#, 2),
    ] {
        assert!((least..=least + 2).contains(&terms(sql)), "{sql}: {}", terms(sql));
    }
}

#[test]
fn a_filter_of_nothing_says_nothing() {
    let filter = Filter::of(&[], &schema());
    assert!(filter.sql.is_none() && filter.left.is_empty() && filter.is_exact);
}
