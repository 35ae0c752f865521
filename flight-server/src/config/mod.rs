//! Settings of a server: what was written, where, and what is then true.
//!
//! Four layers, each over the one before: defaults, the TOML file, `JETBRIDGE_…` variables, flags. They are merged by
//! figment, which remembers for each value the layer it came from; [`Loaded::rows`] is that memory as
//! `jetbridge config show` prints it. [`load`] is the one fallible step from what is written ([`written`]) to what is
//! true ([`Settings`]): after it values are in range, paths absolute, mounts checked.
//!
//! Why unknown keys are errors: a misspelt `memroy = "64GiB"` that is silently ignored is found weeks later, in an
//! outage. Variables are checked too, but for those that others set under our prefix (see [`layer`]).
//!
//! Why lists replace and mounts merge: a later layer's `file_roots` must be able to narrow an earlier one's, while a
//! `--mount` on the command line adds to the mounts of the file, path by path. Of two mounts of one path the later is the
//! whole: options of another storage would be no use to it, and its source would be two places.

mod address;
mod cluster;
mod flags;
mod keys;
mod layer;
mod machine;
mod settings;
mod show;
mod sql;
mod value;
mod written;

use std::ffi::OsString;
use std::path::PathBuf;

use figment::Figment;
use thiserror::Error;

pub use self::cluster::{ClusterSettings, MetaPlace};
pub use self::flags::ConfigFlags;
pub use self::machine::Machine;
pub use self::settings::{CacheDir, LogFormat, Settings};
pub use self::show::Row;
pub(crate) use self::sql::MIN_MEMORY_BYTES as MIN_SQL_MEMORY_BYTES;
pub(crate) use self::value::{parse_bytes, parse_duration};
pub(crate) use self::written::MIN_MEMORY_BYTES;

use self::layer::Layer;
use self::written::Written;

/// The names of all settings, in the order in which they are shown.
pub fn keys() -> impl Iterator<Item = &'static str> {
    keys::names()
}

/// Why settings could not be loaded; each names the key and where it was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    ReadFile {
        /// The file that was named.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file that was named.
        path: PathBuf,
        /// Line and what is wrong with it.
        reason: String,
    },
    /// A key that no setting has.
    #[error("{origin}: unknown key \"{key}\"{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The layer it was written in.
        origin: String,
        /// The known key that is spelt most alike, if any is near.
        nearest: Option<String>,
    },
    /// A value of the wrong type, form or range.
    #[error("{origin}: {key}: {reason}")]
    BadValue {
        /// The key it was given for.
        key: String,
        /// The layer it was written in.
        origin: String,
        /// What would be accepted.
        reason: String,
    },
}

/// Settings together with the source of each value.
#[derive(Debug)]
pub struct Loaded {
    /// What is true for this server.
    pub settings: Settings,
    written: Written,
    figment: Figment,
    file: Option<PathBuf>,
}

impl Loaded {
    /// One row a setting (one a mount), in the order of the documentation, with its source.
    pub fn rows(&self) -> Vec<Row> {
        show::rows(&self.written, &self.figment, self.file.as_deref())
    }
}

/// Merges defaults, file, environment and flags into settings.
///
/// `environment` is all variables of the process; those without the `JETBRIDGE_` prefix are passed over.
///
/// # Errors
/// The first of: a file that cannot be read or is not TOML, an unknown key, a value of the wrong form or range.
pub fn load(
    flags: &ConfigFlags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    machine: &Machine,
) -> Result<Loaded, ConfigError> {
    let mut layers = vec![Layer::defaults(&Written::defaults(machine))];
    if let Some(path) = &flags.config {
        layers.push(Layer::file(path)?);
    }
    layers.push(Layer::environment(environment)?);
    layers.push(Layer::flags(flags)?);
    layer::replace_mounts(&mut layers);
    let figment = layers
        .into_iter()
        .fold(Figment::new(), |merged, layer| merged.merge(layer));
    let file = flags.config.clone();
    let written: Written = figment.extract().map_err(|error| bad_value(error, file.as_deref()))?;
    let settings = Settings::resolve(written.clone(), |key| show::source_of(&figment, key, file.as_deref()))?;
    Ok(Loaded {
        settings,
        written,
        figment,
        file,
    })
}

