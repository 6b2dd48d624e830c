//! Control groups: which hierarchies this machine has, limits read back, kill and remove.
