//! Where memory ends: what asked for more than there is traps, and the trap does not say why.

use super::thrown;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use wasm_bindgen::prelude::*;

/// The size of the last allocation that was refused; 0 for none.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which keeps in mind what it could not give.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn watched(given: *mut u8, bytes: usize) -> *mut u8 {
    if given.is_null() {
        REFUSED.store(bytes, Ordering::Relaxed);
    }
    given
}

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watched(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watched(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        watched(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        unsafe { System.dealloc(start, layout) }
    }
}

/// The bytes that were asked for when memory ended, 0 where it did not. May be asked after a trap, too.
#[wasm_bindgen(js_name = refusedBytes)]
pub fn refused_bytes() -> usize {
    REFUSED.load(Ordering::Relaxed)
}

/// Takes this much memory at once, for what is loaded afterwards; an error, with the code `wasm-memory`, where there is not so
/// much.
#[wasm_bindgen]
pub fn reserve(bytes: usize) -> Result<(), JsValue> {
    // Freed at once: memory only grows, and the allocator keeps what it has.
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(bytes).map_err(|_| thrown(format!("wasm-memory: there is no room for {bytes} bytes")))
}
