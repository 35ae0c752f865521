//! The settings that bound queries.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::settings::Refused;
use super::value::exact_bytes;
use super::written::Written;
use crate::sql::limits::SqlLimits;

/// Less, and no join of anything fits.
pub(crate) const MIN_MEMORY_BYTES: u64 = 4 << 20;
/// A query may take a working day, not a month.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const QUERIES: RangeInclusive<usize> = 1..=10_000;
const QUEUE: RangeInclusive<usize> = 0..=100_000;
/// Queries may hold one part in this many of the byte budget, where nothing is written.
const MEMORY_SHARE: u64 = 4;
/// One query may hold one part in this many of what all may, where nothing is written.
const QUERY_SHARE: u64 = 2;

/// The bounds of queries, resolved.
pub(super) fn resolve(written: &Written) -> Result<SqlLimits, Refused> {
    let all = written.memory.as_u64();
    let memory_bytes = written.sql_memory.map_or(all / MEMORY_SHARE, |bytes| bytes.as_u64());
    bytes_within("sql_memory", memory_bytes, all)?;
    let query = written.sql_query_memory.map(|bytes| bytes.as_u64());
    let query_memory_bytes = query.unwrap_or_else(|| (memory_bytes / QUERY_SHARE).max(MIN_MEMORY_BYTES));
    bytes_within("sql_query_memory", query_memory_bytes, memory_bytes)?;
    counted("sql_queries", written.sql_queries, QUERIES)?;
    counted("sql_queue", written.sql_queue, QUEUE)?;
    if !TIMEOUT.contains(&written.sql_timeout) {
        let (least, most) = (
            humantime::format_duration(*TIMEOUT.start()),
            humantime::format_duration(*TIMEOUT.end()),
        );
        return Err(("sql_timeout".to_owned(), format!("it must be {least} to {most}")));
    }
    Ok(SqlLimits {
        memory_bytes,
        query_memory_bytes,
        queries: written.sql_queries,
        queue: written.sql_queue,
        timeout: written.sql_timeout,
        spread_bytes: written.sql_spread_bytes.as_u64(),
    })
}

fn bytes_within(key: &str, bytes: u64, most: u64) -> Result<(), Refused> {
    if (MIN_MEMORY_BYTES..=most).contains(&bytes) {
        return Ok(());
    }
    let (bytes, least, most) = (exact_bytes(bytes), exact_bytes(MIN_MEMORY_BYTES), exact_bytes(most));
    Err((key.to_owned(), format!("{bytes} is outside {least} to {most}")))
}

fn counted(key: &str, count: usize, range: RangeInclusive<usize>) -> Result<(), Refused> {
    if range.contains(&count) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err((key.to_owned(), format!("{count} is outside {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::super::Machine;
    use super::*;

    fn resolved(change: impl FnOnce(&mut Written)) -> Result<SqlLimits, Refused> {
        let mut written = Written::defaults(&Machine {
            memory_bytes: Some(12 << 30),
            cores: 4,
        });
        change(&mut written);
        resolve(&written)
    }

    #[test]
    fn queries_have_a_quarter_of_the_budget_and_one_of_them_half_of_that() {
        let limits = resolved(|_| {}).unwrap();
        assert_eq!((limits.memory_bytes, limits.query_memory_bytes), (1 << 30, 1 << 29));
        let limits = resolved(|written| written.sql_memory = Some(ByteSize::mib(100))).unwrap();
        assert_eq!(limits.query_memory_bytes, 50 << 20);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let refused = |change: fn(&mut Written)| resolved(change).unwrap_err().0;
        assert_eq!(
            refused(|written| written.sql_memory = Some(ByteSize::gib(9))),
            "sql_memory"
        );
        assert_eq!(
            refused(|written| written.sql_query_memory = Some(ByteSize::gib(2))),
            "sql_query_memory"
        );
        assert_eq!(refused(|written| written.sql_queries = 0), "sql_queries");
        assert_eq!(refused(|written| written.sql_timeout = Duration::ZERO), "sql_timeout");
    }
}
