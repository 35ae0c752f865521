//! Not a test but a measurement, run by hand: `JETBRIDGE_BENCH_TPCH=FOLDER JETBRIDGE_BENCH_QUERIES=FOLDER cargo test --release
//! speed_of_queries -- --ignored --nocapture`. The first folder has a Parquet file for each table, the second one text a query.

use std::path::PathBuf;
use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; needs JETBRIDGE_BENCH_TPCH and JETBRIDGE_BENCH_QUERIES"]
async fn speed_of_queries() {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(data), Some(queries)) = (folder("JETBRIDGE_BENCH_TPCH"), folder("JETBRIDGE_BENCH_QUERIES")) else {
        println!("skipped: JETBRIDGE_BENCH_TPCH or JETBRIDGE_BENCH_QUERIES is not set");
        return;
    };
    let rounds = std::env::var("JETBRIDGE_BENCH_ROUNDS").map_or(4, |rounds| rounds.parse().unwrap());
    let lake = Lake::with(&[], &["--memory", "4GiB"]).await;
    lake.mount_uri("/tpch", &format!("file://{}", data.display())).await;
    let mut texts: Vec<(String, String)> = std::fs::read_dir(queries)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    texts.sort();
    let mut best = vec![f64::MAX; texts.len()];
    for round in 0..rounds {
        let mut total = 0.0;
        for (at, (_, text)) in texts.iter().enumerate() {
            let mut query = query(text.trim().trim_end_matches(';'));
            query.options.schema = "tpch".to_owned();
            let begun = Instant::now();
            let answer = lake.node.sql.run(&lake.node, &query).await.unwrap();
            let batches: Vec<RecordBatch> = answer.batches.try_collect().await.unwrap();
            let took = begun.elapsed().as_secs_f64() * 1e3;
            total += took;
            best[at] = best[at].min(took);
            if round == 0 && std::env::var_os("JETBRIDGE_BENCH_ROWS").is_some() {
                println!("{} rows, first {:?}", rows(&batches).len(), rows(&batches).first());
            }
        }
        println!("round {round}: {total:.0} ms");
    }
    for ((name, text), best) in texts.iter().zip(&best) {
        print!("{name} {best:.0}  ");
        if std::env::var("JETBRIDGE_BENCH_EXPLAIN").is_ok_and(|wanted| wanted == *name) {
            let mut query = query(&format!("EXPLAIN ANALYZE {text}"));
            query.options.schema = "tpch".to_owned();
            println!("\n{}", rows(&lake.ask(&query).await.unwrap()).join("\n"));
        }
    }
    println!("\ntotal {:.0} ms", best.iter().sum::<f64>());
}
