//! What a job is asked to do: the options as they come, and as they are kept.
//!
//! A [`JobSpec`] has every option with its value, given or not, so that a job that outlives its scheduler goes on with
//! what it began with, also where a later version has other defaults.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::ServiceError;
use crate::request::ScanSpec;

/// Most paths of one job.
const MAX_PATHS: usize = 10_000;
/// The shortest time between two runs of a job that repeats.
const MIN_EVERY: Duration = Duration::from_secs(1);
/// Most workers that one job may have hold the same bytes.
const MAX_REPLICAS: u32 = 16;

/// What kind of work a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Brings data into the tiers of its owners.
    Preload,
    /// Reads back what is held and compares it with the storage.
    Verify,
}

/// Where data is to be held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// As pages, on disk where there is one.
    Raw,
    /// As decoded chunks, in memory. Pages that had to be fetched for them are not kept.
    Decoded,
    /// In both.
    #[default]
    Both,
}

impl Tier {
    /// Whether pages are to be held.
    #[must_use]
    pub fn has_raw(self) -> bool {
        matches!(self, Self::Raw | Self::Both)
    }

    /// Whether decoded chunks are to be held.
    #[must_use]
    pub fn has_decoded(self) -> bool {
        matches!(self, Self::Decoded | Self::Both)
    }
}

/// Whose turn it is, where several jobs have work for a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// 16 parts for each that a low one gets.
    High,
    /// 4 parts.
    #[default]
    Normal,
    /// 1 part.
    Low,
}

impl Priority {
    /// The share of a worker that a job of this priority has beside others.
    #[must_use]
    pub fn weight(self) -> u64 {
        match self {
            Self::High => 16,
            Self::Normal => 4,
            Self::Low => 1,
        }
    }
}

/// What a job does, every option decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The columns; all where none are given.
    pub columns: Option<Vec<String>>,
    /// A SQL predicate: row groups in which no row can pass it are left out.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// Where to hold it.
    pub tier: Tier,
    /// How many workers shall hold it: the owner, then those that stand in for it. None: as many as the mount says.
    pub replicas: Option<u32>,
    /// Bytes a second that all nodes together may ask of storage for it, those that plan it included.
    pub bandwidth: Option<u64>,
    /// Whether to compare what is held with the storage.
    pub verify: bool,
    /// Whether to bring the footers alone.
    pub metadata_only: bool,
    /// Whether to leave alone what is held already.
    pub skip_if_cached: bool,
    /// Whether to begin before all files are listed.
    pub partial_listing: bool,
    /// Whether to load as much as there is room for, where there is not room for all.
    pub partial: bool,
    /// Whose turn it is.
    pub priority: Priority,
    /// More failed files than this end the job; no bound where none.
    pub max_failures: Option<u64>,
    /// Seconds between the beginnings of two runs; one run where none.
    pub every: Option<f64>,
}

impl JobSpec {
    /// The scan whose data the job is about.
    #[must_use]
    pub fn scan(&self, path: &str) -> ScanSpec {
        ScanSpec {
            path: path.to_owned(),
            columns: self.columns.clone(),
            filter: self.filter.clone(),
            ..ScanSpec::default()
        }
    }

    /// The time between two runs.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.every?).ok()
    }
}

/// Two jobs of one key do the same.
#[must_use]
pub fn key_of(kind: Kind, paths: &[String], spec: &JobSpec) -> String {
    let text = serde_json::to_vec(&(kind, paths, spec)).unwrap_or_default();
    format!("{:032x}", xxh3_128(&text))
}

/// The body of `preload.submit`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreloadBody {
    path: Option<String>,
    paths: Option<Vec<String>>,
    columns: Option<Vec<String>>,
    r#where: Option<String>,
    tier: Option<Tier>,
    replicas: Option<u32>,
    bandwidth: Option<Rate>,
    #[serde(default)]
    verify: bool,
    #[serde(default)]
    metadata_only: bool,
    #[serde(default)]
    skip_if_cached: bool,
    #[serde(default)]
    partial_listing: bool,
    #[serde(default)]
    partial: bool,
    priority: Option<Priority>,
    max_failures: Option<u64>,
    every: Option<Every>,
    #[serde(default)]
    dry_run: bool,
}

/// The body of `verify.submit`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    path: Option<String>,
    paths: Option<Vec<String>>,
    columns: Option<Vec<String>>,
    r#where: Option<String>,
    bandwidth: Option<Rate>,
    priority: Option<Priority>,
    max_failures: Option<u64>,
}

