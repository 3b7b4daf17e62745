//! Large pages and prefetching for what is read in whole at every step.
//!
//! With pages of 4 KiB the address translation of the weights takes a good part of the memory's
//! bandwidth; Linux gives pages of 2 MiB to who asks. Elsewhere, and where the system declines, nothing
//! changes.

/// Asks for large pages under `values`, which are in memory already.
pub fn gather<T>(values: &[T]) {
    advise(values, &[MADV_HUGEPAGE, MADV_COLLAPSE]);
}

/// Asks for large pages under `values`, which have not been written yet.
pub fn reserve<T>(values: &[T]) {
    advise(values, &[MADV_HUGEPAGE]);
}

/// `libc::MADV_HUGEPAGE` and `libc::MADV_COLLAPSE`, which not every platform has.
const MADV_HUGEPAGE: i32 = 14;
const MADV_COLLAPSE: i32 = 25;

/// Bytes of a large page.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

#[cfg(target_os = "linux")]
fn advise<T>(values: &[T], advice: &[i32]) {
    let start = values.as_ptr().addr().next_multiple_of(LARGE);
    let end = (values.as_ptr().addr() + size_of_val(values)) / LARGE * LARGE;
    if start >= end {
        return;
    }
    for advice in advice {
        #[expect(unsafe_code, reason = "a system call about memory")]
        // SAFETY: the range lies inside the slice, and these two pieces of advice change which pages
        // hold it, never what they hold. A refusal is no error: the pages stay as they are.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), end - start, *advice);
        }
    }
}

/// Begins to bring the cache line at `place` into the second-level cache. The place need not be in
/// memory, nor belong to anything: it is a hint.
#[inline(always)]
pub fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a SIMD kernel's hint")]
    // SAFETY: a prefetch never faults and changes nothing that a program can see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(not(target_os = "linux"))]
fn advise<T>(_: &[T], _: &[i32]) {}
