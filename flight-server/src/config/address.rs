//! Flight addresses as they are written, and the one form in which other nodes look them up.

use std::net::{IpAddr, Ipv6Addr};

/// What the one form begins with.
const SCHEME: &str = "grpc://";
/// The same in the words of pyarrow.
const TCP_SCHEME: &str = "grpc+tcp://";

/// `grpc://HOST:PORT`, where that, `HOST:PORT` or `grpc+tcp://HOST:PORT` is written.
///
/// # Errors
/// In words for whatever else: a node at an address that nobody can connect to would be one that has none.
pub(super) fn flight_uri(text: &str) -> Result<String, String> {
    let usage = || format!("{text:?} is no Flight address; write HOST:PORT, grpc://HOST:PORT or grpc+tcp://HOST:PORT");
    let place = [SCHEME, TCP_SCHEME]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let (host, port) = place.rsplit_once(':').ok_or_else(usage)?;
    if !is_host(host) || !is_port(port) {
        return Err(usage());
    }
    if is_wildcard(host) {
        return Err(format!(
            "{text:?} means any address of this machine; write one that others can connect to"
        ));
    }
    Ok(format!("{SCHEME}{host}:{port}"))
}

/// A port that can be connected to, in digits alone.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match bracketed(text) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !text.is_empty() && text.bytes().all(is_name),
    }
}

/// Systems read `0` and `0.0` as `0.0.0.0` too.
fn is_wildcard(host: &str) -> bool {
    let address = bracketed(host).unwrap_or(host).parse::<IpAddr>();
    let is_short = || {
        host.split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte == b'0'))
    };
    address.map_or_else(|_| is_short(), |address| address.to_canonical().is_unspecified())
}

fn bracketed(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form_however_it_is_written() {
        for written in ["node-1:8815", "grpc://node-1:8815", "grpc+tcp://node-1:8815"] {
            assert_eq!(flight_uri(written).unwrap(), "grpc://node-1:8815", "{written}");
        }
        assert_eq!(flight_uri("grpc+tcp://[::1]:9").unwrap(), "grpc://[::1]:9");
        assert_eq!(flight_uri("10.0.0.7:1").unwrap(), "grpc://10.0.0.7:1");
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused_in_words() {
        for written in [
            "",
            "node-1",
            ":8815",
            "node-1:",
            "node-1:0",
            "node-1:+8",
            "node-1:65536",
            "grpc://node-1",
            "grpc://node-1:8815/",
            "grpc+tls://node-1:8815",
            "http://node-1:8815",
            "::1:8815",
            "[node]:8815",
            "me@node-1:8815",
            "node 1:8815",
        ] {
            let reason = flight_uri(written).unwrap_err();
            assert!(reason.contains("write HOST:PORT"), "{written}: {reason}");
        }
        for written in [
            "0.0.0.0:8815",
            "0:8815",
            "0.0:8815",
            "grpc://[::]:8815",
            "[::ffff:0.0.0.0]:8815",
        ] {
            let reason = flight_uri(written).unwrap_err();
            assert!(reason.contains("any address of this machine"), "{written}: {reason}");
        }
    }
}
