//! Not tests but measurements, run by hand: `JETBRIDGE_BENCH_FILE=... cargo test --release speed -- --ignored --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;

use super::{cache, mount, open, request, split};

/// Scans a file several times, cold each time, and prints what that took.
#[test]
#[ignore = "a measurement; needs JETBRIDGE_BENCH_FILE"]
fn speed_of_a_cold_scan() {
    let Ok(path) = std::env::var("JETBRIDGE_BENCH_FILE") else {
        println!("skipped: JETBRIDGE_BENCH_FILE is not set");
        return;
    };
    let columns = std::env::var("JETBRIDGE_BENCH_COLUMNS").ok();
    let path = Path::new(&path);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..5 {
        let cpu = cpu_time();
        let start = Instant::now();
        let (rows, batches, bytes, first) = runtime.block_on(scan(path, columns.as_deref()));
        let (wall, cpu) = (start.elapsed(), cpu_time() - cpu);
        println!(
            "rows={rows} batches={batches} bytes={bytes} first={:.3} wall={:.3} cpu={:.3}",
            first.as_secs_f64(),
            wall.as_secs_f64(),
            cpu.as_secs_f64()
        );
    }
}

async fn scan(path: &Path, columns: Option<&str>) -> (usize, usize, usize, Duration) {
    let start = Instant::now();
    let ufs = mount(path.parent().unwrap());
    let file = open(&ufs, path.file_name().unwrap().to_str().unwrap()).await;
    let cache = cache();
    let footer = cache.footer(&file).await.unwrap();
    let schema = match columns {
        Some(names) => {
            let names: Vec<String> = names.split(',').map(str::to_owned).collect();
            crate::schema::project(&footer.schema, &names).unwrap()
        }
        None => footer.schema.clone(),
    };
    let mut stream = cache.scan(request(vec![split(&file, &footer)], &schema));
    let (mut rows, mut batches, mut bytes, mut first) = (0, 0, 0, Duration::ZERO);
    while let Some(given) = stream.next().await {
        let batch = given.unwrap().batch;
        if batches == 0 {
            first = start.elapsed();
        }
        rows += batch.num_rows();
        bytes += batch.columns().iter().map(crate::decode::shown_bytes).sum::<usize>();
        batches += 1;
    }
    (rows, batches, bytes, first)
}

/// Processor time that this process has used, of all its threads.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
