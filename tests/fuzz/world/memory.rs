//! Memory of one input, bounded exactly: the sanitizers that could do it are not in stable Rust.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Bounded;

#[global_allocator]
static BOUNDED: Bounded = Bounded;

// SAFETY: every call goes to the system's allocator unchanged, or fails as it may.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE
            .fetch_add(layout.size(), Relaxed)
            .wrapping_add(layout.size());
        // Near zero going down: freed is what was allocated before the count began. A panic's own
        // backtrace takes more than an input may, and must not hide what the panic says.
        let over = live > MOST.load(Relaxed) && live < usize::MAX / 2;
        if over && !std::thread::panicking() {
            // Said once, by an allocation that must not be counted again.
            MOST.store(usize::MAX, Relaxed);
            panic!("this input takes more than its memory: {live} bytes are live");
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Runs `work`, which may have at most `most` more bytes live at a time than there are now.
pub fn bounded<T>(most: usize, work: impl FnOnce() -> T) -> T {
    MOST.store(LIVE.load(Relaxed).saturating_add(most), Relaxed);
    let done = work();
    MOST.store(usize::MAX, Relaxed);
    done
}
