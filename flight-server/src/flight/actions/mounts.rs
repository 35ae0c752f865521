//! `mount.*`

use std::sync::Arc;
use std::time::Instant;

use jetbridge_cache::ufs::{CheckReport, mount_id};
use jetbridge_catalog::mount::Mount;
use jetbridge_catalog::path::NsPath;
use serde::Serialize;

use super::{Nothing, PathBody};
use crate::error::ServiceError;
use crate::node::Node;

/// Answer of `mount.list`.
#[derive(Debug, Serialize)]
pub(super) struct Mounts {
    mounts: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    /// What metrics call it.
    id: String,
    #[serde(flatten)]
    mount: Mount,
}

/// Answer of `mount.check`.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    ok: bool,
    checks: Vec<Step>,
    warnings: Vec<String>,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    detail: String,
    /// How long it took; the first of a successful check stands for all.
    ms: u128,
}

/// Answer of `mount.add` and `mount.remove`.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    path: NsPath,
}

pub(super) async fn add(node: &Node, mount: Mount) -> Result<Done, ServiceError> {
    let path = mount.path.clone();
    node.add_mount(mount).await?;
    tracing::info!(mount = %path, "mounted");
    Ok(Done { path })
}

pub(super) fn list(node: &Node, _: &Nothing) -> Mounts {
    Mounts {
        mounts: node
            .namespace
            .table()
            .iter()
            .map(|mount: &Arc<Mount>| Listed {
                id: mount_id(mount.path.as_str()),
                mount: (**mount).clone(),
            })
            .collect(),
    }
}

pub(super) async fn remove(node: &Node, body: PathBody) -> Result<Done, ServiceError> {
    let path = node.locate(&body.path)?;
    node.remove_mount(&path).await?;
    tracing::info!(mount = %path, "unmounted");
    Ok(Done { path })
}

/// A storage that fails is what was asked about, so it is an answer and no error.
pub(super) async fn check(node: &Node, body: PathBody) -> Result<Checked, ServiceError> {
    let started = Instant::now();
    let checked = match node.check_mount(&node.locate(&body.path)?).await {
        Ok(report) => Checked {
            ok: true,
            checks: steps(&report),
            warnings: report.warnings,
        },
        Err(ServiceError::Ufs(error)) => {
            let step = Step {
                name: "storage",
                ok: false,
                detail: error.to_string(),
                ms: started.elapsed().as_millis(),
            };
            Checked {
                ok: false,
                checks: vec![step],
                warnings: Vec::new(),
            }
        }
        Err(error) => return Err(error),
    };
    Ok(checked)
}

fn steps(report: &CheckReport) -> Vec<Step> {
    let read = match &report.object {
        Some(object) => format!("{} bytes of {object}", report.bytes_read),
        None => "there is nothing to read".to_owned(),
    };
    let generation = match report.strong_generation {
        Some(true) => "strong: ranges are pinned to one version",
        Some(false) => "weak: files are read whole",
        None => "unknown: there is nothing to read",
    };
    let step = |name, detail: String, ms| Step {
        name,
        ok: true,
        detail,
        ms,
    };
    vec![
        step("list", report.uri.clone(), u128::from(report.elapsed_ms)),
        step("read", read, 0),
        step("generation", generation.to_owned(), 0),
    ]
}
