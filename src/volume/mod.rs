//! What the array is made of: volumes, pairs, groups, pointers, and the store that keeps their tables.
//!
//! A leaf: it knows nothing of devices, connections or the journal's bytes. Mission rows A2 to A6.

pub mod name;
