//! The `ftp-helper` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ftp_helper::cli::main(std::env::args_os())
}
