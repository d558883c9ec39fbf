//! What the end-to-end tests share.

pub mod catalogue;
pub mod connect;
pub mod dialogue;
pub mod gateway;
pub mod packet;
pub mod responder;
pub mod sim;
pub mod spinner;
pub mod testrun;
pub mod warden;
