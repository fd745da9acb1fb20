//! `tower-outbox keys`.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::context::Context;
use super::error::CliError;
use super::output::{aligned, count, harmless};
use crate::admin::StoredMessage;
use crate::message::Message;
#[cfg(feature = "_sql")]
use crate::signing::TrustedKey;
use crate::signing::{
    KeyKind, Signer, SigningKey, SigningSettings, Trusted, TrustedFolder, Verified, Verifier,
};
use crate::util::error::BoxError;

const AFTER_HELP: &str = "\
Settings: KEY, ORIGIN and TRUSTED of the table SIGNING.

  tower-outbox keys generate signing.pem host-1.pem   a key for host-1; copy host-1.pem to the folder TRUSTED of its receivers
  tower-outbox keys list                              the keys in TRUSTED
  tower-outbox keys trust host-1 host-1.pem           add it to the database, if TRUSTED is database; keys revoke host-1 removes it
  tower-outbox keys verify                            whether KEY fits the public key of ORIGIN in TRUSTED
  tower-outbox dead-letters list --queue users.dead --json --body | tower-outbox keys verify -   why messages were refused";

/// Make, list and check the keys that sign messages
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make a new key; no file is overwritten
    Generate(Generate),
    /// List the trusted keys, with the first 16 digits of their SHA-256
    List(List),
    #[cfg(feature = "_sql")]
    /// Trust public keys as those of an origin, in the database
    Trust(Trust),
    #[cfg(feature = "_sql")]
    /// Trust the keys of an origin no longer, in the database
    Revoke(Revoke),
    /// Check that the own signatures are trusted, or verify messages
    Verify(Verify),
}

#[derive(Args)]
struct Generate {
    /// The kind of the key; mqfactory needs rsa
    #[arg(long, value_enum, default_value = "ed25519")]
    kind: Kind,
    /// The file for the private key, which only this user may read
    key: PathBuf,
    /// The file for the public key; without one it is printed
    public: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Ed25519,
    Rsa,
}

#[derive(Args)]
struct List {
    /// The folder; by default TRUSTED of the settings
    folder: Option<PathBuf>,
}

#[cfg(feature = "_sql")]
#[derive(Args)]
struct Trust {
    /// The name of the sender, its ORIGIN
    origin: String,
    /// The file with its public key
    file: PathBuf,
}

#[cfg(feature = "_sql")]
#[derive(Args)]
struct Revoke {
    /// The name of the sender, its ORIGIN
    origin: String,
    /// The key with these digits, as `keys list` shows them; without them all keys of the origin
    fingerprint: Option<String>,
}

#[derive(Args)]
struct Verify {
    /// Verify these messages, JSON lines as `export` writes them; - reads stdin
    file: Option<PathBuf>,
}

impl Keys {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        match &self.command {
            KeysCommand::Generate(generate) => generate.run(context),
            KeysCommand::List(list) => list.run(context),
            #[cfg(feature = "_sql")]
            KeysCommand::Trust(trust) => trust.run(context),
            #[cfg(feature = "_sql")]
            KeysCommand::Revoke(revoke) => revoke.run(context),
            KeysCommand::Verify(verify) => verify.run(context),
        }
    }
}

impl Generate {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let kind = match self.kind {
            Kind::Ed25519 => KeyKind::Ed25519,
            Kind::Rsa => KeyKind::Rsa,
        };
        let fault = |error| CliError::error(&error);
        let key = SigningKey::generate(kind).map_err(fault)?;
        let (private, public) = (key.to_pem().map_err(fault)?, key.public_pem().map_err(fault)?);
        write_new(&self.key, &private, true)?;
        if let Some(path) = &self.public {
            write_new(path, &public, false)?;
        }
        let trusted = key.public().map_err(fault)?;
        if context.output.json {
            let (kind, fingerprint) = (kind.to_string(), trusted.fingerprint());
            return context
                .output
                .document(&json!({"kind": kind, "fingerprint": fingerprint, "public": public}));
        }
        context.output.note(format!(
            "made the {kind} key {} in {}",
            trusted.fingerprint(),
            self.key.display()
        ));
        match self.public {
            Some(_) => Ok(()),
            None => context.output.line(public.trim_end()),
        }
    }
}

/// Writes a file that does not exist yet.
fn write_new(path: &Path, text: &str, secret: bool) -> Result<(), CliError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if secret { 0o600 } else { 0o644 });
    let _ = secret;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| CliError::failed(format!("cannot write {}: {error}", path.display())))
}

impl List {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let trusted = match &self.folder {
            Some(folder) => Some(Trusted::Folder(folder.clone())),
            None => signing(context)?.trusted,
        };
        let list = match trusted {
            Some(Trusted::Folder(folder)) => TrustedFolder::open(folder).map(|folder| folder.list()),
            #[cfg(feature = "_sql")]
            Some(Trusted::Database) => context.runtime.block_on(table(context)?.list()),
            _ => return Err(CliError::failed("SIGNING.TRUSTED names no folder: set it")),
        };
        let keys: Vec<_> = list
            .map_err(|error| CliError::error(&error))?
            .iter()
            .flat_map(|(origin, keys)| keys.iter().map(move |key| (origin.clone(), key.clone())))
            .collect();
        if context.output.json {
            let keys = keys.iter().map(|(origin, key)| {
                json!({"origin": origin, "kind": key.kind().to_string(), "fingerprint": key.fingerprint()})
            });
            return context.output.document(&json!({"keys": keys.collect::<Vec<_>>()}));
        }
        let rows = keys
            .iter()
            .map(|(origin, key)| [origin.clone(), key.kind().to_string(), key.fingerprint().to_owned()]);
        let rows: Vec<_> = rows.collect();
        aligned(&rows).iter().try_for_each(|line| context.output.line(line))
    }
}

