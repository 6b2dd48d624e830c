//! The process' own memory.

/// Gives memory that was freed back to the kernel, as far as it is whole pages. Takes about a millisecond; others may allocate
/// meanwhile.
///
/// malloc keeps for each thread what that thread freed, in case that it needs as much again. Called after work that took much
/// and will not come again soon. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and allocations that are in use stay as they are.
    unsafe {
        libc::malloc_trim(0);
    }
}
