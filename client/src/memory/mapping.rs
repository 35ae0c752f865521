//! Segments in the client's memory, and telling the server when they are not needed any more.
//!
//! Lock order: the ledger's lock is held while a request is written, so that requests do not mix; mappings are dropped without
//! it, since each takes it.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use arrow::buffer::Buffer;
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{SendFlags, send};

use super::client::ClientError;
use super::wire::{self, Get, Request, Segment, SegmentId};
use crate::fork::Mutex;

/// One connection, and which segments it has mapped. It lives as long as any of them does.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) stream: UnixStream,
    live: Mutex<HashMap<SegmentId, Weak<Mapping>>>,
    /// The process whose connection it is. A fork of it has the socket too, and must not speak on it.
    process: u32,
}

impl Ledger {
    pub(super) fn new(stream: UnixStream) -> Arc<Self> {
        Arc::new(Self {
            stream,
            live: Mutex::default(),
            process: std::process::id(),
        })
    }

    /// Maps a segment that was handed over.
    ///
    /// # Errors
    /// A descriptor that is not what the server said it was.
    pub(super) fn map(self: &Arc<Self>, segment: &Segment, descriptor: OwnedFd) -> Result<Arc<Mapping>, ClientError> {
        let (base, bytes) = mapped(segment, descriptor)?;
        let mapping = Arc::new(Mapping {
            base,
            bytes,
            id: segment.id,
            ledger: AssertUnwindSafe(Arc::clone(self)),
        });
        self.live.lock().insert(segment.id, Arc::downgrade(&mapping));
        Ok(mapping)
    }

    /// Asks for a ticket's rows, and gives what is mapped now: the answer may refer to any of it.
    ///
    /// # Errors
    /// Where the server does not listen any more.
    pub(super) fn get(&self, get: Get) -> Result<HashMap<SegmentId, Arc<Mapping>>, ClientError> {
        // Before the lock, so that it is free again when they go, a panic in between included: the last mapping of a segment takes
        // it to tell the server.
        let (mut kept, mut dying) = (HashMap::new(), Vec::new());
        let mut live = self.live.lock();
        live.retain(|id, mapping| match mapping.upgrade() {
            Some(mapping) => kept.insert(*id, mapping).is_none(),
            // Whoever drops it waits for the lock and would release it after the request, which would be too late.
            None => {
                dying.push(*id);
                false
            }
        });
        let said = if dying.is_empty() {
            Ok(())
        } else {
            self.say(&Request::Release(dying))
        };
        let said = said.and_then(|()| self.say(&Request::Get(get)));
        // What is kept may be the last of its kind, and takes the lock when it goes.
        drop(live);
        said.map(|()| kept)
    }

    /// Asks for the end of the stream that is under way.
    pub(super) fn cancel(&self) -> Result<(), ClientError> {
        let _turn = self.live.lock();
        self.say(&Request::Cancel {})
    }

    /// Ends the connection, for whoever waits for it too.
    pub(super) fn shut_down(&self) {
        if self.process == std::process::id() {
            // One that is ended already needs no more.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Tells that a segment is not mapped any more, unless that was told.
    fn release(&self, id: SegmentId) {
        if self.process != std::process::id() {
            return;
        }
        let mut live = self.live.lock();
        if live.remove(&id).is_some() {
            // A server that does not listen has let go of everything.
            let _ = self.say(&Request::Release(vec![id]));
        }
    }

    /// To be called with the lock held.
    fn say(&self, request: &Request) -> Result<(), ClientError> {
        let frame = wire::head(request, 0).map_err(|error| ClientError::Protocol(error.to_string()))?;
        let mut left = frame.as_slice();
        while !left.is_empty() {
            match send(&self.stream, left, SendFlags::NOSIGNAL) {
                Ok(sent) => left = left.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ClientError::Io(error.into())),
            }
        }
        Ok(())
    }
}

/// A segment, mapped for reading.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    id: SegmentId,
    /// Telling the server is whole or not at all, so a panic of whoever drops the last array leaves nothing half done.
    ledger: AssertUnwindSafe<Arc<Ledger>>,
}

