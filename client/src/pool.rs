//! Memory for the bodies of messages, used again while it is warm.
//!
//! The first write to a fresh page costs several times what copying it does, so a reader that allocates for each message spends
//! most of its time in the kernel. A block goes back to its pool when the last array over it is dropped. What lies idle is
//! bounded in bytes, and in time by [`Pool::sweep`]. The most recently used block is taken first: its lines may still be cached.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::RefUnwindSafe;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;

use crate::error::{Error, ErrorKind, Result};
use crate::fork::Mutex;

/// Where a block begins: what Arrow recommends, and the server lays bodies out for.
const ALIGNMENT_BYTES: usize = 64;
/// The smallest block.
const SMALLEST_BYTES: usize = 4 << 10;
/// How long memory lies idle before it is freed.
const IDLE: Duration = Duration::from_secs(10);
/// The largest body that there is memory for.
const LARGEST_BYTES: usize = (u32::MAX as usize) + 1;

/// Idle blocks.
pub(crate) struct Pool {
    limit_bytes: usize,
    idle: Mutex<Idle>,
    is_swept: AtomicBool,
    /// The process whose pool it is. In a fork of it, the lock may be held for ever.
    process: u32,
}

#[derive(Default)]
struct Idle {
    /// By capacity, the most recently used last.
    blocks: BTreeMap<usize, Vec<(Raw, Instant)>>,
    bytes: usize,
}

/// Memory that is being filled.
#[derive(Debug)]
pub(crate) struct Filling {
    block: Block,
    filled: usize,
    bytes: usize,
}

/// A block that goes back to its pool.
#[derive(Debug)]
struct Block {
    /// None only while it is dropped.
    raw: Option<Raw>,
    pool: Weak<Pool>,
}

/// Memory from the allocator.
#[derive(Debug)]
struct Raw {
    start: NonNull<u8>,
    capacity: usize,
}

/// Says that a pool is swept, while it is.
struct Sweeping(Weak<Pool>);

impl Sweeping {
    fn begin(pool: &Weak<Pool>) -> Option<Self> {
        let was_swept = pool.upgrade()?.is_swept.swap(true, Ordering::AcqRel);
        (!was_swept).then(|| Self(Weak::clone(pool)))
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        // Its runtime may end before the pool does, and another one goes on with it.
        if let Some(pool) = self.0.upgrade() {
            pool.is_swept.store(false, Ordering::Release);
        }
    }
}

// SAFETY: the memory belongs to whoever has the value, like that of a `Box<[u8]>`; it is written to through `&mut` alone.
#[expect(unsafe_code, reason = "a pointer is not Send by itself")]
unsafe impl Send for Raw {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer is not Sync by itself")]
unsafe impl Sync for Raw {}
impl RefUnwindSafe for Pool {}

impl Pool {
    /// A pool that keeps at most so many idle bytes.
    pub(crate) fn new(limit_bytes: u64) -> Arc<Self> {
        let_the_allocator_keep();
        Arc::new(Self {
            limit_bytes: usize::try_from(limit_bytes).unwrap_or(usize::MAX),
            idle: Mutex::default(),
            is_swept: AtomicBool::new(false),
            process: std::process::id(),
        })
    }

    /// Frees what lies idle, for as long as this is polled and there is anything. Ends at once where that is done already.
    pub(crate) async fn swept(pool: Weak<Self>) {
        let Some(_sweeping) = Sweeping::begin(&pool) else {
            return;
        };
        loop {
            tokio::time::sleep(IDLE).await;
            let Some(pool) = pool.upgrade() else { return };
            if !pool.sweep(IDLE) {
                return;
            }
        }
    }

    /// Memory for a body.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED where there is none.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Filling> {
        let capacity = class(bytes).ok_or_else(|| no_memory(bytes))?;
        let raw = match self.idle.lock().take(capacity) {
            Some(raw) => raw,
            None => Raw::new(capacity).ok_or_else(|| no_memory(bytes))?,
        };
        let block = Block {
            raw: Some(raw),
            pool: Arc::downgrade(self),
        };
        Ok(Filling {
            block,
            filled: 0,
            bytes,
        })
    }

    /// Frees what has lain idle for longer than this; whether anything is left.
    fn sweep(&self, longer_than: Duration) -> bool {
        let mut freed = Vec::new();
        let mut idle = self.idle.lock();
        for blocks in idle.blocks.values_mut() {
            // The first ones have lain longest.
            let old = blocks.partition_point(|(_, since)| since.elapsed() > longer_than);
            freed.extend(blocks.drain(..old));
        }
        idle.blocks.retain(|_, blocks| !blocks.is_empty());
        idle.bytes -= freed.iter().map(|(raw, _)| raw.capacity).sum::<usize>();
        idle.bytes > 0
    }

    /// Bytes that lie idle.
    #[cfg(test)]
    fn idle_bytes(&self) -> usize {
        self.idle.lock().bytes
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("idle_bytes", &self.idle.lock().bytes)
            .finish_non_exhaustive()
    }
}

impl Idle {
    /// A block of this capacity, or of up to twice as much.
    fn take(&mut self, capacity: usize) -> Option<Raw> {
        let fitting = self.blocks.range_mut(capacity..=capacity.saturating_mul(2));
        let (raw, _) = fitting.into_iter().find_map(|(_, blocks)| blocks.pop())?;
        self.bytes -= raw.capacity;
        Some(raw)
    }
}

impl Filling {
    /// Bytes that are missing.
    pub(crate) fn missing(&self) -> usize {
        self.bytes - self.filled
    }

