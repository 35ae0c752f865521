//! Who may import whom, between the crates and inside the cache.

use crate::sources::{read, sources};

/// For each crate, dependencies that it must not have.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "etcd",
        &[
            "jetbridge-catalog",
            "jetbridge-cache",
            "jetbridge-flight-server",
            "arrow",
            "arrow-flight",
            "etcd-client",
            "tonic-build",
            "prost-build",
        ],
    ),
    (
        "catalog",
        &[
            "jetbridge-cache",
            "jetbridge-flight-server",
            "arrow",
            "arrow-flight",
            "parquet",
            "tonic",
            "object_store",
            "datafusion",
        ],
    ),
    (
        "cache",
        &[
            "jetbridge-catalog",
            "jetbridge-flight-server",
            "tonic",
            "arrow-flight",
            "datafusion",
        ],
    ),
    (
        "client",
        &[
            "jetbridge-catalog",
            "jetbridge-cache",
            "jetbridge-flight-server",
            "parquet",
            "object_store",
        ],
    ),
    ("flight-server", &["parquet", "object_store"]),
];

/// Modules of the cache from left to right: a module names only those to its left.
const CACHE_ORDER: &[&str] = &["key", "ufs", "page", "footer", "chunk", "scan"];

/// "who may import whom": the crates' manifests name no forbidden dependency.
#[test]
fn crates_import_only_what_they_may() {
    for (name, forbidden) in FORBIDDEN {
        let manifest = read(&format!("{name}/Cargo.toml"));
        let dependencies = manifest
            .split("[dependencies]")
            .nth(1)
            .unwrap()
            .split("\n[")
            .next()
            .unwrap();
        let named: Vec<&str> = dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .collect();
        assert!(named.len() > 3, "{name}: the check read no dependencies");
        for dependency in *forbidden {
            assert!(!named.contains(dependency), "{name} must not depend on {dependency}");
        }
    }
}

/// "inside cache a module names only modules to its left".
#[test]
fn cache_modules_import_leftwards() {
    for (position, module) in CACHE_ORDER.iter().enumerate() {
        for source in module_files(module) {
            for right in &CACHE_ORDER[position + 1..] {
                let names_it = source.text.contains(&format!("crate::{right}::"))
                    || source.text.contains(&format!("crate::{right};"));
                assert!(!names_it, "{} must not import {right}", source.path);
            }
        }
    }
}

/// "decode does no I/O: bytes in, arrays out".
#[test]
fn decode_does_no_io() {
    for source in module_files("decode") {
        for word in [
            "crate::ufs",
            "crate::page::",
            "tokio::",
            "object_store",
            "async fn",
            "std::fs",
        ] {
            assert!(
                !source.without_tests().contains(word),
                "{}: {word} in decode",
                source.path
            );
        }
    }
}

/// "the cache never asks the catalog", and neither knows the protocol: nothing below the door imports it.
#[test]
fn only_the_door_knows_flight() {
    let door = "flight-server/src/flight/";
    // Those who ask other nodes, as a client does.
    let clients = [
        "flight-server/src/cli/",
        "flight-server/src/cluster/peers.rs",
        "flight-server/src/cluster/remote.rs",
    ];
    for source in sources("flight-server/src", "rs") {
        let is_client = clients.iter().any(|client| source.path.starts_with(client));
        if !source.path.starts_with(door) && !is_client {
            assert!(
                !source.without_tests().contains("arrow_flight::"),
                "{} names arrow_flight",
                source.path
            );
        }
    }
}

fn module_files(module: &str) -> Vec<crate::sources::Source> {
    let file = format!("cache/src/{module}.rs");
    let folder = format!("cache/src/{module}/");
    let found: Vec<_> = sources("cache/src", "rs")
        .into_iter()
        .filter(|source| source.path == file || source.path.starts_with(&folder))
        .collect();
    assert!(
        !found.is_empty(),
        "the cache has no module {module}: the check looks at nothing"
    );
    found
}
