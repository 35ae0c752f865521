//! Random queries over random rows, beside DataFusion over the same rows in memory: the scan, with its pruning, sifting and
//! pushed conditions, gives what a plain one gives, cold and warm.

use arrow::array::{BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, StructArray};
use arrow::datatypes::{DataType, Field};
use datafusion::prelude::SessionContext;

use super::*;

/// A small generator; its seed is printed with every failure.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.roll(u64::try_from(of.len()).unwrap())).unwrap()]
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn number(&mut self, sides: u64) -> i64 {
        i64::try_from(self.roll(sides)).unwrap()
    }
}

pub(super) fn batch(dice: &mut Dice, rows: usize, file: i64) -> RecordBatch {
    let optional = |dice: &mut Dice, value: i64| (!dice.one_in(9)).then_some(value);
    let clustered: Int64Array = (0..rows).map(|_| file * 50 + dice.number(80)).collect();
    let wide: Int32Array = (0..rows)
        .map(|_| {
            let value = dice.number(1000);
            optional(dice, value).map(|value| i32::try_from(value).unwrap())
        })
        .collect();
    let days: Vec<i32> = (0..rows)
        .map(|_| i32::try_from(file * 10 + dice.number(15)).unwrap())
        .collect();
    let text: StringArray = (0..rows)
        .map(|_| {
            let value = dice.number(40);
            optional(dice, value).map(|value| format!("t{value:02}"))
        })
        .collect();
    let float: Float64Array = (0..rows)
        .map(|_| match dice.roll(12) {
            0 => None,
            1 => Some(f64::NAN),
            2 => Some(-f64::NAN),
            _ => Some(f64::from(i32::try_from(file * 32 + dice.number(64)).unwrap()) / 8.0),
        })
        .collect();
    let flag: BooleanArray = (0..rows).map(|_| Some(dice.one_in(2))).collect();
    let inner: Int64Array = (0..rows).map(|_| Some(dice.number(30))).collect();
    let place = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int64, true)),
            Arc::new(inner) as ArrayRef,
        ),
        (
            Arc::new(Field::new("y", DataType::Utf8, true)),
            Arc::new(text.clone()) as ArrayRef,
        ),
    ]);
    table(vec![
        ("c", Arc::new(clustered) as ArrayRef),
        ("w", Arc::new(wide)),
        ("d", Arc::new(Date32Array::from(days))),
        ("t", Arc::new(text)),
        ("f", Arc::new(float)),
        ("b", Arc::new(flag)),
        ("s", Arc::new(place)),
    ])
}

fn term(dice: &mut Dice, alias: &str) -> String {
    let comparison = dice.pick(&["<", "<=", ">", ">=", "=", "<>"]);
    match dice.roll(10) {
        0 | 1 => format!("{alias}c {comparison} {}", dice.number(500)),
        2 => format!("{alias}w {comparison} {}", dice.number(1000)),
        3 => format!("{alias}d {comparison} date '1970-01-{:02}'", 1 + dice.number(28)),
        4 => format!("{alias}t {comparison} 't{:02}'", dice.number(40)),
        5 => format!("{alias}t LIKE '%{}'", dice.number(10)),
        6 => format!("{alias}f {comparison} {}.5", dice.number(32)),
        7 => format!(
            "{alias}{} IS {}NULL",
            dice.pick(&["w", "t", "f"]),
            dice.pick(&["", "NOT "])
        ),
        8 => format!("{alias}s['x'] {comparison} {}", dice.number(30)),
        _ => format!(
            "{alias}c IN ({}, {}, {})",
            dice.number(500),
            dice.number(500),
            dice.number(500)
        ),
    }
}

fn condition(dice: &mut Dice, alias: &str, depth: u64) -> String {
    if depth == 0 || dice.one_in(3) {
        return term(dice, alias);
    }
    let (left, right) = (condition(dice, alias, depth - 1), condition(dice, alias, depth - 1));
    let joined = format!("({left} {} {right})", dice.pick(&["AND", "AND", "OR"]));
    if dice.one_in(6) {
        format!("NOT {joined}")
    } else {
        joined
    }
}

pub(super) fn question(dice: &mut Dice) -> String {
    let filter = condition(dice, "", 2);
    match dice.roll(6) {
        0 => format!("SELECT c, w, t, s['y'] FROM T WHERE {filter}"),
        1 => format!("SELECT b, count(*), sum(w), min(t), max(c) FROM T WHERE {filter} GROUP BY b"),
        2 => format!("SELECT count(*) FROM T WHERE {filter}"),
        3 => format!(
            "SELECT c, w FROM T WHERE {filter} ORDER BY c DESC, w NULLS FIRST LIMIT {}",
            dice.number(20)
        ),
        4 => {
            let other = condition(dice, "u.", 1);
            format!("SELECT u.c, T.t FROM U u JOIN T ON u.c = T.c AND u.w = T.w WHERE {other}")
        }
        _ => format!("SELECT t, count(DISTINCT c) FROM T WHERE {filter} GROUP BY t ORDER BY t LIMIT 15"),
    }
}

async fn in_memory(t: &[RecordBatch], u: &[RecordBatch]) -> SessionContext {
    let context = SessionContext::new();
    for (name, batches) in [("t", t), ("u", u)] {
        let table = datafusion::datasource::MemTable::try_new(batches[0].schema(), vec![batches.to_vec()]).unwrap();
        context.register_table(name, Arc::new(table)).unwrap();
    }
    context
}

async fn try_seed(seed: u64, questions: u32) {
    let mut dice = Dice(seed);
    let files: Vec<RecordBatch> = (0..6).map(|file| batch(&mut dice, 700, file)).collect();
    let few: Vec<RecordBatch> = vec![batch(&mut dice, 40, 2)];
    let names: Vec<String> = (0..files.len()).map(|file| format!("t/{file}.parquet")).collect();
    let mut written: Vec<(&str, RecordBatch)> = names.iter().map(String::as_str).zip(files.iter().cloned()).collect();
    written.push(("u/0.parquet", few[0].clone()));
    let lake = Lake::of(&written).await;
    let plain = in_memory(&files, &few).await;
    for _ in 0..questions {
        let sql = question(&mut dice);
        let expected = plain.sql(&sql).await.unwrap().collect().await.unwrap();
        let ours = sql.replace(" T ", " lake.t T ").replace("FROM U ", "FROM lake.u ");
        let given = lake.rows(&ours).await;
        assert_eq!(sorted(given), sorted(rows(&expected)), "seed {seed}: {sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_questions_have_the_answers_of_a_plain_scan() {
    for seed in [1, 20_240_229, 0xdead_beef] {
        try_seed(seed, 40).await;
    }
    let seed = u64::from(std::process::id()) + 1;
    println!("seed {seed}");
    try_seed(seed, 40).await;
}
