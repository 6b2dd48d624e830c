//! The process' own memory.

/// Gives memory that was freed back to the kernel, as far as it is whole pages.
///
/// malloc keeps for each thread what that thread freed, in case that it needs as much again. To be called after work that took
/// much. It goes through all that is free, about a millisecond for some tens of megabytes, one thread's heap after the other; who
/// allocates from the one that it is at waits. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and allocations that are in use stay as they are.
    unsafe {
        libc::malloc_trim(0);
    }
}