// SAFETY: the mapping is read-only and its file is sealed against writing, so nothing changes behind a shared reference; the
// pointer is used by no one else, and unmapped once, by drop.
#[expect(unsafe_code, reason = "a mapping's pointer is not Send by itself")]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping's pointer is not Sync by itself")]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A part of it as a buffer that keeps it mapped; none beyond its end.
    #[expect(unsafe_code, reason = "arrays over memory that Arrow did not allocate")]
    pub(super) fn buffer(self: &Arc<Self>, offset: usize, bytes: usize) -> Option<Buffer> {
        let end = offset.checked_add(bytes)?;
        if end > self.bytes {
            return None;
        }
        // SAFETY: the range was just checked to be within the mapping, which lives as long as the owner that the buffer keeps.
        unsafe {
            let start = self.base.add(offset);
            Some(Buffer::from_custom_allocation(start, bytes, Arc::clone(self) as Arc<_>))
        }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "a mapping is undone by hand")]
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and no buffer over it is left, since each holds the mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        self.ledger.release(self.id);
    }
}

/// Maps a descriptor, which is closed then. The seals are checked, since a file that shrinks under a mapping kills whoever reads
/// it, and one that is written to changes arrays that are taken for constant.
#[expect(unsafe_code, reason = "mapping memory is a raw system call")]
fn mapped(segment: &Segment, descriptor: OwnedFd) -> Result<(NonNull<u8>, usize), ClientError> {
    let wrong = |what: &str| ClientError::Protocol(format!("segment {}: {what}", segment.id.0));
    let sealed = SealFlags::SHRINK | SealFlags::WRITE;
    let seals = fcntl_get_seals(&descriptor).map_err(|_| wrong("its descriptor cannot be sealed"))?;
    if !seals.contains(sealed) {
        return Err(wrong("its descriptor is not sealed against shrinking and writing"));
    }
    let length = fstat(&descriptor).map_err(io::Error::from)?.st_size;
    if u64::try_from(length).is_ok_and(|length| length < segment.bytes) {
        return Err(wrong(&format!(
            "{} bytes were announced, and {length} are there",
            segment.bytes
        )));
    }
    let bytes = usize::try_from(segment.bytes).ok().filter(|bytes| *bytes > 0);
    let bytes = bytes.ok_or_else(|| wrong("its length makes no sense"))?;
    // SAFETY: a new mapping, at an address of the kernel's choice, of a file that is this long and cannot shrink.
    let base = unsafe {
        mmap(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ,
            MapFlags::SHARED,
            descriptor.as_fd(),
            0,
        )
        .map_err(io::Error::from)?
    };
    let base = NonNull::new(base.cast()).ok_or_else(|| wrong("the kernel mapped it at address 0"))?;
    Ok((base, bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    use super::*;

    fn file(bytes: u64, seals: SealFlags) -> OwnedFd {
        let file = File::from(memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap());
        file.set_len(bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn only_sealed_memory_of_the_announced_length_is_mapped() {
        let ledger = Ledger::new(UnixStream::pair().unwrap().0);
        let segment = |bytes| Segment {
            id: SegmentId(1),
            bytes,
        };
        let sealed = SealFlags::SHRINK | SealFlags::WRITE;
        for (bytes, descriptor) in [
            (100, file(100, SealFlags::SHRINK)),
            (100, file(100, SealFlags::WRITE)),
            (101, file(100, sealed)),
            (0, file(100, sealed)),
            (u64::MAX, file(100, sealed)),
            (1, tempfile::tempfile().unwrap().into()),
        ] {
            let refused = ledger.map(&segment(bytes), descriptor).unwrap_err();
            assert!(matches!(refused, ClientError::Protocol(_)), "{refused}");
        }
        let mapping = ledger.map(&segment(100), file(100, sealed)).unwrap();
        assert_eq!(mapping.buffer(64, 36).unwrap().as_slice(), [0; 36]);
        for (offset, bytes) in [(64, 37), (101, 0), (usize::MAX, 2)] {
            assert!(mapping.buffer(offset, bytes).is_none());
        }
    }
}
