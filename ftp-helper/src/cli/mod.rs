//! To be written.

pub mod ftpd;
pub mod lab;
