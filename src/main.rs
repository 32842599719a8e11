//! `holdup`: hands the command line to [`holdup::cli`] and its exit code to the system.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdup::cli::main()
}
