//! How a client behaves.

use std::time::Duration;

use http::HeaderMap;

use crate::unpack::Unpack;

/// Settings of a [`Client`](crate::Client). [`Default`] gives what suits most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// How long making a connection may take; over shared memory, with the server's first answer. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long a call may take, and for how long a stream may say nothing while it is waited for. Default: none; a server that
    /// does not answer by HTTP/2 for [`KEEPALIVE`] is given up in any case, also where its rows come as shared memory.
    pub timeout: Option<Duration>,
    /// Headers of each call, such as `authorization`. Those that this client sends itself stay as they are. Mark what is secret as
    /// sensitive, so that it is not shown. Default: none.
    pub headers: HeaderMap,
    /// Bytes of rows that one [`Reader`](crate::Reader) has received and not yet handed out, at most; one batch may always be
    /// there. As much memory again is kept for the next reads while it is warm. Besides are what the sockets have taken and
    /// nobody has looked at, up to 16 MiB a connection; and of each row group that is decoded here, pages of more than 4 MiB
    /// unpacked, as much as this or 64 MiB, beyond which a page is an error. Default: 256 MiB.
    pub budget_bytes: u64,
    /// Connections to each worker, which are streams at once too. Default: 2.
    pub streams_per_worker: usize,
    /// Whether sockets and memory of this host are used. Default: where they are offered.
    pub local: Local,
    /// The form in which rows are sent. Default: what the link calls for.
    pub wire: Wire,
    /// Whole rounds over an endpoint's locations after the first one, as long as none of them brings a row; and tries of
    /// other calls that can be repeated. With the waits between them, 5 rounds go on for some 8 s. Default: 5.
    pub retries: u32,
    /// Whether the values of arrays are checked that come from a Jetbridge server (offsets, UTF-8, keys of dictionaries), and not
    /// only their layout. Default: no, as for shared memory: whoever runs the server is trusted with what it stores. Arrays from
    /// any other Flight server are always checked.
    pub check_values: bool,
    /// What reads the small Parquet files of the form `raw`. Default: nothing, and the form is not asked for.
    pub unpack: Option<Unpack>,
}

/// A connection that says nothing is asked for life after this long, and given up when it does not answer for as long again.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// Whether a client uses what only programs on the server's host can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Local {
    /// Unix sockets and shared memory, where the server is on this host and offers them; else the network, without a word.
    #[default]
    Auto,
    /// The network only.
    Off,
}

/// The form in which rows are sent (`flight/WIRE.md` of the server).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    /// What suits the server and the link. With [`ClientOptions::unpack`] and more than one core here, the server chooses: `raw`
    /// where it would decode rows for this answer alone, else plain, and always plain where it was told to hold files to other
    /// limits than those that hold by default. Without, plain. From another host, if the link turns out to carry less than
    /// 3.5 Gbit/s, later endpoints come `raw` where that can be, else `lz4`. Never `zstd`: no measured link was better off with
    /// it.
    #[default]
    Auto,
    /// As it lies in the server's memory.
    Arrow,
    /// Buffers compressed by LZ4.
    Lz4,
    /// Buffers compressed by zstd, which sends the least and costs the server most.
    Zstd,
    /// Row groups as they are stored, decoded here by [`ClientOptions::unpack`]; plain where that cannot say the rows, as with a
    /// filter or a limit.
    Raw,
}

impl Wire {
    /// The form in one word, as the header has it; none for [`Wire::Auto`].
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Arrow => Some("arrow"),
            Self::Lz4 => Some("lz4"),
            Self::Zstd => Some("zstd"),
            Self::Raw => Some("raw"),
        }
    }

    /// The form of this name, as an answer's header has it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let forms = [Self::Arrow, Self::Lz4, Self::Zstd, Self::Raw];
        forms.into_iter().find(|form| form.as_str() == Some(name))
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: None,
            headers: HeaderMap::new(),
            budget_bytes: 256 << 20,
            streams_per_worker: 2,
            local: Local::Auto,
            wire: Wire::Auto,
            retries: 5,
            check_values: false,
            unpack: None,
        }
    }
}
