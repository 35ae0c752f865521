//! HTTP/2 connections to servers, made when they are needed, on the runtime that needs them.
//!
//! Calls share one connection to a server. A stream of rows has a connection for itself: several on one would share its window,
//! and one that nobody reads from would stop the others.
//!
//! tonic's connections live on the runtime that made them. A client that is used from another one begins anew, since the first
//! may be gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Mutex;
use crate::options::{ClientOptions, KEEPALIVE};

/// What a server may send ahead on a connection.
const WINDOW_BYTES: u32 = 16 << 20;
/// The largest frame.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// The largest list of headers: an error's message is one of them.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// All connections of a client.
#[derive(Debug)]
pub(crate) struct Connections {
    connect_timeout: Duration,
    /// Idle connections that are kept for each server.
    kept: usize,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    runtime: Option<runtime::Id>,
    calls: HashMap<Address, Channel>,
    idle: HashMap<Address, Vec<Channel>>,
}

/// A connection that nobody else uses. It is used again after it is dropped, unless it was given up.
#[derive(Debug)]
pub(crate) struct Exclusive {
    connections: Arc<Connections>,
    runtime: runtime::Id,
    address: Address,
    /// None once given up.
    channel: Option<Channel>,
}

impl Connections {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self {
            connect_timeout: options.connect_timeout,
            kept: options.streams_per_worker,
            made: Mutex::default(),
        }
    }

    /// The connection for calls, which is made with the first of them. To be called within a runtime.
    ///
    /// # Errors
    /// An address that cannot be one.
    pub(crate) fn for_calls(&self, address: &Address) -> Result<Channel> {
        let mut made = self.made.lock();
        made.enter();
        if let Some(channel) = made.calls.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.endpoint(address)?.connect_lazy();
        made.calls.insert(address.clone(), channel.clone());
        Ok(channel)
    }

    /// A connection for one stream. To be called within a runtime.
    ///
    /// # Errors
    /// CONNECT where nobody answers.
    pub(crate) async fn for_stream(self: &Arc<Self>, address: &Address) -> Result<Exclusive> {
        let runtime = Handle::current().id();
        let idle = {
            let mut made = self.made.lock();
            made.enter();
            made.idle.get_mut(address).and_then(Vec::pop)
        };
        let channel = match idle {
            Some(channel) => channel,
            None => self.connect(address).await?,
        };
        Ok(Exclusive {
            connections: Arc::clone(self),
            runtime,
            address: address.clone(),
            channel: Some(channel),
        })
    }

    async fn connect(&self, address: &Address) -> Result<Channel> {
        let endpoint = self.endpoint(address)?;
        match tokio::time::timeout(self.connect_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(Error::connect(&error)),
            Err(_elapsed) => {
                let after = self.connect_timeout.as_secs_f64();
                Err(Error::new(
                    ErrorKind::Connect,
                    format!("no connection within {after} s"),
                ))
            }
        }
        .map_err(|error| error.at(&address.to_string()))
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint> {
        let refuse = || {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("{address} is no address of a server"),
            )
        };
        let uri = match address {
            Address::Tcp(authority) => format!("http://{authority}"),
            Address::Unix(path) => format!("unix://{}", path.to_str().ok_or_else(refuse)?),
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|_| refuse())?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .http2_max_header_list_size(MAX_HEADER_LIST_BYTES))
    }

    fn give_back(&self, runtime: runtime::Id, address: &Address, channel: Channel) {
        let mut made = self.made.lock();
        if made.runtime != Some(runtime) {
            return;
        }
        let idle = made.idle.entry(address.clone()).or_default();
        if idle.len() < self.kept {
            idle.push(channel);
        }
    }
}

impl Made {
    /// Forgets what belongs to another runtime.
    fn enter(&mut self) {
        let here = Some(Handle::current().id());
        if self.runtime != here {
            *self = Self {
                runtime: here,
                ..Self::default()
            };
        }
    }
}

impl Exclusive {
    /// The connection; none once it was given up.
    pub(crate) fn channel(&self) -> Option<Channel> {
        self.channel.clone()
    }

    /// Closes it when it is dropped: it broke, or its server is not to be trusted to go on.
    pub(crate) fn give_up(&mut self) {
        self.channel = None;
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.connections.give_back(self.runtime, &self.address, channel);
        }
    }
}
