//! What the end-to-end tests share.

pub mod responder;
pub mod spinner;
pub mod warden;
