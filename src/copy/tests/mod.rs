//! One group reading from another, figure by figure.

mod reading;
mod rig;
