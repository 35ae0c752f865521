//! The settings that make one node part of a cluster.

use std::ops::RangeInclusive;
use std::time::Duration;

use jetbridge_catalog::secret::SecretRef;

use super::settings::Refused;
use super::written::Written;

/// Longer, and a worker that is gone for good would leave its share uncached for a day.
const GRACE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// The name of a cluster in etcd when the address names none.
const DEFAULT_NAME: &str = "default";

/// How a node finds its cluster, and what it counts for there.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Where the metadata store is. Default embedded.
    pub meta: MetaPlace,
    /// The secret that the nodes of a cluster know each other by, at least 16 bytes; none lets in whoever can connect,
    /// which on loopback is this machine. Default none.
    pub key: Option<SecretRef>,
    /// What a worker counts for in placement, beside the others' weights, in bytes. Default its byte budget.
    pub weight_bytes: u64,
    /// How long this worker's place is kept once it is lost: the others go by what it tells them. Default 5 minutes.
    pub grace: Duration,
}

/// Where the metadata store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaPlace {
    /// In a file of this node's data folder, for this node and those that name it as their coordinator.
    Embedded,
    /// On the node at this Flight address, `grpc://host:port`.
    Coordinator(String),
    /// In etcd.
    Etcd {
        /// `http://host:port` of its members.
        endpoints: Vec<String>,
        /// The cluster's name: etcd may serve several.
        name: String,
    },
}

impl ClusterSettings {
    pub(super) fn resolve(written: &Written) -> Result<Self, Refused> {
        if !GRACE.contains(&written.member_grace) {
            let (least, most) = (
                humantime::format_duration(*GRACE.start()),
                humantime::format_duration(*GRACE.end()),
            );
            return Err(refused("member_grace", format!("it must be {least} to {most}")));
        }
        let weight_bytes = written.weight.unwrap_or(written.memory).as_u64();
        if weight_bytes == 0 {
            return Err(refused(
                "weight",
                "a worker that counts for nothing owns nothing; give it a size",
            ));
        }
        let key = written.cluster_key.as_deref().map(str::parse::<SecretRef>).transpose();
        Ok(Self {
            meta: meta_place(written)?,
            key: key.map_err(|error| refused("cluster_key", error.to_string()))?,
            weight_bytes,
            grace: written.member_grace,
        })
    }
}

fn meta_place(written: &Written) -> Result<MetaPlace, Refused> {
    let meta = match written.meta.as_str() {
        "embedded" => MetaPlace::Embedded,
        etcd => etcd_place(etcd).map_err(|reason| refused("meta", reason))?,
    };
    match (&written.coordinator, meta) {
        (None, meta) => Ok(meta),
        (Some(uri), MetaPlace::Embedded) if uri.starts_with("grpc://") && uri.len() > "grpc://".len() => {
            Ok(MetaPlace::Coordinator(uri.trim_end_matches('/').to_owned()))
        }
        (Some(uri), MetaPlace::Embedded) => Err(refused(
            "coordinator",
            format!("{uri:?} is no Flight address; write grpc://HOST:PORT"),
        )),
        (Some(_), _) => Err(refused(
            "coordinator",
            "a node has its metadata from a coordinator or from etcd, not from both; leave out one of coordinator and meta",
        )),
    }
}

/// `etcd://host:port,host:port/name`.
fn etcd_place(text: &str) -> Result<MetaPlace, String> {
    let usage = || format!("{text:?} is no metadata store; write embedded or etcd://HOST:PORT,HOST:PORT/NAME");
    let rest = text.strip_prefix("etcd://").ok_or_else(usage)?;
    let (hosts, name) = rest.split_once('/').unwrap_or((rest, ""));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_host = |host: &&str| {
        url::Url::parse(&format!("http://{host}")).is_ok_and(|url| url.path() == "/" && url.username().is_empty())
    };
    if !hosts.split(',').all(|host| is_host(&host)) || !name.chars().all(is_word) {
        return Err(usage());
    }
    Ok(MetaPlace::Etcd {
        endpoints: hosts.split(',').map(|host| format!("http://{host}")).collect(),
        name: if name.is_empty() { DEFAULT_NAME } else { name }.to_owned(),
    })
}

fn refused(key: &str, reason: impl Into<String>) -> Refused {
    (key.to_owned(), reason.into())
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::*;

    fn written() -> Written {
        Written::defaults(&Machine {
            memory_bytes: None,
            cores: 1,
        })
    }

    #[test]
    fn metadata_comes_from_one_place() {
        let place = |coordinator: Option<&str>, meta: &str| {
            let written = Written {
                coordinator: coordinator.map(str::to_owned),
                meta: meta.to_owned(),
                ..written()
            };
            ClusterSettings::resolve(&written).map(|cluster| cluster.meta)
        };
        assert_eq!(place(None, "embedded").unwrap(), MetaPlace::Embedded);
        assert_eq!(
            place(Some("grpc://h:1/"), "embedded").unwrap(),
            MetaPlace::Coordinator("grpc://h:1".to_owned())
        );
        let etcd = |endpoints: &[&str], name: &str| MetaPlace::Etcd {
            endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
            name: name.to_owned(),
        };
        assert_eq!(
            place(None, "etcd://a:1,b:2").unwrap(),
            etcd(&["http://a:1", "http://b:2"], "default")
        );
        assert_eq!(place(None, "etcd://a:1/blue").unwrap(), etcd(&["http://a:1"], "blue"));
        for (coordinator, meta, key) in [
            (Some("grpc://h:1"), "etcd://a:1", "coordinator"),
            (Some("h:1"), "embedded", "coordinator"),
            (None, "redis://a", "meta"),
            (None, "etcd://", "meta"),
            (None, "etcd://a:1/b/c", "meta"),
            (None, "etcd://u@a:1", "meta"),
        ] {
            assert_eq!(place(coordinator, meta).unwrap_err().0, key, "{coordinator:?} {meta}");
        }
    }

    #[test]
    fn a_worker_weighs_its_budget_unless_told_otherwise() {
        let mut written = written();
        written.memory = bytesize::ByteSize::gib(3);
        assert_eq!(ClusterSettings::resolve(&written).unwrap().weight_bytes, 3 << 30);
        written.weight = Some(bytesize::ByteSize::gib(5));
        assert_eq!(ClusterSettings::resolve(&written).unwrap().weight_bytes, 5 << 30);
        written.weight = Some(bytesize::ByteSize(0));
        assert_eq!(ClusterSettings::resolve(&written).unwrap_err().0, "weight");
    }
}
