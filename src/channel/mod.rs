//! The channel adapters: what hosts and other arrays reach the array by.

mod connection;
pub mod counted;
pub mod host;
pub mod initiator;
pub mod listener;
pub mod piece;
pub mod sim_network;
mod sim_stream;
pub mod storage;
pub mod target;
mod tasks;
pub mod tcp_network;
pub mod transport;
mod wire;
