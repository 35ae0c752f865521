//! Documents and code say the same.

use crate::sources::{CRATES, read, rust_sources};

/// Every Rust file begins with what it is for.
#[test]
fn every_file_has_a_module_doc() {
    for source in rust_sources() {
        assert!(
            source.text.starts_with("//! "),
            "{} begins without a module doc",
            source.path
        );
    }
}

/// README's layout names every crate's folder.
#[test]
fn readme_shows_the_layout() {
    let readme = read("README.md");
    for folder in CRATES {
        assert!(
            readme.contains(&format!("{folder}/")),
            "README.md does not name {folder}/"
        );
    }
}

/// "the two commands": what README tells to type exists in the Makefile.
#[test]
fn readme_commands_exist() {
    let (readme, makefile) = (read("README.md"), read("Makefile"));
    let mut seen = 0;
    for line in readme.lines() {
        let Some(target) = line.trim_start().strip_prefix("make ") else {
            continue;
        };
        let target = target.split_whitespace().next().unwrap();
        assert!(
            makefile.contains(&format!("\n{target}:")),
            "README.md tells to type `make {target}`"
        );
        seen += 1;
    }
    assert!(seen >= 2, "README.md shows no make command at a line's start");
}

/// "fewer than 60 keys", each of them in README's table.
#[test]
fn every_setting_is_documented() {
    let readme = read("README.md");
    let keys: Vec<&str> = jetbridge_flight_server::config::keys().collect();
    assert!(!keys.is_empty() && keys.len() < 60, "{} keys", keys.len());
    for key in keys {
        assert!(
            readme.contains(&format!("`{key}`")),
            "README.md does not tell of the setting `{key}`"
        );
    }
}
