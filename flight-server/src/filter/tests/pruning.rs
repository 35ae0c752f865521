//! Pruning against brute force: a container that is dropped holds no row that passes.

use arrow::array::{Array, UInt64Array, new_empty_array};
use arrow::compute::cast;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Containers with their rows, and how much of each one's columns the statistics tell.
#[derive(Debug, Clone)]
struct Containers {
    batches: Vec<RecordBatch>,
    told: Vec<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    /// Bounds are wider than the values, as when long ones are cut.
    Wide,
    NoBounds,
    NoNulls,
    Nothing,
}

impl Containers {
    fn of(batches: Vec<RecordBatch>) -> Self {
        let told = vec![Told::All; batches.len()];
        Self { batches, told }
    }

    /// What Parquet would say: NaN and null are no bounds.
    fn bound(&self, container: usize, column: &str, as_type: &DataType, largest: bool) -> ScalarValue {
        let none = ScalarValue::try_from(as_type).unwrap();
        if matches!(self.told[container], Told::NoBounds | Told::Nothing) {
            return none;
        }
        let values = cast(self.batches[container].column_by_name(column).unwrap(), as_type).unwrap();
        let known = (0..values.len())
            .map(|row| ScalarValue::try_from_array(&values, row).unwrap())
            .filter(|v| !v.is_null() && !is_nan(v));
        let order = |a: &ScalarValue, b: &ScalarValue| a.partial_cmp(b).unwrap();
        let bound = if largest {
            known.max_by(order)
        } else {
            known.min_by(order)
        };
        match bound {
            Some(ScalarValue::Utf8(Some(text))) if self.told[container] == Told::Wide => {
                let first: String = text.chars().take(1).collect();
                ScalarValue::Utf8(Some(if largest { format!("{first}\u{10fffd}") } else { first }))
            }
            other => other.unwrap_or(none),
        }
    }

    fn array(&self, values: impl Iterator<Item = ScalarValue>, as_type: &DataType) -> ArrayRef {
        ScalarValue::iter_to_array(values).unwrap_or_else(|_| new_empty_array(as_type))
    }
}

impl ColumnStats for Containers {
    fn containers(&self) -> usize {
        self.batches.len()
    }

    fn bounds(&self, column: &str, as_type: &DataType) -> Option<(ArrayRef, ArrayRef, UInt64Array)> {
        let all = || 0..self.batches.len();
        let nulls = all().map(|container| {
            let array = self.batches[container].column_by_name(column).unwrap();
            let known = !matches!(self.told[container], Told::NoNulls | Told::Nothing);
            known.then(|| array.null_count().try_into().unwrap())
        });
        let bound = |largest| {
            self.array(
                all().map(|container| self.bound(container, column, as_type, largest)),
                as_type,
            )
        };
        Some((bound(false), bound(true), nulls.collect()))
    }

    fn rows(&self) -> UInt64Array {
        self.batches
            .iter()
            .map(|batch| Some(batch.num_rows().try_into().unwrap()))
            .collect()
    }
}

fn is_nan(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Float64(Some(v)) => v.is_nan(),
        ScalarValue::Float32(Some(v)) => v.is_nan(),
        _ => false,
    }
}

/// One row of everything that is pruned on.
#[derive(Debug, Clone)]
struct Row {
    int: Option<i32>,
    long: Option<i64>,
    unsigned: Option<u64>,
    float: Option<f64>,
    single: Option<f32>,
    text: Option<&'static str>,
    cents: Option<i128>,
    day: Option<i32>,
    micros: Option<i64>,
    flag: Option<bool>,
}

