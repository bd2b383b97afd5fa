//! Memory for code on the audio thread that asks for some block by block and gives it back.
//!
//! The sound processing library takes buffers for the length of a block and returns them. Asking
//! the system for them may wait for another thread's lock or for the kernel; so [`ScratchHeap`],
//! as the program's allocator, serves what is asked for inside [`Scratch::run`] from memory that
//! was set aside for that: pieces of powers of two, in one list of free ones for each size. What
//! does not fit, or is asked for outside, goes to the allocator below. A piece may outlive the run
//! and be given back by any thread: pieces are told by their address. What came from below and is
//! given back inside a run (a buffer of the start) waits for the end of the [`Scratch`]. In a
//! program without this allocator nothing changes.
#![allow(unsafe_code)]

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::{Cell, UnsafeCell},
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Processors with their own memory at a time; further ones ask the system. Chosen.
const SLOTS: usize = 8;

/// Memory of each: the canceller takes 9 KiB for a block, gain control 6 (measured). Chosen.
pub const SCRATCH_BYTES: usize = 64 * 1_024;

/// Smallest piece, and sizes of pieces, each twice the one before: 16 bytes to 32 KiB.
const PIECE_BYTES_MIN: usize = 16;
const CLASSES: usize = 12;

/// Pieces start at multiples of this: a line of the cache.
const ALIGN_MAX: usize = 64;

/// Pieces from below that wait to go back there; further ones go at once. Chosen.
const WAITING_MAX: usize = 32;

/// No piece. Others are the offset plus one, so that an unused slot is all zeros and costs nothing.
const NONE: usize = 0;

#[repr(align(64))]
struct Memory(UnsafeCell<[MaybeUninit<u8>; SCRATCH_BYTES]>);

struct Slot {
    taken: AtomicBool,
    /// Pieces that were not given back yet.
    pieces: AtomicUsize,
    /// What lies above was never handed out. Like the lists, changed only by the thread that runs.
    used: AtomicUsize,
    /// Offset of the first free piece of each class; each holds the offset of the next.
    free: [AtomicUsize; CLASSES],
    /// Given back inside a run, to go below later; touched only by the owner.
    waiting: UnsafeCell<[Option<(*mut u8, Layout)>; WAITING_MAX]>,
    memory: Memory,
}

// SAFETY: pieces are handed out by one thread at a time (`Scratch` is not `Sync` and `run` takes
// `&mut self`), never twice while in use, and the bytes are touched by their users alone.
unsafe impl Sync for Slot {}

static POOL: [Slot; SLOTS] = [const { Slot::empty() }; SLOTS];

thread_local! {
    static RUNNING: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

/// The right to one slot's memory, or to none when all are taken. Needs [`ScratchHeap`] to be the
/// program's allocator, and does nothing otherwise.
pub struct Scratch {
    slot: Option<&'static Slot>,
}

impl Default for Scratch {
    fn default() -> Self {
        let free = |slot: &&Slot| !slot.taken.swap(true, Ordering::AcqRel);
        Self { slot: POOL.iter().find(free) }
    }
}

impl Scratch {
    /// Does `work`; what it asks for comes from this memory as far as it goes.
    pub fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<&'static Slot>);
        impl Drop for Restore {
            fn drop(&mut self) {
                RUNNING.set(self.0);
            }
        }
        let _restore = Restore(RUNNING.replace(self.slot));
        work()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for (piece, layout) in self.slot.into_iter().flat_map(Slot::take_waiting) {
            // SAFETY: `ScratchHeap::dealloc` was given it with this layout and only put it off.
            unsafe { std::alloc::dealloc(piece, layout) };
        }
        if let Some(slot) = self.slot
            && slot.pieces.load(Ordering::Acquire) == 0
        {
            slot.used.store(0, Ordering::Relaxed);
            slot.free.iter().for_each(|list| list.store(NONE, Ordering::Relaxed));
            slot.taken.store(false, Ordering::Release);
        }
        // Otherwise somebody still holds a piece: the slot stays taken for good.
    }
}

