//! The sans-I/O heart.

pub mod policy;
