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
    let readme = std::fs::read_to_string("../README.md").unwrap();
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
fn a_session_token_alone_is_refused_and_not_dropped_beside_the_keys_of_the_environment() {
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    let environment = |name: &str| keys.contains(&name).then(|| "other".to_owned());
    let alone = spec("s3", "bucket", "", &[("session_token", "env:T")]);
    let error = Ufs::open_in(alone, &context(), &environment).unwrap_err();
    assert_eq!(error.kind(), UfsErrorKind::InvalidOption);
    assert!(error.to_string().contains("access_key_id is missing"), "{error}");
}

#[test]
fn what_the_azure_emulator_has_no_use_for_is_refused_beside_it() {
    for (option, value) in [
        ("endpoint", "http://azurite:10000"),
        ("client_id", "id"),
        ("client_secret", "env:S"),
        ("tenant_id", "t"),
        ("federated_token_file", "/token"),
    ] {
        let message = refused("az", &[("use_emulator", "true"), (option, value)]);
        let expected = format!("option {option} is set and so is use_emulator");
        assert!(message.contains(&expected), "{message}");
    }
    let fits = [
        ("account_name", "a"),
        ("bearer_token", "env:S"),
        ("use_emulator", "true"),
    ];
    open(spec("az", "container", "", &fits)).unwrap();
    let off = [
        ("account_name", "a"),
        ("bearer_token", "env:S"),
        ("use_emulator", "false"),
        ("endpoint", "https://host"),
    ];
    open(spec("az", "container", "", &off)).unwrap();
}

#[test]
fn azure_is_signed_in_to_in_one_whole_way() {
    let (id, tenant) = (("client_id", "i"), ("tenant_id", "t"));
    let (secret, file) = (("client_secret", "env:S"), ("federated_token_file", "/token"));
    let bearer = ("bearer_token", "env:S");
    let cases: [(&[(&str, &str)], &str); 9] = [
        (
            &[("access_key", "env:K"), bearer],
            "bearer_token is set and so is access_key",
        ),
        (
            &[id, tenant, secret, file],
            "federated_token_file is set and so is client_secret",
        ),
        (&[id, secret], "tenant_id is missing: there is client_secret"),
        (&[tenant, secret], "client_id is missing: there is client_secret"),
        (&[file], "client_id is missing: there is federated_token_file"),
        (&[bearer, id], "client_id is set and so is bearer_token"),
        (&[bearer, tenant], "tenant_id is set and so is bearer_token"),
        (&[id, tenant], "tenant_id is set without client_secret"),
        (
            &[("anonymous", "true"), tenant],
            "tenant_id is set without client_secret",
        ),
    ];
    for (options, expected) in cases {
        let message = refused("az", options);
        assert!(message.contains(expected), "{message}");
    }
    for way in [&[id, tenant, secret][..], &[id, tenant, file], &[id], &[tenant]] {
        let options: Vec<_> = way.iter().copied().chain([("account_name", "a")]).collect();
        open(spec("az", "container", "", &options)).unwrap();
    }
}

#[test]
fn a_mount_whose_requests_may_take_long_has_time_for_two() {
    let limits = |timeout: &str| {
        let options = [("anonymous", "true"), ("timeout", timeout)];
        let opened = open(spec("s3", "bucket", "", &options)).unwrap();
        let limits = &opened.0.limits;
        (limits.request_timeout.as_secs(), limits.retry_timeout.as_secs())
    };
    assert_eq!(limits("5s"), (5, 20));
    assert_eq!(limits("2m"), (120, 240));
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
