//! The write-order checker is itself checked: against brute force on small histories, and by six defects that it must
//! find.

#[path = "../support/mod.rs"]
mod support;

mod brute_force;
mod planted;
