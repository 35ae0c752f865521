//! The list of settings: the one place that knows every key's name and how its text is read.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// How a variable's text is turned into a value, and how a value is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Taken as it stands; durations too.
    Text,
    /// A byte count: shown with the largest unit that divides it.
    Bytes,
    /// A whole number.
    Number,
    /// true or false.
    Switch,
    /// Folders, each perhaps with a size, separated by ':' in a variable.
    Paths,
    /// Path to URI.
    Mounts,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// Every setting, in the order in which they are shown.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        kind: Kind::Text,
    },
    Key {
        name: "flight",
        kind: Kind::Text,
    },
    Key {
        name: "admin",
        kind: Kind::Text,
    },
    Key {
        name: "advertise",
        kind: Kind::Text,
    },
    Key {
        name: "coordinator",
        kind: Kind::Text,
    },
    Key {
        name: "meta",
        kind: Kind::Text,
    },
    Key {
        name: "cluster_key",
        kind: Kind::Text,
    },
    Key {
        name: "weight",
        kind: Kind::Bytes,
    },
    Key {
        name: "member_grace",
        kind: Kind::Text,
    },
    Key {
        name: "job_history",
        kind: Kind::Text,
    },
    Key {
        name: "insecure",
        kind: Kind::Switch,
    },
    Key {
        name: "local_sockets",
        kind: Kind::Switch,
    },
    Key {
        name: "mounts",
        kind: Kind::Mounts,
    },
    Key {
        name: "file_roots",
        kind: Kind::Paths,
    },
    Key {
        name: "memory",
        kind: Kind::Bytes,
    },
    Key {
        name: "cache_dirs",
        kind: Kind::Paths,
    },
    Key {
        name: "page_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "fetch_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "fetch_gap_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "max_footer_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "max_page_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "max_columns",
        kind: Kind::Number,
    },
    Key {
        name: "max_row_groups",
        kind: Kind::Number,
    },
    Key {
        name: "max_schema_depth",
        kind: Kind::Number,
    },
    Key {
        name: "ticket_ttl",
        kind: Kind::Text,
    },
    Key {
        name: "endpoint_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "max_streams",
        kind: Kind::Number,
    },
    Key {
        name: "stall_timeout",
        kind: Kind::Text,
    },
    Key {
        name: "serve_threads",
        kind: Kind::Number,
    },
    Key {
        name: "decode_threads",
        kind: Kind::Number,
    },
    Key {
        name: "sql_memory",
        kind: Kind::Bytes,
    },
    Key {
        name: "sql_query_memory",
        kind: Kind::Bytes,
    },
    Key {
        name: "sql_queries",
        kind: Kind::Number,
    },
    Key {
        name: "sql_queue",
        kind: Kind::Number,
    },
    Key {
        name: "sql_timeout",
        kind: Kind::Text,
    },
    Key {
        name: "sql_spread_bytes",
        kind: Kind::Bytes,
    },
    Key {
        name: "store_concurrency",
        kind: Kind::Number,
    },
    Key {
        name: "store_request_timeout",
        kind: Kind::Text,
    },
    Key {
        name: "store_connect_timeout",
        kind: Kind::Text,
    },
    Key {
        name: "store_retry_timeout",
        kind: Kind::Text,
    },
    Key {
        name: "log",
        kind: Kind::Text,
    },
    Key {
        name: "log_format",
        kind: Kind::Text,
    },
    Key {
        name: "shutdown_grace",
        kind: Kind::Text,
    },
];

/// A name is offered as a correction only when at most one letter in this many differs.
const LETTERS_PER_EDIT: usize = 3;

/// The names of all settings, in the order in which they are shown.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

/// The setting of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name spelt most like `name`, when one is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let candidates = names().map(|known| (levenshtein(&lower, known), known));
    candidates
        .filter(|(edits, known)| edits * LETTERS_PER_EDIT <= known.len())
        .min()
        .map(|(_, known)| known)
}

/// The variable that sets a key: `memory` is `JETBRIDGE_MEMORY`.
pub(super) fn variable(name: &str) -> String {
    format!("JETBRIDGE_{}", name.to_ascii_uppercase())
}

/// The flag that sets a key: `data_dir` is `--data-dir`; lists have a flag in the singular, given once an entry.
pub(super) fn flag(name: &str) -> String {
    match name {
        "mounts" => "--mount".to_owned(),
        "file_roots" => "--file-root".to_owned(),
        "cache_dirs" => "--cache-dir".to_owned(),
        _ => format!("--{}", name.replace('_', "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_are_offered_only_when_near() {
        assert_eq!(nearest("memroy"), Some("memory"));
        assert_eq!(nearest("data-dir"), Some("data_dir"));
        assert_eq!(nearest("entirely_other"), None);
        assert_eq!(nearest("zzz"), None, "a short word is not like every short name");
    }

    #[test]
    fn there_are_fewer_than_sixty_settings() {
        assert!(KEYS.len() < 60);
    }
}