/// Bytes a second: a number, or a text such as `200MiB/s`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Rate {
    Number(u64),
    Text(String),
}

/// A time: seconds, or a text such as `1h`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Every {
    Seconds(f64),
    Text(String),
}

/// What was submitted.
#[derive(Debug)]
pub struct Submission {
    /// What kind of work it is.
    pub kind: Kind,
    /// Of which paths, as they were written.
    pub paths: Vec<String>,
    /// How.
    pub spec: JobSpec,
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

impl PreloadBody {
    /// Checks the options and fills in the defaults.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names the option.
    pub fn check(self) -> Result<Submission, ServiceError> {
        self.check_effects()?;
        let paths = paths(self.path, self.paths)?;
        if self
            .replicas
            .is_some_and(|replicas| replicas == 0 || replicas > MAX_REPLICAS)
        {
            return Err(ServiceError::invalid(format!("replicas must be 1 to {MAX_REPLICAS}")));
        }
        Ok(Submission {
            kind: Kind::Preload,
            paths,
            dry_run: self.dry_run,
            spec: JobSpec {
                columns: self.columns,
                filter: self.r#where,
                tier: self.tier.unwrap_or_default(),
                replicas: self.replicas,
                bandwidth: self.bandwidth.map(Rate::bytes_per_s).transpose()?,
                verify: self.verify,
                metadata_only: self.metadata_only,
                skip_if_cached: self.skip_if_cached,
                partial_listing: self.partial_listing,
                partial: self.partial,
                priority: self.priority.unwrap_or_default(),
                max_failures: self.max_failures,
                every: self.every.map(Every::seconds).transpose()?,
            },
        })
    }