impl Slot {
    const fn empty() -> Self {
        Self {
            taken: AtomicBool::new(false),
            pieces: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            free: [const { AtomicUsize::new(NONE) }; CLASSES],
            waiting: UnsafeCell::new([None; WAITING_MAX]),
            memory: Memory(UnsafeCell::new([MaybeUninit::uninit(); SCRATCH_BYTES])),
        }
    }

    fn base(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    fn offset(&self, piece: *const u8) -> Option<usize> {
        let offset = piece.addr().checked_sub(self.base().addr())?;
        (offset < SCRATCH_BYTES).then_some(offset)
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let class = class(layout)?;
        let list = &self.free[class];
        let first = list.load(Ordering::Relaxed);
        let offset = if first == NONE {
            let start = self.used.load(Ordering::Relaxed).next_multiple_of(ALIGN_MAX);
            let end = start.checked_add(PIECE_BYTES_MIN << class)?;
            if end > SCRATCH_BYTES {
                return None;
            }
            self.used.store(end, Ordering::Relaxed);
            start
        } else {
            // SAFETY: a free piece holds the offset of the next one, written by `give_back`.
            let next = unsafe { self.base().add(first - 1).cast::<usize>().read() };
            list.store(next, Ordering::Relaxed);
            first - 1
        };
        self.pieces.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `offset < SCRATCH_BYTES`, so it stays inside the memory.
        Some(unsafe { self.base().add(offset) })
    }

    fn give_back(&'static self, offset: usize, layout: Layout) {
        let running = RUNNING.try_with(Cell::get).ok().flatten();
        // Given back elsewhere, its bytes lie idle until the slot has a new owner.
        if running.is_some_and(|running| ptr::eq(running, self))
            && let Some(class) = class(layout)
        {
            let next = self.free[class].swap(offset + 1, Ordering::Relaxed);
            // SAFETY: the piece is at least so large and aligned, and nobody's any more.
            unsafe { self.base().add(offset).cast::<usize>().write(next) };
        }
        self.pieces.fetch_sub(1, Ordering::Release);
    }

    /// Puts off giving back what came from below; false when too much waits.
    fn put_off(&self, piece: *mut u8, layout: Layout) -> bool {
        // SAFETY: only the owner's thread comes here, and holds the reference for this line alone.
        let waiting = unsafe { &mut *self.waiting.get() };
        let free = waiting.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some((piece, layout))).is_some()
    }

    fn take_waiting(&self) -> impl Iterator<Item = (*mut u8, Layout)> + use<> {
        // SAFETY: called by the owner as it is dropped, outside of every run.
        let waiting = unsafe { &mut *self.waiting.get() };
        core::mem::replace(waiting, [None; WAITING_MAX]).into_iter().flatten()
    }
}

/// The class of pieces large enough: its pieces have [`PIECE_BYTES_MIN`] times 2 to that power.
fn class(layout: Layout) -> Option<usize> {
    let bytes = layout.size().max(PIECE_BYTES_MIN).checked_next_power_of_two()?;
    let class = (bytes / PIECE_BYTES_MIN).trailing_zeros() as usize;
    (class < CLASSES && layout.align() <= ALIGN_MAX).then_some(class)
}

fn find(piece: *const u8) -> Option<(&'static Slot, usize)> {
    let from = POOL[0].base().addr();
    let to = POOL[SLOTS - 1].base().addr() + SCRATCH_BYTES;
    if !(from..to).contains(&piece.addr()) {
        return None;
    }
    POOL.iter().find_map(|slot| Some((slot, slot.offset(piece)?)))
}

/// The program's allocator: scratch memory inside [`Scratch::run`], the one below otherwise.
pub struct ScratchHeap<A>(pub A);

