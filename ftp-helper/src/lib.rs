//! ftp-helper follows FTP control connections in eBPF and opens exactly the negotiated data port.
//!
//! The rooms, from the bottom: [`event`] (what is told to people and programs), [`engine`] (the sans-I/O heart: records
//! and `now` in, actions out) and [`api`] (the control socket's protocol), [`dataplane`] (loads and drives the kernel
//! side) and [`config`], then [`daemon`], [`replay`] and [`lab`], and [`cli`] on top. An arrow runs down only.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod event;
pub mod ftpd;
pub mod lab;
pub mod metrics;
pub mod nft;
pub mod replay;
