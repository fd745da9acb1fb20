//! The tool as a function in the binary of an app.

use std::ffi::OsString;
use std::process::ExitCode;

use tower_outbox::bus::BusBuilder;
use tower_outbox::cli;
use tower_outbox::testing::{Recording, Sent};

/// Runs the tool with a backend of the app.
fn run(args: &[&str], recording: &Recording) -> ExitCode {
    fn configure(recording: Recording) -> impl for<'a> Fn(BusBuilder<'a>) -> BusBuilder<'a> + 'static {
        move |builder| {
            let recording = recording.clone();
            builder.with_backend("acme.Log", move |_| Ok::<_, std::io::Error>(recording))
        }
    }
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    cli::run("orders outbox", args, configure(recording.clone()))
}

fn is(code: ExitCode, number: u8) -> bool {
    format!("{code:?}") == format!("{:?}", ExitCode::from(number))
}

fn app() -> (tempfile::TempDir, String, Recording, Sent) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    std::fs::write(&path, "[MESSAGE_BUS]\nBACKEND = 'acme.Log'\nCOLOR = 'red'\n").unwrap();
    let recording = Recording::new();
    let sent = recording.listen();
    let path = path.display().to_string();
    (folder, path, recording, sent)
}

#[test]
fn a_backend_of_the_app_works_in_its_own_tool() {
    let (_folder, path, recording, sent) = app();
    assert!(is(run(&["--settings", &path, "send", "user.created", "{}"], &recording), 0));
    assert_eq!(sent.topics(), ["user.created"]);
    assert!(is(run(&["--settings", &path, "check"], &recording), 0));
    assert!(is(run(&["nonsense"], &recording), 2));
    assert!(is(run(&["--help"], &recording), 0));
}

#[tokio::test]
async fn the_tool_inside_a_runtime_fails_and_does_not_panic() {
    let (_folder, path, recording, _) = app();
    assert!(is(run(&["--settings", &path, "check"], &recording), 1));
}
