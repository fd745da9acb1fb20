//! Runs the tests of every package of the workspace, so that `cargo test` alone runs all that needs no server.
//!
//! The package at the root has light dependencies for its examples. Cargo unites the features of all packages that one command
//! builds; so the tests that need every feature are in a package that a command of its own builds.

use std::env;
use std::process::{Command, ExitCode};

/// Set for the inner cargo, which runs this program too.
const INNER: &str = "TOWER_OUTBOX_WORKSPACE_TESTS";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    // cargo-nextest lists the tests of each program; it runs the workspace itself.
    if env::var_os(INNER).is_some() || arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let cargo = env::var_os("CARGO").expect("cargo runs this program");
    let mut command = Command::new(cargo);
    command.args(["test", "--workspace", "--"]).args(arguments).env(INNER, "1");
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}
