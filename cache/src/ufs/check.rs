//! Trying a mount before somebody needs it.

use std::time::Instant;

use futures::StreamExt;
use serde::Serialize;

use super::{ObjectInfo, Ufs, UfsError};

/// How many objects are looked at for one that can be read.
const MAX_LISTED: usize = 1_000;

/// How many bytes are read of it.
const MAX_READ_BYTES: u64 = 4_096;

/// What [`Ufs::check`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The mount's canonical URI.
    pub uri: String,
    /// The object that was read, relative to the mount; none in a mount without any byte to read.
    pub object: Option<String>,
    /// How many bytes of it were read, pinned to its generation.
    pub bytes_read: u64,
    /// Whether its generation is strong; without that, files are read whole and overwrites may be seen late.
    pub strong_generation: Option<bool>,
    /// How long everything took, in ms.
    pub elapsed_ms: u64,
    /// What will work, but worse than it could.
    pub warnings: Vec<String>,
}

/// Lists, finds an object, looks it up and reads it.
pub(super) async fn check(ufs: &Ufs) -> Result<CheckReport, UfsError> {
    let started = Instant::now();
    let mut report = CheckReport {
        uri: ufs.uri_of(""),
        object: None,
        bytes_read: 0,
        strong_generation: None,
        elapsed_ms: 0,
        warnings: Vec::new(),
    };
    match first_object(ufs).await? {
        Some(listed) => read_one(ufs, &listed, &mut report).await?,
        None => report
            .warnings
            .push("the mount holds no object with any bytes, so no read was tried".to_owned()),
    }
    report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

async fn first_object(ufs: &Ufs) -> Result<Option<ObjectInfo>, UfsError> {
    if let Some(file) = ufs.head("").await? {
        return Ok(Some(file));
    }
    let mut objects = ufs.list("").take(MAX_LISTED);
    while let Some(object) = objects.next().await {
        let object = object?;
        if object.size > 0 {
            return Ok(Some(object));
        }
    }
    Ok(None)
}

async fn read_one(ufs: &Ufs, listed: &ObjectInfo, report: &mut CheckReport) -> Result<(), UfsError> {
    report.object = Some(listed.path.clone());
    report.strong_generation = Some(listed.generation.is_strong());
    if listed.generation.is_strong() {
        let end = listed.size.min(MAX_READ_BYTES);
        ufs.get_range(&listed.path, &ufs.key_of(listed), 0..end).await?;
        report.bytes_read = end;
    } else {
        let warning = "the store gives no strong ETag or version id: each file is read whole, in one request";
        report.warnings.push(warning.to_owned());
    }
    if let Some(now) = ufs
        .head(&listed.path)
        .await?
        .filter(|now| now.generation != listed.generation)
    {
        let warning = format!(
            "listing and look-up disagree on the generation of {:?}: {} and {}",
            listed.path, listed.generation, now.generation
        );
        report.warnings.push(warning);
    }
    Ok(())
}