fn row() -> impl Strategy<Value = Row> {
    let floats = [
        f64::NEG_INFINITY,
        -2.5,
        -0.0,
        0.0,
        1.0,
        2.5,
        1e300,
        f64::INFINITY,
        f64::NAN,
        -f64::NAN,
    ];
    let singles = [
        f32::NEG_INFINITY,
        -2.5,
        -0.0,
        0.0,
        0.1,
        2.5,
        f32::INFINITY,
        f32::NAN,
        -f32::NAN,
    ];
    let texts = ["", "a", "ab", "abc", "abd", "b", "ba", "B", "é", "zz", "a%", "a_c"];
    let numbers = (
        option::of(select(
            &[-300, -3, -1, 0, 1, 2, 3, 127, 128, 300, i32::MIN, i32::MAX][..],
        )),
        option::of(select(
            &[-3, 0, 1, 2, 3, 1 << 53, (1 << 53) + 1, i64::MIN, i64::MAX][..],
        )),
        option::of(select(&[0, 1, 2, 3, u64::MAX][..])),
        option::of(select(floats.to_vec())),
        option::of(select(singles.to_vec())),
    );
    let others = (
        option::of(select(texts.to_vec())),
        option::of(select(&[-200, -5, 0, 4, 5, 6, 7, 99, 100, 250, 999_999_999][..])),
        option::of(select(&[-1, 0, 1, 10_561, 19_723, 19_724][..])),
        option::of(select(
            &[
                -1,
                0,
                1,
                43_200_000_000,
                86_399_999_999,
                86_400_000_000,
                129_600_000_000,
            ][..],
        )),
        option::of(any::<bool>()),
    );
    (numbers, others).prop_map(
        |((int, long, unsigned, float, single), (text, cents, day, micros, flag))| Row {
            int,
            long,
            unsigned,
            float,
            single,
            text,
            cents,
            day,
            micros,
            flag,
        },
    )
}

fn batch_of(rows: &[Row]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("i", array(rows.iter().map(|r| r.int).collect::<Int32Array>())),
        ("l", array(rows.iter().map(|r| r.long).collect::<Int64Array>())),
        ("u", array(rows.iter().map(|r| r.unsigned).collect::<UInt64Array>())),
        ("f", array(rows.iter().map(|r| r.float).collect::<Float64Array>())),
        ("g", array(rows.iter().map(|r| r.single).collect::<Float32Array>())),
        ("t", array(rows.iter().map(|r| r.text).collect::<StringArray>())),
        ("v", array(rows.iter().map(|r| r.text).collect::<StringViewArray>())),
        (
            "k",
            array(rows.iter().map(|r| r.text).collect::<DictionaryArray<Int32Type>>()),
        ),
        (
            "c",
            array(
                rows.iter()
                    .map(|r| r.cents)
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(11, 2)
                    .unwrap(),
            ),
        ),
        ("d", array(rows.iter().map(|r| r.day).collect::<Date32Array>())),
        (
            "s",
            array(rows.iter().map(|r| r.micros).collect::<TimestampMicrosecondArray>()),
        ),
        (
            "z",
            array(
                rows.iter()
                    .map(|r| r.micros)
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("Europe/Berlin"),
            ),
        ),
        ("b", array(rows.iter().map(|r| r.flag).collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn containers() -> impl Strategy<Value = Containers> {
    let told = select(
        &[
            Told::All,
            Told::All,
            Told::Wide,
            Told::NoBounds,
            Told::NoNulls,
            Told::Nothing,
        ][..],
    );
    // Few values a container, so that many are dropped.
    let rows = prop_oneof![vec(row(), 0..4), row().prop_map(|row| vec![row; 2])];
    vec((rows, told), 1..5).prop_map(|containers| {
        let (batches, told) = containers
            .into_iter()
            .map(|(rows, told)| (batch_of(&rows), told))
            .unzip();
        Containers { batches, told }
    })
}

/// Expressions of one kind, and literals that compare with them.
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

fn comparison() -> impl Strategy<Value = String> {
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
    select(kinds()).prop_flat_map(move |(sides, literals)| {
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
    let leaf = prop_oneof![4 => comparison(), 1 => others.prop_map(str::to_owned)];
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
