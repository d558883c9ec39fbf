//! What the end-to-end tests share.

pub mod capture;
pub mod catalogue;
pub mod connect;
pub mod desk;
pub mod dialogue;
pub mod firewall;
pub mod flood;
pub mod fuzz;
pub mod gateway;
pub mod manager;
pub mod memory;
pub mod metrics;
pub mod nat;
pub mod oracle;
pub mod packet;
pub mod page;
pub mod program;
pub mod prometheus;
pub mod responder;
pub mod sim;
pub mod spinner;
pub mod survival;
pub mod tap;
pub mod terminal;
pub mod testrun;
pub mod wire;
