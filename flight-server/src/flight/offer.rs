//! Which ways in an answer's endpoints name, and to whom.
//!
//! A client that runs on this host may ask for the sockets of this host, by the request header `x-jetbridge-local`. Others
//! never see them: they would burn a failed connect on each, and some drivers refuse an endpoint with a location whose scheme
//! they do not know.

use std::sync::Arc;

use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::error::ServiceError;
use crate::listen::Peer;

/// Request header by which a client of this host asks for its sockets: a list of `unix` and `memory`, separated by commas.
const LOCAL_HEADER: &str = "x-jetbridge-local";

/// Where the node can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Over the network, `grpc://host:port`; none where the node does not know a name that reaches it.
    pub network: Option<String>,
    /// Over the unix socket of Flight, `grpc+unix:///path`; none where there is none.
    pub unix: Option<String>,
    /// The socket of shared memory, `unix:///path`; none where there is none.
    pub memory: Option<String>,
}

/// What one client is offered.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    places: Arc<Places>,
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
    pub(super) fn of<M>(places: &Arc<Places>, request: &Request<M>) -> Offered {
        let asked = asked(request.metadata())?;
        let local = request.extensions().get::<Peer>().is_some_and(Peer::is_this_host);
        Ok(Self {
            places: Arc::clone(places),
            asked: if local { asked } else { Asked::default() },
        })
    }

    /// The locations, the best first.
    pub(super) fn locations(&self) -> impl Iterator<Item = &str> {
        let unix = self.places.unix.iter().filter(|_| self.asked.unix);
        unix.chain(&self.places.network).map(String::as_str)
    }

    /// The socket of shared memory.
    pub(super) fn memory(&self) -> Option<&str> {
        self.places.memory.as_deref().filter(|_| self.asked.memory)
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
    use super::*;

    fn offer(header: Option<&'static str>, peer: Option<Peer>) -> Offered {
        let places = Places {
            network: Some("grpc://h:1".to_owned()),
            unix: Some("grpc+unix:///f".to_owned()),
            memory: Some("unix:///m".to_owned()),
        };
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert(LOCAL_HEADER, header.parse().unwrap());
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        Offer::of(&Arc::new(places), &request)
    }

    fn shown(offer: &Offer) -> (Vec<&str>, Option<&str>) {
        (offer.locations().collect(), offer.memory())
    }

    #[test]
    fn only_those_of_this_host_who_ask_are_offered_its_sockets() {
        let (here, elsewhere) = (Peer::Unix, Peer::Network("10.0.0.1:9".parse().unwrap()));
        let both = offer(Some("memory, unix"), Some(here)).unwrap();
        assert_eq!(shown(&both), (vec!["grpc+unix:///f", "grpc://h:1"], Some("unix:///m")));
        let unix = offer(Some("unix"), Some(here)).unwrap();
        assert_eq!(shown(&unix), (vec!["grpc+unix:///f", "grpc://h:1"], None));
        for (header, peer) in [
            (None, Some(here)),
            (Some("unix,memory"), Some(elsewhere)),
            (Some("unix"), None),
        ] {
            assert_eq!(shown(&offer(header, peer).unwrap()), (vec!["grpc://h:1"], None));
        }
    }

    #[test]
    fn an_unknown_word_is_named() {
        let error = offer(Some("unix,rdma"), None).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.to_string().contains("\"rdma\""), "{error}");
    }
}