    /// Refuses options that would have no effect beside others: whoever gives them expects one.
    fn check_effects(&self) -> Result<(), ServiceError> {
        let of_data = [
            ("tier", self.tier.is_some()),
            ("verify", self.verify),
            ("skip_if_cached", self.skip_if_cached),
            ("partial", self.partial),
        ];
        let idle = of_data
            .into_iter()
            .find(|(_, is_given)| self.metadata_only && *is_given);
        if let Some((name, _)) = idle {
            return Err(ServiceError::invalid(format!(
                "metadata_only brings footers and no data, and {name} is about data: leave out one of them"
            )));
        }
        if self.partial_listing && self.dry_run {
            return Err(ServiceError::invalid(
                "a dry run tells what all files come to, so it needs them all listed: leave out partial_listing",
            ));
        }
        if self.every.is_some() && self.dry_run {
            return Err(ServiceError::invalid(
                "a dry run makes no job, so nothing of it is repeated: leave out every",
            ));
        }
        Ok(())
    }
}

impl VerifyBody {
    /// As [`PreloadBody::check`].
    ///
    /// # Errors
    /// As there.
    pub fn check(self) -> Result<Submission, ServiceError> {
        let body = PreloadBody {
            path: self.path,
            paths: self.paths,
            columns: self.columns,
            r#where: self.r#where,
            bandwidth: self.bandwidth,
            priority: self.priority,
            max_failures: self.max_failures,
            verify: true,
            ..PreloadBody::default()
        };
        Ok(Submission {
            kind: Kind::Verify,
            ..body.check()?
        })
    }
}

fn paths(path: Option<String>, paths: Option<Vec<String>>) -> Result<Vec<String>, ServiceError> {
    let mut all: Vec<String> = path.into_iter().chain(paths.into_iter().flatten()).collect();
    let mut seen = std::collections::HashSet::new();
    all.retain(|path| seen.insert(path.clone()));
    match all.len() {
        0 => Err(ServiceError::invalid("a job needs a \"path\", or \"paths\"")),
        count if count > MAX_PATHS => Err(ServiceError::invalid(format!("{count} paths; a job takes {MAX_PATHS}"))),
        _ => Ok(all),
    }
}

impl Rate {
    fn bytes_per_s(self) -> Result<u64, ServiceError> {
        let bytes = match self {
            Self::Number(bytes) => bytes,
            Self::Text(text) => {
                let size = text.trim().strip_suffix("/s").unwrap_or(text.trim());
                let size: ByteSize = size.parse().map_err(|_| {
                    ServiceError::invalid(format!("bandwidth {text:?} is no rate; write it as 200MiB/s"))
                })?;
                size.as_u64()
            }
        };
        match bytes {
            0 => Err(ServiceError::invalid(
                "a bandwidth of 0 would never load anything; leave it out for no limit",
            )),
            bytes => Ok(bytes),
        }
    }
}

impl Every {
    fn seconds(self) -> Result<f64, ServiceError> {
        let seconds = match self {
            Self::Seconds(seconds) => seconds,
            Self::Text(text) => humantime::parse_duration(text.trim())
                .map_err(|error| ServiceError::invalid(format!("every {text:?}: {error}; write it as 1h")))?
                .as_secs_f64(),
        };
        if seconds >= MIN_EVERY.as_secs_f64() && Duration::try_from_secs_f64(seconds).is_ok() {
            Ok(seconds)
        } else {
            Err(ServiceError::invalid("every must be 1s or longer"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted(json: &str) -> Result<Submission, String> {
        let body: PreloadBody = serde_json::from_str(json).map_err(|error| error.to_string())?;
        body.check().map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_arrives() {
        let all = r#"{"path": "/a", "paths": ["/b", "/a"], "columns": ["x"], "where": "x > 1", "tier": "raw", "replicas": 2,
            "bandwidth": "2MiB/s", "verify": true, "skip_if_cached": true, "partial_listing": true, "partial": true,
            "priority": "high", "max_failures": 3, "every": "1h"}"#;
        let submitted = submitted(all).unwrap();
        assert_eq!(submitted.paths, ["/a", "/b"]);
        let told = serde_json::to_value(&submitted.spec).unwrap();
        let expected = serde_json::json!({"columns": ["x"], "where": "x > 1", "tier": "raw", "replicas": 2,
            "bandwidth": 2 << 20, "verify": true, "metadata_only": false, "skip_if_cached": true, "partial_listing": true,
            "partial": true, "priority": "high", "max_failures": 3, "every": 3600.0});
        assert_eq!(told, expected);
        let kept: JobSpec = serde_json::from_value(told).unwrap();
        assert_eq!(kept, submitted.spec);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (json, word) in [
            ("{}", "path"),
            (r#"{"path": "/a", "bandwith": 1}"#, "bandwith"),
            (r#"{"path": "/a", "bandwidth": 0}"#, "bandwidth"),
            (r#"{"path": "/a", "bandwidth": "fast"}"#, "bandwidth"),
            (r#"{"path": "/a", "replicas": 0}"#, "replicas"),
            (r#"{"path": "/a", "tier": "tape"}"#, "tape"),
            (r#"{"path": "/a", "every": "0s"}"#, "every"),
            (r#"{"path": "/a", "dry_run": true, "every": "1h"}"#, "every"),
            (
                r#"{"path": "/a", "dry_run": true, "partial_listing": true}"#,
                "partial_listing",
            ),
        ] {
            let error = submitted(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_about_data_goes_with_no_footers_alone() {
        for option in [
            r#""tier": "both""#,
            r#""verify": true"#,
            r#""skip_if_cached": true"#,
            r#""partial": true"#,
        ] {
            let error = submitted(&format!(r#"{{"path": "/a", "metadata_only": true, {option}}}"#)).unwrap_err();
            let name = option.split('"').nth(1).unwrap();
            assert!(
                error.contains("metadata_only") && error.contains(name),
                "{option}: {error}"
            );
        }
        let rest = r#"{"path": "/a", "metadata_only": true, "verify": false, "partial": false, "columns": ["x"],
            "where": "x > 1", "replicas": 2, "bandwidth": 9, "partial_listing": true, "priority": "low", "max_failures": 1,
            "every": "1h"}"#;
        assert_eq!(submitted(rest).unwrap().spec.tier, Tier::Both);
    }

    #[test]
    fn the_same_work_has_the_same_key_and_any_other_option_another() {
        let key = |json: &str| {
            let submitted = submitted(json).unwrap();
            key_of(submitted.kind, &submitted.paths, &submitted.spec)
        };
        assert_eq!(
            key(r#"{"path": "/a", "tier": "both"}"#),
            key(r#"{"paths": ["/a"], "priority": "normal"}"#)
        );
        let plain = key(r#"{"path": "/a"}"#);
        for other in [
            r#""columns": []"#,
            r#""verify": true"#,
            r#""replicas": 1"#,
            r#""bandwidth": 9"#,
            r#""every": 60"#,
        ] {
            assert_ne!(plain, key(&format!(r#"{{"path": "/a", {other}}}"#)), "{other}");
        }
    }
}
