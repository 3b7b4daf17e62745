//! How the process holds its memory.

/// Tells glibc to keep what is freed; to be called first of all. By default it maps and unmaps every
/// large tensor, which took 7 of 17 seconds of a training step where it was measured.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a call into glibc")]
    // SAFETY: `mallopt` is called before any other thread exists, with documented parameters.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}
