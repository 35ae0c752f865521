//! Where a server listens: `grpc://host:port`, `grpc+unix:///path`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

/// The location that stands for the connection that planned.
const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://";

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// TCP: `host:port`, an IPv6 address in brackets.
    Tcp(String),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl Address {
    /// The address that a URI says.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that says what is expected.
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        let refuse = |reason: &str| {
            let words = format!("{uri:?} is not a server's address: {reason}, as in grpc://127.0.0.1:8815");
            Error::new(ErrorKind::InvalidArgument, words)
        };
        let authority = match uri.split_once("://") {
            Some(("grpc" | "grpc+tcp" | "http", authority)) => authority.trim_end_matches('/'),
            Some(("grpc+unix", path)) if path.starts_with('/') => return Ok(Self::Unix(unescaped(path))),
            Some(("grpc+tls" | "https", _)) => return Err(refuse("TLS is not available; write grpc://HOST:PORT")),
            _ => return Err(refuse("write grpc://HOST:PORT or grpc+unix:///PATH")),
        };
        // The port must be said, and `http` leaves its own out; so another scheme is put before it.
        let url = Url::parse(&format!("grpc://{authority}")).map_err(|_| refuse("write grpc://HOST:PORT"))?;
        let bare = url.path().is_empty() && url.query().is_none() && url.fragment().is_none();
        match (url.host_str(), url.port()) {
            (Some(host), Some(port)) if bare && !host.is_empty() && url.username().is_empty() => {
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err(refuse("write grpc://HOST:PORT and nothing more")),
        }
    }

    /// The places that an endpoint names, in its order. Schemes that are not spoken here are left out; no place at all means
    /// the server that planned.
    pub(crate) fn of_locations(locations: &[String], home: &Self) -> Vec<Self> {
        let mut places: Vec<Self> = Vec::with_capacity(locations.len());
        for location in locations {
            let place = if location.starts_with(REUSE_CONNECTION) {
                Some(home.clone())
            } else {
                Self::parse(location).ok()
            };
            places.extend(place.filter(|place| !places.contains(place)));
        }
        if places.is_empty() {
            places.push(home.clone());
        }
        places
    }

    /// Whether it is surely on this host.
    pub(crate) fn is_local(&self) -> bool {
        let Self::Tcp(authority) = self else { return true };
        let url = Url::parse(&format!("http://{authority}"));
        match url.ok().as_ref().and_then(Url::host) {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
            None => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "grpc://{authority}"),
            Self::Unix(path) => write!(f, "grpc+unix://{}", path.display()),
        }
    }
}

/// The path of a server's `unix:///path`, as endpoints name the socket of shared memory.
pub(crate) fn memory_socket(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("unix://")?;
    Path::new(path).is_absolute().then(|| unescaped(path))
}

fn unescaped(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_they_are_tried() {
        let parsed = |uri: &str| Address::parse(uri).unwrap();
        assert_eq!(
            parsed("grpc://127.0.0.1:8815"),
            Address::Tcp("127.0.0.1:8815".to_owned())
        );
        assert_eq!(parsed("grpc+tcp://h:1/"), Address::Tcp("h:1".to_owned()));
        assert_eq!(parsed("grpc://[::1]:80"), Address::Tcp("[::1]:80".to_owned()));
        assert_eq!(parsed("grpc+unix:///a%20b/f.sock"), Address::Unix("/a b/f.sock".into()));
        for uri in [
            "127.0.0.1:8815",
            "grpc+tls://h:1",
            "ftp://h:1",
            "grpc://",
            "grpc://h",
            "grpc://h:1/path",
            "grpc://u:p@h:1",
            "grpc://h:1?x",
            "grpc+unix://relative",
            "",
        ] {
            let error = Address::parse(uri).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{uri}");
            assert!(error.message().contains("grpc://127.0.0.1:8815"), "{error}");
        }
    }

    #[test]
    fn loopback_and_unix_sockets_are_this_host() {
        for uri in [
            "grpc://127.0.0.1:1",
            "grpc://[::1]:1",
            "grpc://localhost:1",
            "grpc+unix:///x",
        ] {
            assert!(Address::parse(uri).unwrap().is_local(), "{uri}");
        }
        for uri in ["grpc://10.0.0.1:1", "grpc://example:1", "grpc://[fe80::1]:1"] {
            assert!(!Address::parse(uri).unwrap().is_local(), "{uri}");
        }
    }

    #[test]
    fn the_connection_that_planned_stands_for_itself_and_for_no_place() {
        let home = Address::parse("grpc://home:1").unwrap();
        let of = |uris: &[&str]| {
            let uris: Vec<String> = uris.iter().map(|uri| (*uri).to_owned()).collect();
            let places = Address::of_locations(&uris, &home);
            places.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), ["grpc://home:1"]);
        assert_eq!(of(&["https://x/data"]), ["grpc://home:1"]);
        assert_eq!(
            of(&[
                "grpc://a:1",
                "grpc+unix:///s",
                "grpc://a:1",
                "arrow-flight-reuse-connection://?"
            ]),
            ["grpc://a:1", "grpc+unix:///s", "grpc://home:1"]
        );
    }
}