    /// Copies as much of `data` as there is room for; gives how much that was.
    #[expect(unsafe_code, reason = "the memory is not initialized before it is filled")]
    pub(crate) fn fill(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.missing());
        if let Some(raw) = &mut self.block.raw {
            // SAFETY: `filled + count` is at most `bytes`, which the block has room for; it is ours alone, so nothing overlaps.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), raw.start.as_ptr().add(self.filled), count) };
            self.filled += count;
        }
        count
    }

    /// The filled memory; none where something is missing.
    #[expect(unsafe_code, reason = "arrays over memory that Arrow did not allocate")]
    pub(crate) fn finish(self) -> Option<Buffer> {
        if self.missing() > 0 {
            return None;
        }
        let start = self.block.raw.as_ref()?.start;
        // SAFETY: so many bytes were written from `start` on, and nobody writes to them while the block, which the buffer owns,
        // is not back in its pool.
        Some(unsafe { Buffer::from_custom_allocation(start, self.bytes, Arc::new(self.block)) })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (Some(raw), Some(pool)) = (self.raw.take(), self.pool.upgrade()) else {
            return;
        };
        if pool.process != std::process::id() {
            return;
        }
        let mut idle = pool.idle.lock();
        if idle.bytes + raw.capacity <= pool.limit_bytes {
            idle.bytes += raw.capacity;
            idle.blocks.entry(raw.capacity).or_default().push((raw, Instant::now()));
        }
    }
}

impl Raw {
    #[expect(unsafe_code, reason = "memory that is aligned and not zeroed")]
    fn new(capacity: usize) -> Option<Self> {
        let layout = Layout::from_size_align(capacity, ALIGNMENT_BYTES).ok()?;
        // SAFETY: no capacity is zero.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        Some(Self { start, capacity })
    }
}

impl Drop for Raw {
    #[expect(unsafe_code, reason = "memory is given back by hand")]
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.capacity, ALIGNMENT_BYTES) {
            // SAFETY: allocated with this layout, and nobody refers to it any more.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// Has glibc's allocator keep some of what is freed, as it does in each process that ever freed an array of this size: below that
/// it gives even a megabyte back to the kernel at once. The buffers that HTTP/2 frames come in are the transport's and not of
/// this pool, and their pages were faulted in again for each frame: 0.56 s of CPU in place of 0.33 s for a read of 1.26 GB.
/// Other allocators take no notice.
fn let_the_allocator_keep() {
    // glibc looks at blocks of up to 32 MiB. Nothing is written to it, so it costs two system calls and no memory.
    const LARGE_BYTES: usize = 24 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES)));
}

/// The capacity for so many bytes: a power of two or one, two or three quarters more, so that at most a fifth is unused and
/// bodies of about one size share blocks.
fn class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(SMALLEST_BYTES);
    if bytes > LARGEST_BYTES {
        return None;
    }
    let step = (bytes.next_power_of_two() / 8).max(1);
    Some(bytes.next_multiple_of(step))
}

fn no_memory(bytes: usize) -> Error {
    Error::new(
        ErrorKind::ResourceExhausted,
        format!("there is no memory for a message of {bytes} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &Arc<Pool>, bytes: &[u8]) -> Buffer {
        let mut filling = pool.take(bytes.len()).unwrap();
        assert_eq!(filling.fill(bytes), bytes.len());
        assert_eq!(filling.fill(b"more"), 0, "there is no room for more");
        filling.finish().unwrap()
    }

    #[test]
    fn a_block_is_aligned_and_used_again_after_its_last_array() {
        let pool = Pool::new(1 << 20);
        let first = filled(&pool, &[7; 5000]);
        let (address, part) = (first.as_ptr(), first.slice(100));
        assert_eq!((first.as_slice(), address.align_offset(64)), (&[7; 5000][..], 0));
        drop(first);
        assert_eq!(pool.idle_bytes(), 0, "a part of it is in use");
        let second = filled(&pool, &[8; 5000]);
        assert_ne!(second.as_ptr(), address);
        assert_eq!(part.as_slice(), [7; 4900]);
        drop(part);
        assert_eq!(filled(&pool, &[9; 4900]).as_ptr(), address);
        assert_eq!(second.as_slice(), [8; 5000]);
    }

    #[test]
    fn idle_memory_is_bounded_and_freed_with_time() {
        let pool = Pool::new(20_000);
        let blocks: Vec<_> = (0..3).map(|_| filled(&pool, &[1; 8192])).collect();
        drop(blocks);
        assert_eq!(pool.idle_bytes(), 2 * 8192);
        assert!(pool.sweep(Duration::from_secs(60)), "none is that old");
        std::thread::sleep(Duration::from_millis(2));
        assert!(!pool.sweep(Duration::from_millis(1)));
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn arrays_outlive_their_pool() {
        let pool = Pool::new(1 << 20);
        let buffer = filled(&pool, b"still here");
        drop(pool);
        assert_eq!(buffer.as_slice(), b"still here");
    }

    #[test]
    fn a_block_of_another_process_is_freed_without_its_lock() {
        let pool = Arc::new(Pool {
            limit_bytes: 1 << 20,
            idle: Mutex::default(),
            is_swept: AtomicBool::new(false),
            process: 0,
        });
        let buffer = filled(&pool, b"the parent's");
        let held = pool.idle.lock();
        drop(buffer);
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn a_body_that_is_not_whole_is_none() {
        let pool = Pool::new(1 << 20);
        let mut filling = pool.take(10).unwrap();
        filling.fill(b"123456789");
        assert!(filling.finish().is_none());
        assert_eq!(filled(&pool, b"").len(), 0);
        assert!(pool.take(LARGEST_BYTES + 1).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_capacity_wastes_at_most_a_quarter(bytes in SMALLEST_BYTES..LARGEST_BYTES) {
            let capacity = class(bytes).unwrap();
            proptest::prop_assert!(capacity >= bytes && capacity - bytes <= bytes / 4 + 1);
        }
    }
}
