//! The `bylaw` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    keep_memory();
    bylaw::cli::main()
}

/// Tells glibc to keep what is freed. By default it maps and unmaps every large tensor, which took 7 of
/// 17 seconds of a training step where it was measured.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a call into glibc")]
    // SAFETY: `mallopt` is called before any other thread exists, with documented parameters.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}
