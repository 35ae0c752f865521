//! Pruning against brute force: a container that is dropped holds no row that passes.

use arrow::array::{AsArray, UInt64Array};
use proptest::prelude::*;
use proptest::sample::select;

use super::containers::{Containers, Row, Told, batch_of, containers};
use super::*;

/// Expressions of one kind, and literals that compare with them.
#[expect(clippy::too_many_lines, reason = "a table of words")]
fn kinds() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    vec![
        (
            vec![
                "i",
                "l",
                "u",
                "f",
                "g",
                "c",
                "-i",
                "-f",
                "i + 1",
                "abs(i)",
                "CAST(i AS DOUBLE)",
                "CAST(f AS REAL)",
                "TRY_CAST(i AS TINYINT)",
                "TRY_CAST(f AS INT)",
                "CAST(c AS INT)",
                "CAST(l AS DOUBLE)",
                "CAST(i AS DECIMAL(20, 3))",
                "TRY_CAST(l AS SMALLINT)",
                "l % 2",
            ],
            vec![
                "0",
                "1",
                "2",
                "3",
                "-3",
                "127",
                "0.05",
                "0.07",
                "1.0",
                "2.5",
                "-2.5",
                "-0.0",
                "9007199254740993",
                "CAST('NaN' AS DOUBLE)",
                "CAST('-inf' AS DOUBLE)",
                "NULL",
                "300",
            ],
        ),
        (
            vec![
                "t",
                "v",
                "k",
                "upper(t)",
                "CAST(t AS VARCHAR)",
                "CAST(i AS VARCHAR)",
                "t || 'x'",
            ],
            vec!["''", "'a'", "'ab'", "'abc'", "'b'", "'é'", "'zzz'", "NULL"],
        ),
        (
            vec![
                "d",
                "s",
                "z",
                "CAST(s AS DATE)",
                "CAST(d AS TIMESTAMP)",
                "date_trunc('day', s)",
                "CAST(z AS TIMESTAMP)",
            ],
            vec![
                "'1970-01-01'",
                "'1970-01-02'",
                "'1998-12-01'",
                "'1970-01-01 12:00:00'",
                "DATE '1970-01-02'",
                "TIMESTAMP '1970-01-01 00:00:00.000001'",
                "NULL",
            ],
        ),
        (vec!["b", "NOT b", "CAST(i AS BOOLEAN)"], vec!["true", "false", "NULL"]),
        (vec!["CAST(s AS TIME)"], vec!["'12:00:00'", "'00:00:00'", "'23:59:59'"]),
    ]
}

fn comparison(kinds: Vec<(Vec<&'static str>, Vec<&'static str>)>) -> impl Strategy<Value = String> {
    let ops = select(
        &[
            "=",
            "!=",
            "<",
            "<=",
            ">",
            ">=",
            "IS DISTINCT FROM",
            "IS NOT DISTINCT FROM",
        ][..],
    );
    select(kinds).prop_flat_map(move |(sides, literals)| {
        let literal = || select(literals.clone());
        (select(sides), ops.clone(), literal(), literal(), 0..7u8).prop_map(|(side, op, one, two, form)| match form {
            0 => format!("{one} {op} ({side})"),
            1 => format!("({side}) BETWEEN {one} AND {two}"),
            2 => format!("({side}) IN ({one}, {two})"),
            3 => format!("({side}) NOT IN ({one}, {two}, {one}, {two}, {one})"),
            4 => format!("({side}) IS NOT NULL"),
            _ => format!("({side}) {op} {one}"),
        })
    })
}

fn predicate() -> impl Strategy<Value = String> {
    let others = select(
        &[
            "t LIKE 'a%'",
            "t LIKE 'ab_'",
            "t NOT LIKE 'a%'",
            "v LIKE 'ab%'",
            "k LIKE 'a%'",
            "t NOT LIKE 'a\\%'",
            "t LIKE 'abc'",
            "t ILIKE 'A%'",
            "b",
            "NOT b",
            "b IS TRUE",
            "b IS NOT TRUE",
            "b IS UNKNOWN",
            "i IS NULL",
            "f IS NULL",
            "isnan(f)",
            "NOT isnan(f)",
            "i = l",
            "f = g",
            "c > i",
            "f < 3",
            "f IN (1, 2.5)",
            "i IN (1, 2, 3, 4, 5, 6, 7)",
            "t > v",
            "coalesce(i, 1) = 1",
            "CASE WHEN b THEN i = 1 ELSE i = 2 END",
            "true",
            "NULL",
        ][..],
    );
    let leaf = prop_oneof![4 => comparison(kinds()), 1 => others.prop_map(str::to_owned)];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} AND {b})")),
            2 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} OR {b})")),
            1 => inner.prop_map(|a| format!("NOT ({a})")),
        ]
    })
}

