//! The channel adapters: what hosts and other arrays reach the array by.

pub mod initiator;
pub mod piece;
pub mod sim_network;
pub mod tcp_network;
pub mod transport;
mod wire;
