//! The text forms of values: sizes, durations, mounts.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A size such as `4GiB`, `256 MiB` or a count of bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<ByteSize, String> {
    let refused = || format!("{text:?} is not a size; write it like 4GiB or 268435456");
    text.trim().parse().map_err(|_: String| refused())
}

/// A duration such as `10m` or `1h 30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = |_| format!("{text:?} is not a duration; write it like 10m or 30s");
    humantime::parse_duration(text.trim()).map_err(refused)
}

/// `PATH=URI` cut in two. A path may hold '=' (Hive folders do), a URI's scheme may not: the last '=' before `://`
/// counts, else the first.
pub(super) fn split_mount(text: &str) -> Result<(String, String), String> {
    let at = match text.find("://") {
        Some(scheme_end) => text[..scheme_end].rfind('='),
        None => text.find('='),
    };
    let (path, uri) = at
        .map(|at| (&text[..at], &text[at + 1..]))
        .filter(|(path, uri)| path.starts_with('/') && !uri.is_empty())
        .ok_or_else(|| format!("{text:?} is not a mount; write it like /lake=s3://bucket/prefix"))?;
    Ok((path.to_owned(), uri.to_owned()))
}

/// `FOLDER=SIZE` cut in two, at the last '='; a folder alone has no size.
pub(super) fn split_cache_dir(text: &str) -> Result<(PathBuf, Option<ByteSize>), String> {
    let (folder, size) = match text.rsplit_once('=') {
        Some((folder, size)) => (folder, Some(parse_bytes(size)?)),
        None => (text, None),
    };
    if folder.is_empty() {
        return Err(format!("{text:?} names no folder; write it like /ssd/jetbridge=200GiB"));
    }
    Ok((folder.into(), size))
}

/// The shortest exact text of a byte count.
pub(super) fn exact_bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS
        .iter()
        .find(|(_, shift)| count > 0 && count.is_multiple_of(1 << shift));
    unit.map_or_else(
        || count.to_string(),
        |(name, shift)| format!("{}{name}", count >> shift),
    )
}

/// A value of any simple type, as its text: `true`, `8` and `"8"` alike.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, a number, true or false")]
pub(super) enum Scalar {
    Switch(bool),
    Whole(u64),
    Text(String),
}

impl From<Scalar> for String {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Switch(value) => value.to_string(),
            Scalar::Whole(value) => value.to_string(),
            Scalar::Text(text) => text,
        }
    }
}

/// serde form of a size: reads text or a number, writes a number.
pub(super) mod bytes {
    use super::*;

    pub(in crate::config) fn serialize<S: serde::Serializer>(
        size: &ByteSize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(size.as_u64())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        parse_bytes(&String::from(Scalar::deserialize(deserializer)?)).map_err(D::Error::custom)
    }
}

/// serde form of a size that may be left out.
pub(super) mod optional_bytes {
    use super::*;

    pub(in crate::config) fn serialize<S: serde::Serializer>(
        size: &Option<ByteSize>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match size {
            Some(size) => bytes::serialize(size, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ByteSize>, D::Error> {
        let written = Option::<Scalar>::deserialize(deserializer)?;
        let parsed = written.map(|size| parse_bytes(&String::from(size))).transpose();
        parsed.map_err(D::Error::custom)
    }
}

/// serde form of a duration: text with a unit.
pub(super) mod duration {
    use super::*;

    pub(in crate::config) fn serialize<S: serde::Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::from(Scalar::deserialize(deserializer)?)).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip_exactly() {
        for (text, count) in [
            ("4GiB", 4 << 30),
            ("256 MiB", 256 << 20),
            ("1000", 1000),
            ("1.5KiB", 1536),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse_bytes(text).unwrap().as_u64(), count, "{text}");
            assert_eq!(parse_bytes(&exact_bytes(count)).unwrap().as_u64(), count, "{text}");
        }
        assert_eq!(exact_bytes(256 << 20), "256MiB");
        assert_eq!(exact_bytes(0), "0");
        assert!(parse_bytes("-1").is_err() && parse_bytes("many").is_err() && parse_bytes("").is_err());
    }

    #[test]
    fn a_cache_folder_may_have_a_size() {
        assert_eq!(
            split_cache_dir("/a=b").unwrap_err(),
            "\"b\" is not a size; write it like 4GiB or 268435456"
        );
        assert_eq!(split_cache_dir("/ssd").unwrap(), ("/ssd".into(), None));
        assert_eq!(
            split_cache_dir("/x=1/ssd=2GiB").unwrap(),
            ("/x=1/ssd".into(), Some(ByteSize::gib(2)))
        );
        split_cache_dir("=2GiB").unwrap_err();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5400));
        assert!(parse_duration("10").unwrap_err().contains("like 10m"));
    }

    #[test]
    fn mounts_are_cut_at_the_right_equals_sign() {
        let cut = |text| split_mount(text).map(|(path, uri)| format!("{path} {uri}"));
        assert_eq!(cut("/lake=s3://b/y=1").unwrap(), "/lake s3://b/y=1");
        assert_eq!(cut("/year=2024=s3://b").unwrap(), "/year=2024 s3://b");
        assert_eq!(cut("/a=/data").unwrap(), "/a /data");
        assert!(cut("lake=s3://b").is_err() && cut("/lake").is_err() && cut("/lake=").is_err());
    }
}