fn bad_value(error: figment::Error, file: Option<&std::path::Path>) -> ConfigError {
    let key = error.path.join(".");
    let layer = error.metadata.as_ref().map_or("", |metadata| metadata.name.as_ref());
    ConfigError::BadValue {
        origin: show::describe(layer, &key, file),
        key,
        reason: error.kind.to_string(),
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => format!("; known keys: {}", keys::names().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: ConfigFlags,
    }

    fn loaded(flags: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let flags = Command::try_parse_from(std::iter::once(&"test").chain(flags))
            .unwrap()
            .flags;
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        load(
            &flags,
            variables,
            &Machine {
                memory_bytes: Some(12 << 30),
                cores: 4,
            },
        )
    }

    fn source(loaded: &Loaded, key: &str) -> String {
        loaded.rows().into_iter().find(|row| row.key == key).unwrap().source
    }

    fn mounted<'a>(loaded: &'a Loaded, path: &str) -> &'a jetbridge_catalog::mount::Mount {
        loaded
            .settings
            .mounts
            .iter()
            .find(|mount| mount.path.as_str() == path)
            .unwrap()
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jetbridge.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn defaults_come_from_the_machine() {
        let loaded = loaded(&[], &[]).unwrap();
        assert_eq!(loaded.settings.memory_bytes, 4 << 30);
        assert_eq!((loaded.settings.serve_threads, loaded.settings.decode_threads), (4, 4));
        assert_eq!(loaded.settings.ticket_ttl, Duration::from_secs(600));
        assert_eq!(source(&loaded, "memory"), "default");
    }

    #[test]
    fn each_layer_wins_over_the_one_before_and_says_so() {
        let (_folder, path) =
            file("memory = \"1GiB\"\nticket_ttl = \"1m\"\nlog = \"debug\"\nendpoint_bytes = 1048576\n");
        let flags = ["--config", path.as_str(), "--memory", "3GiB"];
        let loaded = loaded(&flags, &[("JETBRIDGE_MEMORY", "2GiB"), ("JETBRIDGE_TICKET_TTL", "2m")]).unwrap();
        assert_eq!(loaded.settings.memory_bytes, 3 << 30);
        assert_eq!(loaded.settings.ticket_ttl, Duration::from_secs(120));
        assert_eq!(loaded.settings.log, "debug");
        assert_eq!(loaded.settings.endpoint_bytes, 1 << 20);
        assert_eq!(source(&loaded, "memory"), "flag --memory");
        assert_eq!(source(&loaded, "ticket_ttl"), "environment JETBRIDGE_TICKET_TTL");
        assert_eq!(source(&loaded, "log"), format!("file {path}"));
        assert_eq!(source(&loaded, "flight"), "default");
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest() {
        let (_folder, path) = file("memroy = \"1GiB\"\n");
        let error = loaded(&["--config", &path], &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("file {path}: unknown key \"memroy\"; did you mean \"memory\"?")
        );
        let error = loaded(&[], &[("JETBRIDGE_TICKET_TLL", "1m")]).unwrap_err().to_string();
        assert!(
            error.contains("JETBRIDGE_TICKET_TLL") && error.contains("ticket_ttl"),
            "{error}"
        );
        let error = loaded(&[], &[("JETBRIDGE_ZZZ", "1m")]).unwrap_err().to_string();
        assert!(error.contains("known keys: data_dir,"), "{error}");
    }

    #[test]
    fn an_unknown_key_of_a_mount_is_an_error() {
        let (_folder, path) = file("[mounts.\"/lake\"]\nuri = \"s3://b\"\nreadonly = true\n");
        let error = loaded(&["--config", &path], &[]).unwrap_err().to_string();
        assert!(error.contains("readonly") && error.contains(&path), "{error}");
    }

    #[test]
    fn a_bad_value_names_key_and_source() {
        let error = loaded(&[], &[("JETBRIDGE_MEMORY", "lots")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "environment JETBRIDGE_MEMORY: memory: \"lots\" is not a size; write it like 4GiB or 268435456"
        );
        let error = loaded(&[], &[("JETBRIDGE_SHUTDOWN_GRACE", "10")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"10\" is not a duration"), "{error}");
        let error = loaded(&[], &[("JETBRIDGE_DECODE_THREADS", "0")])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("environment JETBRIDGE_DECODE_THREADS: decode_threads: 0 is outside"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_or_broken_file_is_an_error() {
        assert!(matches!(
            loaded(&["--config", "/nonexistent/x.toml"], &[]),
            Err(ConfigError::ReadFile { .. })
        ));
        let (_folder, path) = file("memory = \n");
        let error = loaded(&["--config", &path], &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { .. }));
        assert!(error.to_string().contains("line 1"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn mounts_of_all_layers_are_joined_by_path() {
        let text = "[mounts]\n\"/a\" = \"s3://file/a\"\n[mounts.\"/b.c\"]\nuri = \"s3://file/b\"\noptions = { allow_http = true, concurrency = 8 }\nread_only = true\n";
        let (_folder, path) = file(text);
        let flags = [
            "--config",
            path.as_str(),
            "--mount",
            "/a=s3://flag/a",
            "--mount",
            "/d=file:///data",
        ];
        let loaded = loaded(&flags, &[("JETBRIDGE_MOUNTS", "/e=gs://env,/f=gs://env/f")]).unwrap();
        let paths = loaded.settings.mounts.iter().map(|mount| mount.path.as_str());
        assert_eq!(paths.collect::<Vec<_>>(), ["/a", "/b.c", "/d", "/e", "/f"]);
        assert_eq!(mounted(&loaded, "/a").uri.as_str(), "s3://flag/a");
        let from_file = mounted(&loaded, "/b.c");
        assert_eq!(from_file.options["allow_http"], "true");
        assert_eq!(from_file.options["concurrency"], "8");
        assert!(from_file.read_only);
        assert_eq!(source(&loaded, "mounts./b.c"), format!("file {path}"));
        assert_eq!(source(&loaded, "mounts./a"), "flag --mount");
        assert_eq!(source(&loaded, "mounts./e"), "environment JETBRIDGE_MOUNTS");
        assert_eq!(loaded.settings.file_roots, [PathBuf::from("/data")]);
    }

    #[test]
    fn a_mount_of_a_later_layer_is_the_whole_of_it() {
        let text =
            "[mounts.\"/lake\"]\nuri = \"s3://file\"\nread_only = true\noptions = { region = \"x\", replicas = 2 }\n";
        let (_folder, path) = file(text);
        for written in ["/lake", "/lake/"] {
            let json = format!(r#"{{"{written}": {{"uri": "s3://env", "options": {{"path_style": true}}}}}}"#);
            let loaded = loaded(&["--config", &path], &[("JETBRIDGE_MOUNTS", json.as_str())]).unwrap();
            assert_eq!(loaded.settings.mounts.len(), 1, "{written}");
            let mount = mounted(&loaded, "/lake");
            assert_eq!(mount.uri.as_str(), "s3://env");
            assert_eq!(mount.options.keys().collect::<Vec<_>>(), ["path_style"]);
            assert!(!mount.read_only);
            assert_eq!(
                source(&loaded, &format!("mounts.{written}")),
                "environment JETBRIDGE_MOUNTS"
            );
        }
    }

    #[test]
    fn a_path_that_one_layer_mounts_twice_is_refused() {
        let refused = |flags: &[&str], variables: &[(&str, &str)]| loaded(flags, variables).unwrap_err().to_string();
        let flags = ["--mount", "/lake=s3://one", "--mount", "/lake=s3://two"];
        assert_eq!(refused(&flags, &[]), "flag --mount: mounts: /lake is given twice");
        let flags = ["--mount", "/lake=s3://one", "--mount", "/lake/=s3://one"];
        assert_eq!(refused(&flags, &[]), "flag --mount: mounts: /lake/ is given twice");
        let variables = [("JETBRIDGE_MOUNTS", "/lake=s3://one,/lake=s3://two")];
        assert_eq!(
            refused(&[], &variables),
            "environment JETBRIDGE_MOUNTS: mounts: /lake is given twice"
        );
        for second in ["/lake", "/lake/"] {
            let json = format!(r#"{{"/lake": "s3://one", "{second}": {{"uri": "s3://two"}}}}"#);
            assert_eq!(
                refused(&[], &[("JETBRIDGE_MOUNTS", json.as_str())]),
                format!("environment JETBRIDGE_MOUNTS: mounts: {second} is given twice")
            );
        }
        let (_folder, path) = file("[mounts]\n\"/lake\" = \"s3://one\"\n\"/lake/\" = \"s3://two\"\n");
        assert_eq!(
            refused(&["--config", &path], &[]),
            format!("file {path}: mounts./lake/: /lake is given twice")
        );
    }

    #[test]
    fn an_advertised_address_is_one_that_others_find() {
        for written in ["node-1:8815", "grpc://node-1:8815", "grpc+tcp://node-1:8815"] {
            let loaded = loaded(&["--advertise", written], &[]).unwrap();
            assert_eq!(
                loaded.settings.advertise.as_deref(),
                Some("grpc://node-1:8815"),
                "{written}"
            );
        }
        for written in ["node-1", "grpc+tls://node-1:8815"] {
            let error = loaded(&["--advertise", written], &[]).unwrap_err().to_string();
            assert!(
                error.starts_with("flag --advertise: advertise: ") && error.contains("HOST:PORT"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_mount_of_a_plain_folder_becomes_a_file_uri_and_a_root() {
        let loaded = loaded(&["--mount", "/x=/data/x y", "--file-root", "/other"], &[]).unwrap();
        assert_eq!(mounted(&loaded, "/x").uri.as_str(), "file:///data/x y");
        assert_eq!(
            loaded.settings.file_roots,
            [PathBuf::from("/other"), PathBuf::from("/data/x y")]
        );
    }

    #[test]
    fn mounts_in_the_environment_may_be_json() {
        let text = r#"{"/a": {"uri": "s3://b", "options": {"region": "x"}}, "/c": "s3://d/e,f"}"#;
        let loaded = loaded(&[], &[("JETBRIDGE_MOUNTS", text)]).unwrap();
        assert_eq!(mounted(&loaded, "/a").options["region"], "x");
        assert_eq!(mounted(&loaded, "/c").uri.as_str(), "s3://d/e,f");
    }

    #[test]
    fn variables_that_orchestrators_set_are_passed_over() {
        let others = [
            ("JETBRIDGE_SERVICE_HOST", "10.0.0.1"),
            ("JETBRIDGE_SERVICE_PORT_FLIGHT", "8815"),
            ("JETBRIDGE_PORT", "tcp://10.0.0.1:8815"),
            ("JETBRIDGE_PORT_8815_TCP_ADDR", "10.0.0.1"),
            ("JETBRIDGE_URI", "grpc://elsewhere:1"),
            ("JETBRIDGE_CONFIG", "/etc/jetbridge.toml"),
            ("JETBRIDGE_PROGRESS", "0"),
            ("PATH", "/bin"),
        ];
        assert!(loaded(&[], &others).is_ok());
    }

    #[test]
    fn switches_and_lists_are_read_from_the_environment() {
        let variables = [("JETBRIDGE_INSECURE", "1"), ("JETBRIDGE_FILE_ROOTS", "/a:/b c")];
        let loaded = loaded(&[], &variables).unwrap();
        assert!(loaded.settings.insecure);
        assert_eq!(loaded.settings.file_roots, [PathBuf::from("/a"), PathBuf::from("/b c")]);
        assert!(
            load(
                &ConfigFlags::default(),
                [(OsString::from("JETBRIDGE_INSECURE"), OsString::from("maybe"))],
                &Machine {
                    memory_bytes: None,
                    cores: 1
                },
            )
            .is_err()
        );
    }

    #[test]
    fn a_plain_secret_is_refused_and_not_repeated() {
        let (_folder, path) =
            file("[mounts.\"/a\"]\nuri = \"s3://b\"\noptions = { secret_access_key = \"hunter2\" }\n");
        let error = loaded(&["--config", &path], &[]).unwrap_err();
        assert!(
            error.to_string().contains("mounts./a") && error.to_string().contains("secret_access_key"),
            "{error}"
        );
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }

    #[test]
    fn a_bad_mount_names_its_path_and_source() {
        let error = loaded(&["--mount", "/../x=s3://b"], &[]).unwrap_err().to_string();
        assert!(error.starts_with("flag --mount: mounts./../x: "), "{error}");
        let error = loaded(&["--mount", "/x=ftp://b"], &[]).unwrap_err().to_string();
        assert!(error.starts_with("flag --mount: mounts./x: "), "{error}");
    }

    #[test]
    fn mounts_are_shown_one_by_one() {
        let (_folder, path) =
            file("[mounts.\"/a\"]\nuri = \"s3://b\"\nread_only = true\noptions = { region = \"x\" }\n");
        let loaded = loaded(&["--config", &path], &[]).unwrap();
        let row = loaded.rows().into_iter().find(|row| row.key == "mounts./a").unwrap();
        assert_eq!(row.value, "s3://b region=x (read-only)");
    }
}
