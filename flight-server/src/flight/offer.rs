//! Which ways in an answer's endpoints name, and to whom.
//!
//! A client that runs on this host may ask for the sockets of this host, by the request header `x-jetbridge-local`. Others
//! never see them: they would burn a failed connect on each, and some drivers refuse an endpoint with a location whose scheme
//! they do not know.

use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::cluster::Named;
use crate::error::ServiceError;
use crate::listen::Peer;

/// Request header by which a client of this host asks for its sockets: a list of `unix` and `memory`, separated by commas.
const LOCAL_HEADER: &str = "x-jetbridge-local";

/// What one client is offered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    asked: Asked,
}

/// An offer, or what was wrong with the request for it.
pub(super) type Offered = Result<Offer, ServiceError>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    unix: bool,
    memory: bool,
}

impl Offer {
    /// What the client of this request asked for and may have.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that names a word of the header which is neither `unix` nor `memory`.
    pub(super) fn of<M>(request: &Request<M>) -> Offered {
        let asked = asked(request.metadata())?;
        let local = request.extensions().get::<Peer>().is_some_and(Peer::is_this_host);
        Ok(Self {
            asked: if local { asked } else { Asked::default() },
        })
    }

    /// The locations of a node, the best first. The sockets of a node of another host are none of this client's.
    pub(super) fn locations(self, node: &Named) -> impl Iterator<Item = &str> {
        let unix = node.places.unix.iter().filter(move |_| self.asked.unix && node.is_here);
        unix.chain(&node.places.network).map(String::as_str)
    }

    /// A node's socket of shared memory.
    pub(super) fn memory(self, node: &Named) -> Option<&str> {
        let memory = node.places.memory.as_deref();
        memory.filter(|_| self.asked.memory && node.is_here)
    }
}

fn asked(metadata: &MetadataMap) -> Result<Asked, ServiceError> {
    let mut asked = Asked::default();
    for value in metadata.get_all(LOCAL_HEADER) {
        let text = String::from_utf8_lossy(value.as_bytes());
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "unix" => asked.unix = true,
                "memory" => asked.memory = true,
                other => {
                    return Err(ServiceError::invalid(format!(
                        "{LOCAL_HEADER} is a list of unix and memory; {other:?} is neither"
                    )));
                }
            }
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::Places;

    fn node(is_here: bool) -> Named {
        Named {
            id: "n".to_owned(),
            places: Arc::new(Places {
                network: Some("grpc://h:1".to_owned()),
                unix: Some("grpc+unix:///f".to_owned()),
                memory: Some("unix:///m".to_owned()),
                host: "h".to_owned(),
            }),
            is_here,
        }
    }

    fn offer(header: Option<&'static str>, peer: Option<Peer>) -> Offered {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert(LOCAL_HEADER, header.parse().unwrap());
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        Offer::of(&request)
    }

    fn shown(offer: Offer, node: &Named) -> (Vec<&str>, Option<&str>) {
        (offer.locations(node).collect(), offer.memory(node))
    }

    #[test]
    fn only_those_of_this_host_who_ask_are_offered_its_sockets() {
        let (here, elsewhere) = (Peer::Unix, Peer::Network("10.0.0.1:9".parse().unwrap()));
        let node = node(true);
        let both = offer(Some("memory, unix"), Some(here)).unwrap();
        assert_eq!(
            shown(both, &node),
            (vec!["grpc+unix:///f", "grpc://h:1"], Some("unix:///m"))
        );
        let unix = offer(Some("unix"), Some(here)).unwrap();
        assert_eq!(shown(unix, &node), (vec!["grpc+unix:///f", "grpc://h:1"], None));
        for (header, peer) in [
            (None, Some(here)),
            (Some("unix,memory"), Some(elsewhere)),
            (Some("unix"), None),
        ] {
            assert_eq!(shown(offer(header, peer).unwrap(), &node), (vec!["grpc://h:1"], None));
        }
    }

    #[test]
    fn sockets_of_another_host_are_never_offered() {
        let both = offer(Some("memory, unix"), Some(Peer::Unix)).unwrap();
        assert_eq!(shown(both, &node(false)), (vec!["grpc://h:1"], None));
    }

    #[test]
    fn an_unknown_word_is_named() {
        let error = offer(Some("unix,rdma"), None).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.to_string().contains("\"rdma\""), "{error}");
    }
}
