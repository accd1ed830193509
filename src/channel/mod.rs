//! The channel adapters: what hosts and other arrays reach the array by.

pub mod transport;
