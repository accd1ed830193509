//! Comparing a copy with what it is a copy of, at one update number, while hosts write (promise O8, decision 28).
//!
//! Both sides cut an image of their volumes: the source whenever it likes, at the number N that it has then; the copy when it has
//! restored N and not yet N+1 (`hold.rs`). What the images hold is hashed on each side (`hash.rs`) into a tree (`tree.rs`), and only
//! where two nodes differ their children are looked at. Who asks whom, and what becomes of the result, is in `array/compare`.

pub(crate) mod hash;
pub(crate) mod hold;
pub mod tree;