// SAFETY: a piece is inside one slot, aligned, as large as asked for and not handed out again
// before it comes back: it is in no list meanwhile, and `used` only grows until all have come
// back. Everything else is passed on unchanged.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ScratchHeap<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let slot = RUNNING.try_with(Cell::get).ok().flatten();
        match slot.and_then(|slot| slot.take(layout)) {
            Some(piece) => piece,
            // SAFETY: the caller's promises are passed on.
            None => unsafe { self.0.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let slot = RUNNING.try_with(Cell::get).ok().flatten();
        match slot.and_then(|slot| slot.take(layout)) {
            Some(piece) => {
                // SAFETY: the piece is this large, and nobody else's.
                unsafe { piece.write_bytes(0, layout.size()) };
                piece
            }
            // SAFETY: the caller's promises are passed on.
            None => unsafe { self.0.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match find(piece) {
            Some((slot, offset)) => slot.give_back(offset, layout),
            None => {
                let running = RUNNING.try_with(Cell::get).ok().flatten();
                if !running.is_some_and(|slot| slot.put_off(piece, layout)) {
                    // SAFETY: it is not ours, so it came from below, with this layout.
                    unsafe { self.0.dealloc(piece, layout) };
                }
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if find(piece).is_none() {
            // SAFETY: as in `dealloc`.
            return unsafe { self.0.realloc(piece, layout, size) };
        }
        // SAFETY: the caller promises that `size` is valid for this alignment; both pieces are at
        // least as large as what is copied and do not overlap, as the old one is still out.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(piece, new, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    static HEAP: ScratchHeap<System> = ScratchHeap(System);

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 16).unwrap()
    }

    fn is_scratch(piece: *const u8) -> bool {
        find(piece).is_some()
    }

    #[test]
    fn memory_is_used_again_for_ever_and_only_inside_a_run() {
        let mut scratch = Scratch::default();
        let before = unsafe { HEAP.alloc(layout(100)) };
        assert!(!is_scratch(before));
        for round in 0..100_000 {
            scratch.run(|| {
                let a = unsafe { HEAP.alloc_zeroed(layout(2_000)) };
                let b = unsafe { HEAP.alloc(layout(300)) };
                assert!(is_scratch(a) && is_scratch(b), "round {round}");
                unsafe {
                    assert_eq!(a.add(1_999).read(), 0);
                    a.write_bytes(7, 2_000);
                    let a = HEAP.realloc(a, layout(2_000), 4_000);
                    assert_eq!(a.add(1_999).read(), 7);
                    HEAP.dealloc(b, layout(300));
                    HEAP.dealloc(a, layout(4_000));
                }
            });
        }
        unsafe { HEAP.dealloc(before, layout(100)) };
    }

    // Pieces are given back by another thread: a real one.
    #[allow(clippy::disallowed_methods)]
    #[test]
    fn what_does_not_fit_comes_from_below_and_what_stays_is_not_given_twice() {
        let mut scratch = Scratch::default();
        let stays = scratch.run(|| unsafe { HEAP.alloc(layout(1_000)) });
        unsafe { stays.write_bytes(9, 1_000) };
        for _ in 0..1_000 {
            scratch.run(|| unsafe {
                let large = HEAP.alloc(layout(SCRATCH_BYTES));
                assert!(!is_scratch(large));
                HEAP.dealloc(large, layout(SCRATCH_BYTES));
                let small = HEAP.alloc(layout(30_000));
                assert!(is_scratch(small));
                small.write_bytes(1, 30_000);
                HEAP.dealloc(small, layout(30_000));
            });
        }
        assert_eq!(unsafe { stays.add(999).read() }, 9);
        let (address, size) = (stays.expose_provenance(), layout(1_000));
        let free = move || unsafe { HEAP.dealloc(ptr::with_exposed_provenance_mut(address), size) };
        std::thread::spawn(free).join().unwrap();
        drop(scratch);
        assert!(Scratch::default().slot.is_some());
    }
}
