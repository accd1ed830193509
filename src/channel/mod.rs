//! The channel adapters: what hosts and other arrays reach the array by.

mod connection;
pub mod host;
pub mod initiator;
pub mod listener;
pub mod piece;
pub mod sim_network;
pub mod storage;
pub mod target;
pub mod tcp_network;
pub mod transport;
mod wire;
