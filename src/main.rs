//! The command line tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    tower_outbox::cli::main()
}
