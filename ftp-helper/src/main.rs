//! The `ftp-helper` program.
fn main() {}
