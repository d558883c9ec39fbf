//! What the end-to-end tests share.

pub mod dialogue;
pub mod packet;
pub mod testrun;
