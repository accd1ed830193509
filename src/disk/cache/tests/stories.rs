//! The races and the borders, one by one.
