//! What the end-to-end tests share.

pub mod dialogue;
pub mod fuzz;
pub mod gateway;
pub mod oracle;
pub mod packet;
pub mod responder;
pub mod sim;
pub mod spinner;
pub mod testrun;
pub mod warden;
