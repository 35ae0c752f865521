//! Documents and code say the same.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;

use jetbridge_flight_server::config::{self, ConfigFlags, Machine};

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
    let keys: Vec<&str> = config::keys().collect();
    assert!(!keys.is_empty() && keys.len() < 60, "{} keys", keys.len());
    for key in keys {
        assert!(
            readme.contains(&format!("`{key}`")),
            "README.md does not tell of the setting `{key}`"
        );
    }
}

/// Defaults that README tells in words, and how they are shown on a machine of 12 GiB and four cores: empty where another
/// setting decides. None where the environment does.
const IN_WORDS: &[(&str, &str, Option<&str>)] = &[
    ("data_dir", "`~/.local/share/jetbridge`", None),
    ("advertise", "the bound address", Some("")),
    ("weight", "`memory`", Some("")),
    ("memory", "a third of the machine", Some("4GiB")),
    ("cache_dirs", "`cache` in `data_dir`", Some("")),
    ("max_page_bytes", "the format's most", Some("2147483647")),
    ("serve_threads", "the number of cores", Some("4")),
    ("decode_threads", "the number of cores", Some("4")),
    ("sql_memory", "a quarter of `memory`", Some("")),
    ("sql_query_memory", "half of that", Some("")),
];

/// "| key | default |": a default that README writes as a value means what holds where nothing is written.
#[test]
fn readme_tells_the_defaults() {
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## Configuration\n").unwrap();
    let (_, table) = section.split_once("\n| key | default |").unwrap();
    let defaults = shown(None);
    let mut seen = BTreeSet::new();
    for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let keys: Vec<&str> = cells[1].split(", ").map(|key| key.trim_matches('`')).collect();
        let values: Vec<&str> = match keys.as_slice() {
            [_] => vec![cells[2]],
            _ => cells[2].split(", ").collect(),
        };
        assert_eq!(keys.len(), values.len(), "{line}");
        for (key, said) in keys.into_iter().zip(values) {
            check_default(key, said, &defaults);
            seen.insert(key);
        }
    }
    assert_eq!(seen, config::keys().collect());
}

fn check_default(key: &str, said: &str, defaults: &HashMap<String, String>) {
    let default = &defaults[key];
    if let Some((_, _, expected)) = IN_WORDS.iter().find(|(of, words, _)| (*of, *words) == (key, said)) {
        assert!(expected.is_none_or(|expected| expected == default), "{key}: {default}");
    } else if said == "none" {
        assert_eq!(default, "", "{key}");
    } else {
        let written = said.strip_prefix('`').and_then(|said| said.strip_suffix('`'));
        let written = written.unwrap_or_else(|| panic!("the default of {key} is {said}, which is no value"));
        assert_eq!(&shown(Some((key, written)))[key], default, "{key}");
    }
}

/// All settings as `jetbridge config show` has them, where nothing is written, or one of them.
fn shown(written: Option<(&str, &str)>) -> HashMap<String, String> {
    let variable = |(key, value): (&str, &str)| {
        let name = format!("JETBRIDGE_{}", key.to_ascii_uppercase());
        (OsString::from(name), OsString::from(value))
    };
    let machine = Machine {
        memory_bytes: Some(12 << 30),
        cores: 4,
    };
    let loaded = config::load(&ConfigFlags::default(), written.map(variable), &machine).unwrap();
    loaded.rows().into_iter().map(|row| (row.key, row.value)).collect()
}
