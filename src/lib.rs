//! Holdfast: a storage array in software.