#[cfg(feature = "_sql")]
impl Trust {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let file = self.file.display();
        let text = std::fs::read_to_string(&self.file);
        let text = text.map_err(|error| CliError::failed(format!("cannot read {file}: {error}")))?;
        let trusted = context.runtime.block_on(table(context)?.trust(&self.origin, &text));
        let trusted = trusted.map_err(|error| CliError::failed(format!("{file}: {error}")))?;
        let fingerprints: Vec<_> = trusted.iter().map(TrustedKey::fingerprint).collect();
        if context.output.json {
            return context.output.document(&json!({"origin": self.origin, "trusted": fingerprints}));
        }
        context.output.line(format!("{} is trusted with {}", self.origin, fingerprints.join(" and ")))
    }
}

#[cfg(feature = "_sql")]
impl Revoke {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let revoked = table(context)?;
        let revoked = revoked.revoke(&self.origin, self.fingerprint.as_deref());
        let revoked = context.runtime.block_on(revoked).map_err(|error| CliError::error(&error))?;
        if revoked == 0 {
            return Err(CliError::failed(format!("there is no such key of {}", self.origin)));
        }
        if context.output.json {
            return context.output.document(&json!({"origin": self.origin, "revoked": revoked}));
        }
        context.output.line(format!("revoked {} of {}", count(revoked as u64, "key"), self.origin))
    }
}

/// The table of trusted keys, which the settings must name.
#[cfg(feature = "_sql")]
fn table(context: &Context) -> Result<crate::signing::TrustedTable, CliError> {
    if !matches!(signing(context)?.trusted, Some(Trusted::Database)) {
        return Err(CliError::failed(
            "SIGNING.TRUSTED is not \"database\": add ORIGIN.pem to the folder, or remove it there",
        ));
    }
    let opened = context.runtime.block_on(crate::bus::trusted_table(&context.settings()?));
    opened.map_err(|error| CliError::error(&error))
}

impl Verify {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = signing(context)?;
        let verifier = match settings.trusted {
            #[cfg(feature = "_sql")]
            Some(Trusted::Database) => Verifier::with_keys(table(context)?, &settings),
            _ => Verifier::new(&settings),
        };
        let verifier = verifier.map_err(|error| CliError::error(&error))?;
        match self.file.as_deref() {
            None => own(context, &settings, &verifier),
            Some(path) if path == Path::new("-") => messages(context, &verifier, io::stdin().lock()),
            Some(path) => {
                let file = std::fs::File::open(path);
                let file = file
                    .map_err(|error| CliError::failed(format!("cannot read {}: {error}", path.display())))?;
                messages(context, &verifier, BufReader::new(file))
            }
        }
    }
}

/// Signs a message, and verifies it as a receiver with the same settings does.
fn own(context: &Context, settings: &SigningSettings, verifier: &Verifier) -> Result<(), CliError> {
    let signer = Signer::new(settings).map_err(|error| CliError::error(&error))?;
    let signed = Message::json("tower-outbox.keys", "a test").map_err(|error| CliError::error(&error))?;
    let signed = signer.sign(&signed).map_err(|error| CliError::error(&*error))?;
    match verify(context, verifier, &signed)? {
        Ok(Some(origin)) if context.output.json => {
            context.output.document(&json!({"origin": origin, "ok": true}))
        }
        Ok(Some(origin)) => context.output.line(format!("signatures of {origin} are trusted")),
        Ok(None) => Err(CliError::failed("SIGNING.POLICY signs no message")),
        Err(reason) => Err(CliError::failed(reason)),
    }
}

/// Verifies messages, one JSON document in a line.
fn messages(context: &Context, verifier: &Verifier, lines: impl BufRead) -> Result<(), CliError> {
    let mut refused = 0;
    for (number, line) in lines.lines().enumerate() {
        let fault = |error: BoxError| CliError::failed(format!("line {}: {error}", number + 1));
        let line = line.map_err(|error| fault(error.into()))?;
        if line.trim().is_empty() {
            continue;
        }
        let message: StoredMessage = serde_json::from_str(&line).map_err(|error| fault(error.into()))?;
        let message = message.into_message().map_err(fault)?;
        let id = message.id();
        let verified = verify(context, verifier, &message)?;
        refused += u64::from(verified.is_err());
        if context.output.json {
            context.output.document(&match verified {
                Ok(origin) => json!({"id": id, "origin": origin}),
                Err(reason) => json!({"id": id, "refused": reason}),
            })?;
        } else {
            context.output.line(match verified {
                Ok(Some(origin)) => format!("{id}  signed by {origin}"),
                Ok(None) => format!("{id}  not signed, and accepted"),
                Err(reason) => format!("{id}  refused: {}", harmless(&reason)),
            })?;
        }
    }
    match refused {
        0 => Ok(()),
        _ => Err(CliError::failed(format!("{} refused", count(refused, "message")))),
    }
}

/// The origin of the signature, or why the message is refused.
fn verify(
    context: &Context,
    verifier: &Verifier,
    message: &Message,
) -> Result<Result<Option<String>, String>, CliError> {
    let verified = context.runtime.block_on(verifier.verify(message));
    Ok(match verified.map_err(|error| CliError::error(&*error))? {
        Verified::Signed(message, _) => {
            Ok(message.header(crate::signing::SIGNED_BY).map(ToString::to_string))
        }
        Verified::Unsigned(_) => Ok(None),
        Verified::Refused(reason) => Err(reason),
    })
}

fn signing(context: &Context) -> Result<SigningSettings, CliError> {
    let signing = context.settings()?.signing;
    signing.ok_or_else(|| CliError::failed("the settings have no table SIGNING"))
}
