//! A container's life: create, start, exec, stop, remove.
