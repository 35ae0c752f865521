//! The options of a session by name: what values they take, and how they are shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::wire::{OptionValue, Value};
use crate::node::Node;
use crate::sql::{CATALOG, PUBLIC, SessionOptions};
use crate::ticket::SqlOptions;

const CATALOG_NAME: &str = "catalog";
const SCHEMA_NAME: &str = "schema";
const TIMEOUT_NAME: &str = "timeout";
const BATCH_NAME: &str = "batch_size";
/// All options.
pub(super) const NAMES: [&str; 4] = [CATALOG_NAME, SCHEMA_NAME, TIMEOUT_NAME, BATCH_NAME];

/// Longest name of a schema, in bytes: a cookie has to hold it.
const MAX_SCHEMA_BYTES: usize = 1024;
/// Longest time that a query may be given.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most rows of a batch.
const MAX_BATCH_ROWS: u64 = 1 << 20;

/// Why an option was not set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such option.
    Name,
    /// It does not take this value, for this reason.
    Value(String),
}

/// Sets one option; a value without content unsets it. A schema has to be one that there is.
pub(super) async fn set(
    node: &Arc<Node>,
    options: &mut SqlOptions,
    name: &str,
    value: &OptionValue,
) -> Result<(), Refused> {
    if !NAMES.contains(&name) {
        return Err(Refused::Name);
    }
    let text = match &value.value {
        None => return unset(options, name),
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Float(number)) => number.to_string(),
        Some(Value::Bool(_) | Value::Texts(_)) => {
            return Err(Refused::Value("neither a flag nor a list is a value of it".to_owned()));
        }
    };
    // The default one is there even while no dataset is in it.
    if name == SCHEMA_NAME && text != PUBLIC {
        let schemas = node.sql.schemas(node).await;
        let schemas = schemas.map_err(|error| Refused::Value(crate::error::chain(&error)))?;
        if !schemas.contains(&text) {
            return Err(Refused::Value(format!("there is no schema {text:?}")));
        }
    }
    set_text(options, name, &text).map_err(Refused::Value)
}

/// Sets one option from its text.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn set_text(options: &mut SqlOptions, name: &str, text: &str) -> Result<(), String> {
    match name {
        CATALOG_NAME if text == CATALOG => options.catalog = Some(text.to_owned()),
        CATALOG_NAME => return Err(format!("there is no catalog {text:?}; the one there is is {CATALOG:?}")),
        SCHEMA_NAME if (1..=MAX_SCHEMA_BYTES).contains(&text.len()) => options.schema = Some(text.to_owned()),
        SCHEMA_NAME => return Err(format!("a schema's name has 1 to {MAX_SCHEMA_BYTES} bytes")),
        // No limit is what holds where nothing is set, so that both are answered alike.
        TIMEOUT_NAME => options.timeout_ms = Some(millis(text)?).filter(|&limit| limit > 0),
        _ => options.batch_rows = Some(rows(text)?),
    }
    Ok(())
}

/// Every option with its value.
pub(super) fn shown(options: &SessionOptions) -> HashMap<String, OptionValue> {
    let text = |text: &str| Value::Text(text.to_owned());
    let timeout = options.timeout.map_or(0.0, |timeout| timeout.as_secs_f64());
    let rows = i64::try_from(options.batch_rows).unwrap_or(i64::MAX);
    let values = [
        (CATALOG_NAME, text(&options.catalog)),
        (SCHEMA_NAME, text(&options.schema)),
        (TIMEOUT_NAME, Value::Float(timeout)),
        (BATCH_NAME, Value::Int(rows)),
    ];
    let shown = values.map(|(name, value)| (name.to_owned(), OptionValue { value: Some(value) }));
    shown.into_iter().collect()
}

fn unset(options: &mut SqlOptions, name: &str) -> Result<(), Refused> {
    match name {
        CATALOG_NAME => options.catalog = None,
        SCHEMA_NAME => options.schema = None,
        TIMEOUT_NAME => options.timeout_ms = None,
        _ => options.batch_rows = None,
    }
    Ok(())
}

/// Seconds as a number, or a text with units; zero is none.
fn millis(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time; write seconds, or a text such as 90s");
    let seconds = text.parse::<f64>().ok();
    let time = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        None => humantime::parse_duration(text).map_err(|_| wrong())?,
    };
    if time > MAX_TIMEOUT {
        return Err(format!(
            "{text:?} is more than {}",
            humantime::format_duration(MAX_TIMEOUT)
        ));
    }
    // A time that is shorter than what is counted in is still one.
    let millis = u64::try_from(time.as_millis()).map_err(|_| wrong())?;
    Ok(if time.is_zero() { 0 } else { millis.max(1) })
}

fn rows(text: &str) -> Result<u64, String> {
    let rows = text.parse().ok().filter(|rows| (1..=MAX_BATCH_ROWS).contains(rows));
    rows.ok_or_else(|| format!("{text:?} is no number of rows from 1 to {MAX_BATCH_ROWS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_units() {
        let of = |text| millis(text).ok();
        assert_eq!(
            (of("2.5"), of("90s"), of("1m 1s")),
            (Some(2_500), Some(90_000), Some(61_000))
        );
        assert_eq!((of("0"), of("0.0001")), (Some(0), Some(1)));
        for wrong in ["", "-1", "soon", "nan", "inf", "1e300", "8d"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_the_reason() {
        let mut options = SqlOptions::default();
        for (name, text) in [
            (CATALOG_NAME, "other"),
            (SCHEMA_NAME, ""),
            (TIMEOUT_NAME, "x"),
            (BATCH_NAME, "0"),
            (BATCH_NAME, "1048577"),
        ] {
            assert!(set_text(&mut options, name, text).is_err(), "{name} {text}");
        }
        assert_eq!(options, SqlOptions::default());
    }

    #[test]
    fn a_timeout_of_zero_is_none() {
        for text in ["0", "0.0", "0s"] {
            let mut options = SqlOptions::default();
            set_text(&mut options, TIMEOUT_NAME, "90s").unwrap();
            set_text(&mut options, TIMEOUT_NAME, text).unwrap();
            assert_eq!(options, SqlOptions::default(), "{text}");
        }
    }

    #[test]
    fn what_is_set_can_be_unset() {
        let mut options = SqlOptions::default();
        for (name, text) in [
            (CATALOG_NAME, CATALOG),
            (SCHEMA_NAME, "a"),
            (TIMEOUT_NAME, "1"),
            (BATCH_NAME, "1"),
        ] {
            set_text(&mut options, name, text).unwrap();
        }
        assert!(options.catalog.is_some() && options.schema.is_some());
        for name in NAMES {
            unset(&mut options, name).unwrap();
        }
        assert_eq!(options, SqlOptions::default());
    }
}