/// How many containers were dropped, having checked that no row of them passes.
fn check(sql: &str, containers: &Containers) -> usize {
    let schema = containers.batches[0].schema();
    let Ok(predicate) = Predicate::parse(sql, &schema) else {
        return 0;
    };
    let keep = predicate.prune(containers);
    assert_eq!(keep.len(), containers.batches.len());
    let filter = predicate.row_filter(&schema).unwrap();
    for (batch, keep) in containers.batches.iter().zip(&keep) {
        // A row that fails to evaluate passes nothing.
        if let (false, Ok(rows)) = (keep, filter.evaluate(batch)) {
            assert_eq!(rows.true_count(), 0, "{sql} dropped {batch:?} of {:?}", containers.told);
        }
    }
    keep.iter().filter(|keep| !**keep).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn a_dropped_container_holds_no_row_that_passes(sql in predicate(), containers in containers()) {
        check(&sql, &containers);
    }
}

/// Float columns alone: what Parquet does not say of NaN is the subtlest thing here.
fn float_predicate() -> impl Strategy<Value = String> {
    let literals = vec![
        "0",
        "1",
        "2.5",
        "-2.5",
        "-0.0",
        "CAST('NaN' AS DOUBLE)",
        "CAST('inf' AS DOUBLE)",
    ];
    let comparison = || comparison(vec![(vec!["f", "f", "f", "CAST(f AS REAL)"], literals.clone())]);
    prop_oneof![
        comparison(),
        (comparison(), comparison()).prop_map(|(a, b)| format!("{a} AND {b}")),
        (comparison(), comparison()).prop_map(|(a, b)| format!("{a} OR {b}")),
        comparison().prop_map(|a| format!("NOT ({a})")),
        comparison().prop_map(|a| format!("{a} AND NOT isnan(f)")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_dropped_container_holds_no_float_that_passes(sql in float_predicate(), containers in containers()) {
        check(&sql, &containers);
    }

    #[test]
    fn a_dropped_container_holds_no_float_that_passes_as_it_is(sql in float_predicate(), containers in containers()) {
        check_as_it_is(&sql, &containers);
    }
}

/// What DataFusion makes of a condition, without anything of ours.
fn condition(sql: &str, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let names = DFSchema::try_from(Arc::clone(schema))?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(names.clone()))
        .with_config_options(Arc::clone(session().config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let typed = simplifier.coerce(session().create_logical_expr(sql, &names)?, &names)?;
    session().create_physical_expr(simplifier.simplify(typed)?, &names)
}

/// How many containers were dropped, where floats are compared as they are; no row of those passes.
fn check_as_it_is(sql: &str, containers: &Containers) -> usize {
    let schema = containers.batches[0].schema();
    let Ok(condition) = condition(sql, &schema) else {
        return 0;
    };
    let keep = Pruning::of(&condition, &schema).prune(containers);
    assert_eq!(keep.len(), containers.batches.len());
    for (batch, keep) in containers.batches.iter().zip(&keep) {
        if let (false, Ok(rows)) = (keep, condition.evaluate(batch)) {
            let rows = rows.into_array(batch.num_rows()).unwrap();
            let passing = rows.as_boolean().true_count();
            assert_eq!(passing, 0, "{sql} dropped {batch:?} of {:?}", containers.told);
        }
    }
    keep.iter().filter(|keep| !**keep).count()
}

fn one_container(rows: &[Row]) -> Containers {
    Containers::of(vec![batch_of(rows)])
}

fn plain() -> Row {
    Row {
        int: Some(5),
        long: Some(5),
        unsigned: Some(5),
        float: Some(5.0),
        single: Some(5.0),
        text: Some("abc"),
        cents: Some(500),
        day: Some(10_561),
        micros: Some(43_200_000_000),
        flag: Some(true),
    }
}

#[test]
fn what_can_be_dropped_is_dropped() {
    let containers = one_container(&[plain()]);
    for sql in [
        "i = 6",
        "i > 5",
        "i < 5",
        "i != 5",
        "i IN (1, 2, 9)",
        "i IN (1, 2, 3, 4, 6, 7, 8, 9, 10)",
        "i BETWEEN 6 AND 9",
        "i IS NULL",
        "NOT (i = 5)",
        "i = 5.5",
        "CAST(i AS BIGINT) = 6",
        "l > 5.5",
        "u = 6",
        "f = 6",
        "f < 5",
        "f > 5 AND f < 9",
        "f BETWEEN 6 AND 7",
        "f IN (1, 2)",
        "f > 6 AND NOT isnan(f)",
        "g < 1",
        "g = 1",
        "t = 'b'",
        "t > 'b'",
        "t LIKE 'b%'",
        "t NOT LIKE 'a%'",
        "v = 'b'",
        "k = 'b'",
        "k IN ('b', 'c')",
        "c = 0.07",
        "c > 5",
        "c < '4.99'",
        "c BETWEEN 0.06 - 0.01 AND 0.06 + 0.01",
        "d = '1998-12-02'",
        "d < '1998-12-01'",
        "d >= '1998-12-01 00:00:01'",
        "s > '1970-01-02'",
        "s < DATE '1970-01-01'",
        "z > '1970-01-03'",
        "CAST(s AS DATE) = '1970-01-02'",
        "NOT b",
        "b = false",
        "i = 5 AND t = 'b'",
        "i = 6 OR t = 'b'",
        "1 = 2",
        "NULL",
        "i = NULL",
        "i IS DISTINCT FROM 5",
    ] {
        assert_eq!(check(sql, &containers), 1, "{sql}");
    }
    for sql in [
        "i = 5",
        "i IS NOT NULL",
        "f > 5",
        "f != 5",
        "t LIKE 'a%'",
        "true",
        "upper(t) = 'X'",
        "CAST(s AS TIME) = '00:00:00'",
        "i = l",
    ] {
        assert_eq!(check(sql, &containers), 0, "{sql}");
    }
}

#[test]
fn nan_beside_lower_bounds_is_found() {
    let rows = [
        plain(),
        Row {
            float: Some(f64::NAN),
            single: Some(-f32::NAN),
            ..plain()
        },
    ];
    for sql in [
        "f > 5",
        "f != 5",
        "NOT (f < 6)",
        "f >= 6",
        "g > 5",
        "g != 5",
        "f > 6 OR i = 6",
        "f IS DISTINCT FROM 5",
    ] {
        let containers = one_container(&rows);
        assert_eq!(check(sql, &containers), 0, "{sql}");
    }
}

#[test]
fn negative_nan_beside_upper_bounds_is_found_where_its_sign_counts() {
    let rows = [
        plain(),
        Row {
            float: Some(-f64::NAN),
            single: Some(-f32::NAN),
            ..plain()
        },
    ];
    for sql in [
        "f < 5",
        "f <= 4",
        "f != 5",
        "NOT (f > 4)",
        "f < 5 AND i = 5",
        "f < 4 OR i = 6",
        "f IS DISTINCT FROM 5",
        "g < 1",
    ] {
        assert_eq!(check_as_it_is(sql, &one_container(&rows)), 0, "{sql}");
    }
    // Both ends are shut.
    for sql in [
        "f = 6",
        "f > 5 AND f < 9",
        "f BETWEEN 6 AND 7",
        "9 > f AND 5 < f",
        "f IN (1, 2)",
        "f < 5 AND NOT isnan(f)",
        "f > 6 AND NOT isnan(f)",
    ] {
        assert_eq!(check_as_it_is(sql, &one_container(&rows)), 1, "{sql}");
    }
}

#[test]
fn what_is_not_known_keeps_a_container() {
    for told in [Told::NoBounds, Told::Nothing] {
        let containers = Containers {
            told: vec![told],
            ..one_container(&[plain()])
        };
        assert_eq!(check("i = 6", &containers), 0);
    }
    let nothing = Containers {
        told: vec![Told::Nothing],
        ..one_container(&[plain()])
    };
    assert_eq!(check("i IS NULL", &nothing), 0);
}

#[test]
fn a_partition_value_is_both_bounds() {
    let containers = Containers::of(
        (0..5)
            .map(|year| {
                batch_of(&vec![
                    Row {
                        long: Some(2020 + year),
                        text: (year > 0).then_some("oslo"),
                        ..plain()
                    };
                    3
                ])
            })
            .collect(),
    );
    let keep = |sql: &str| parse_on(sql, &containers).prune(&containers);
    assert_eq!(keep("l = 2023"), [false, false, false, true, false]);
    assert_eq!(
        keep("l IN (2020, 2024) OR t IS NULL"),
        [true, false, false, false, true]
    );
    assert_eq!(keep("t = 'oslo' AND l < 2023"), [false, true, true, false, false]);
}

fn parse_on(sql: &str, containers: &Containers) -> Predicate {
    Predicate::parse(sql, &containers.batches[0].schema()).unwrap()
}

#[test]
fn statistics_of_another_length_drop_nothing() {
    struct Short;
    impl ColumnStats for Short {
        fn containers(&self) -> usize {
            3
        }
        fn bounds(&self, _: &str, _: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
            Some((
                array(Int32Array::from(vec![1])),
                array(Int32Array::from(vec![1])),
                UInt64Array::from(vec![0]),
            ))
        }
        fn rows(&self) -> UInt64Array {
            UInt64Array::from(vec![1])
        }
    }
    let containers = one_container(&[plain()]);
    assert_eq!(parse_on("i = 9", &containers).prune(&Short), [true, true, true]);
}

#[test]
fn no_containers_are_no_answer() {
    let containers = one_container(&[plain()]);
    let none = Containers::of(Vec::new());
    assert!(parse_on("i = 9", &containers).prune(&none).is_empty());
}
