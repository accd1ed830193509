//! What the array tells machines over HTTP: `/metrics` for Prometheus and `/health` for monitors. Read only.
//!
//! It sees the array through [`crate::shell::view::Console`] only. The server is at the edge; the texts are made by
//! [`metrics`] and [`health`], which are pure.

pub mod health;
pub mod metrics;
mod server;

pub use server::{CONNECTIONS_MAX, HEADER_MAX_BYTES, HEADERS_MAX, LIFETIME_MAX, WebServer};
