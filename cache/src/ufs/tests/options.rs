//! Options that are refused, and how.

use std::collections::BTreeSet;

use super::*;

fn refused(scheme: &str, options: &[(&str, &str)]) -> String {
    let error = open(spec(scheme, "bucket", "", options)).unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::InvalidOption, "{error}");
    error.to_string()
}

#[test]
fn an_unknown_option_is_named_with_the_known_ones() {
    let message = refused("s3", &[("anonymus", "true")]);
    assert!(
        message.contains("anonymus") && message.contains("anonymous, concurrency"),
        "{message}"
    );
    assert!(refused("memory", &[("region", "x")]).contains("concurrency, timeout"));
    assert!(refused("ftp", &[]).contains("ftp"));
}

/// README: "Options of a mount, by the scheme of its URI".
#[test]
fn readme_names_the_options_of_every_scheme() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, table) = readme.split_once("\n| scheme | options |\n").unwrap();
    let in_code = |text: &str| -> BTreeSet<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    for scheme in ["s3", "gs", "az", "http", "https", "file"] {
        let mut rows = table
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
        let (_, options) = rows.find(|(schemes, _)| in_code(schemes).contains(scheme)).unwrap();
        let mut said = in_code(options.split(';').next().unwrap());
        said.extend(["concurrency", "timeout"].map(str::to_owned));
        let message = refused(scheme, &[("no_such_option", "x")]);
        let (_, known) = message.split_once("there are: ").unwrap();
        assert_eq!(said, known.split(", ").map(str::to_owned).collect(), "{scheme}");
    }
}

#[test]
fn values_that_do_not_fit_are_named_with_their_option() {
    for (option, value) in [
        ("concurrency", "0"),
        ("concurrency", "many"),
        ("timeout", "10 parsecs"),
        ("timeout", "0s"),
        ("allow_http", "maybe"),
        ("endpoint", "not a url"),
        ("endpoint", "http://127.0.0.1:1"),
        ("endpoint", "ftp://127.0.0.1:1"),
        ("secret_access_key", "PLAIN"),
        ("secret_access_key", "file:/gone"),
    ] {
        let message = refused("s3", &[(option, value)]);
        assert!(message.contains(option) && !message.contains("PLAIN"), "{message}");
    }
}

#[test]
fn half_a_key_is_refused_and_the_other_half_is_not_taken_from_the_environment() {
    let environment = |name: &str| name.starts_with("AWS_SECRET").then(|| "other".to_owned());
    let half = spec("s3", "bucket", "", &[("access_key_id", "id")]);
    let error = Ufs::open_in(half, &context(), &environment).unwrap_err();
    assert!(error.to_string().contains("secret_access_key is missing"), "{error}");
    assert!(refused("s3", &[("anonymous", "true"), ("access_key_id", "id")]).contains("anonymous"));
}

#[test]
fn every_scheme_opens_with_its_options() {
    let keys = [
        ("access_key_id", "id"),
        ("secret_access_key", "env:S"),
        ("session_token", "env:T"),
    ];
    open(spec("s3", "bucket", "a/b", &keys)).unwrap();
    open(spec(
        "s3",
        "bucket",
        "",
        &[
            ("endpoint", "https://host"),
            ("path_style", "false"),
            ("anonymous", "1"),
        ],
    ))
    .unwrap();
    open(spec(
        "s3",
        "bucket",
        "",
        &[("concurrency", "8"), ("timeout", "5s"), ("region", "eu-north-1")],
    ))
    .unwrap();
    open(spec("gs", "bucket", "", &[("anonymous", "true")])).unwrap();
    open(spec(
        "az",
        "container",
        "",
        &[("account_name", "a"), ("sas_token", "env:S"), ("anonymous", "false")],
    ))
    .expect_err("a sas token that is none");
    open(spec(
        "az",
        "container",
        "",
        &[("account_name", "a"), ("bearer_token", "env:S")],
    ))
    .unwrap();
    open(spec(
        "az",
        "container",
        "",
        &[("account_name", "a"), ("anonymous", "true")],
    ))
    .unwrap();
    open(spec("https", "host", "a", &[("bearer_token", "env:S")])).unwrap();
}

#[test]
fn what_a_client_library_says_of_a_secret_is_masked() {
    let bad = [("account_name", "a"), ("access_key", "env:CANARY")];
    let message = refused("az", &bad);
    assert!(!message.contains("CANARY"), "{message}");
}

#[test]
fn nothing_prints_a_secret() {
    let keys = [("access_key_id", "id"), ("secret_access_key", "env:CANARY")];
    let ufs = open(spec("s3", "bucket", "", &keys)).unwrap();
    assert!(!format!("{ufs:?} {:?}", context()).contains("secret of"));
}
