//! What can be typed. Help texts are here, checks of values where the values are used.

mod account;
mod bulk;
mod life;

use std::{num::NonZeroU32, path::PathBuf};

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource};
use keystrata_hierarchy::{Context, KeyPath};

pub(crate) use self::{
    account::{AccountArgs, AccountCommand, AccountStatus, ListArgs, NameArgs, RotateArgs, ShredArgs},
    bulk::{JobArgs, RekeyArgs, RerootArgs, RewrapArgs},
    life::{DestroyArgs, MinVersionArgs, StateArgs},
};
use crate::{
    demo::DemoArgs,
    observe::ObserveArgs,
    settings::{RootLocation, StoreLocation},
    simulate::SimulateArgs,
    store::{StoreArgs, StoreCommand},
};

const EXAMPLES: &str = "\
Examples:
  keystrata init
  keystrata seal --account acme --context row=42 < card.txt > card.sealed
  keystrata open --account acme --context row=42 card.sealed
  keystrata inspect card.sealed --json
  keystrata account list
  keystrata simulate --ttl 1m,5m,1h --report plan.html

Exit status: 0 done; 1 refused or failed, with one line on stderr; 2 wrong usage; 3 done, and something was found that
somebody has to look after (account recover, account rotate --older-than, rekey, reroot, rewrap, root verify, store check,
store copy).";

/// Seals and opens many accounts' data with a handful of KMS calls.
///
/// Each account has a key of its own (its KEK), wrapped by a root key and kept in a store. Each sealed object has a key
/// of its own, wrapped by its account's KEK.
#[derive(Debug, Parser)]
#[command(name = "keystrata", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

impl Args {
    /// What was typed. Wrong usage ends the process with status 2; `--help` and `--version` with 0.
    pub(crate) fn of_command_line() -> Self {
        let matches = Self::command().get_matches();
        let args = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Self::command()).exit());
        // From the environment it is for other commands too, and no mistake.
        let is_typed = |id: &String| matches.value_source(id) == Some(ValueSource::CommandLine);
        if !args.command.uses_settings()
            && let Some(id) = SettingsArgs::ids().into_iter().find(is_typed)
        {
            let (command, flag) = (args.command.name(), id.replace('_', "-"));
            let message = format!("`keystrata {command}` uses no settings: leave out --{flag}");
            Self::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
        args
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Seal(SealArgs),
    Open(OpenArgs),
    Inspect(InspectArgs),
    Rewrap(RewrapArgs),
    Rekey(RekeyArgs),
    Account(AccountArgs),
    Reroot(RerootArgs),
    Root(RootArgs),
    Store(StoreArgs),
    Demo(DemoArgs),
    // Boxed: it has as many flags as all others together.
    Simulate(Box<SimulateArgs>),
    Observe(ObserveArgs),
    Completions(CompletionsArgs),
}

impl Command {
    /// What stands in front of an error.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Seal(_) => "seal",
            Self::Open(_) => "open",
            Self::Inspect(_) => "inspect",
            Self::Rewrap(_) => "rewrap",
            Self::Rekey(_) => "rekey",
            Self::Reroot(_) => "reroot",
            Self::Account(AccountArgs { command }) => match command {
                AccountCommand::List(_) => "account list",
                AccountCommand::Show(_) => "account show",
                AccountCommand::Create(_) => "account create",
                AccountCommand::Rotate(_) => "account rotate",
                AccountCommand::Enable(_) => "account enable",
                AccountCommand::OpenOnly(_) => "account open-only",
                AccountCommand::Disable(_) => "account disable",
                AccountCommand::MinVersion(_) => "account min-version",
                AccountCommand::DestroyVersion(_) => "account destroy-version",
                AccountCommand::Recover(_) => "account recover",
                AccountCommand::Shred(_) => "account shred",
            },
            Self::Root(RootArgs { command: RootCommand::Verify { .. } }) => "root verify",
            Self::Store(StoreArgs { command }) => match command {
                StoreCommand::Check(_) => "store check",
                StoreCommand::Copy(_) => "store copy",
                StoreCommand::Backup(_) => "store backup",
                StoreCommand::Migrate(_) => "store migrate",
            },
            Self::Demo(_) => "demo",
            Self::Simulate(_) => "simulate",
            Self::Observe(_) => "observe",
            Self::Completions(_) => "completions",
        }
    }

    /// Whether it looks at any store or root key.
    fn uses_settings(&self) -> bool {
        !matches!(self, Self::Inspect(_) | Self::Demo(_) | Self::Completions(_))
    }
}

/// Where keys are: a flag goes before its environment variable, and that before the settings file.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsArgs {
    /// Where the wrapped KEKs are kept: sqlite:PATH
    #[arg(long, global = true, value_name = "URI", env = "KEYSTRATA_STORE", hide_env_values = true)]
    pub(crate) store: Option<StoreLocation>,
    /// The root key that wraps them: local:PATH, aws-kms:…, vault-transit:… or gcp-kms:…. Repeat it for more, each of which wraps
    /// every KEK
    #[arg(long, global = true, value_name = "URI", env = "KEYSTRATA_ROOT")]
    pub(crate) root: Vec<RootLocation>,
    /// A root key that wrapped KEKs before: they still open, and nothing new is wrapped by it. Repeat it for more
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) former_root: Vec<RootLocation>,
    /// A root key for emergencies: it wraps every new KEK, and only `account recover` unwraps by it
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) recovery_root: Option<RootLocation>,
    /// Append what is done to accounts to this file, as lines of JSON. What cannot be recorded is not done
    #[arg(long, global = true, value_name = "FILE", env = "KEYSTRATA_AUDIT")]
    pub(crate) audit: Option<PathBuf>,
    /// How many calls a second this command may send to a root key in a KMS; required for one, ignored for local:PATH
    #[arg(long, global = true, value_name = "N", env = "KEYSTRATA_KMS_RATE")]
    pub(crate) kms_rate: Option<NonZeroU32>,
    /// How many of them it may send at once after a pause; required and ignored likewise
    #[arg(long, global = true, value_name = "N", env = "KEYSTRATA_KMS_BURST")]
    pub(crate) kms_burst: Option<NonZeroU32>,
    /// Settings file, instead of keystrata.toml in the current folder; paths in it start at its own folder
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl SettingsArgs {
    /// The flags, as clap calls them: they alone may be typed with any command.
    fn ids() -> Vec<String> {
        let command = Args::command();
        let settings = command.get_arguments().filter(|argument| argument.is_global_set());
        settings.map(|setting| setting.get_id().to_string()).collect()
    }
}

/// Make a root key, a KEK store and a settings file, so that the other commands need no flags
///
/// Without --store and --root the files are keystrata.db and keystrata.key next to the settings file. Nothing that exists
/// is ever overwritten: what is there is checked and kept, what is missing is made, and if nothing is missing the command
/// fails. A missing root key is not made for a store that already holds KEKs of another one. A root key in a KMS is tried out
/// with five calls, and not made; it needs --kms-rate and --kms-burst, which go into the settings file: your share of the
/// provider's quota, divided by the commands that run at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata init
  keystrata init --root local:/etc/keystrata/root.key --store sqlite:/var/lib/keystrata/keks.db
  keystrata init --root aws-kms:alias/keystrata --kms-rate 50 --kms-burst 10

With --json, keys: store {location, made}, root {location, id, made}, config {location, made}; for a root key in a KMS also
kms {rate, burst, calls, estimated_usd}, the last null where calls cost nothing.")]
pub(crate) struct InitArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Seal a file or stdin for an account
///
/// The account's KEK is made by the first seal. An envelope is binary and is not written to a terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata seal --account acme < card.txt > card.sealed
  keystrata seal --account acme --context table=cards --context row=42 card.txt --output card.sealed
  keystrata seal --account acme --account billing card.txt --output card.sealed   (a path of two segments)")]
pub(crate) struct SealArgs {
    #[command(flatten)]
    pub(crate) object: ObjectArgs,
    /// What to seal; - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// Write here instead of stdout: in one step when all went well, else whatever is there stays; - for stdout
    #[arg(long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub(crate) output: PathBuf,
}

/// Open an envelope from a file or stdin
///
/// Needs the account and exactly the context pairs it was sealed with. Nothing is written unless every byte is authentic.
/// A kill while --output is being written can leave a file .keystrata-*.tmp of mode 0600 beside it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata open --account acme < card.sealed
  keystrata open --account acme --context table=cards --context row=42 card.sealed --output card.txt")]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    pub(crate) object: ObjectArgs,
    /// The envelope; - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// Write here instead of stdout, with mode 0600: in one step when all went well, else whatever is there stays; - for
    /// stdout
    #[arg(long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub(crate) output: PathBuf,
}

/// What an envelope is bound to.
#[derive(Debug, clap::Args)]
pub(crate) struct ObjectArgs {
    /// Whose data it is; any text of 1 to 128 bytes. Give it again for each further segment of a path, outermost first
    #[arg(long = "account", value_name = "NAME", required = true)]
    account: Vec<String>,
    /// A pair the envelope is bound to: authenticated, not stored. Repeat it for more; order does not matter
    #[arg(long = "context", value_name = "NAME=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
}

impl ObjectArgs {
    /// The account's path.
    pub(crate) fn path(&self) -> Result<KeyPath> {
        Ok(KeyPath::new(&self.account)?)
    }

    /// The pairs, known to be valid.
    pub(crate) fn context(&self) -> Result<Context> {
        let context: Context = self.context.iter().map(|(name, value)| (name, value)).collect();
        context.encode()?;
        Ok(context)
    }
}

/// Everything before the first `=` is the name.
fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Show an envelope's header, without any key
///
/// What it shows is not authenticated: only opening tells whether the envelope is what it says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata inspect card.sealed
  keystrata inspect --json < card.sealed

With --json, keys: version, suite, suite_name, kek_id, envelope_bytes, plaintext_bytes, chunks.")]
pub(crate) struct InspectArgs {
    /// The envelope; - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Try out the root keys
#[derive(Debug, clap::Args)]
pub(crate) struct RootArgs {
    #[command(subcommand)]
    pub(crate) command: RootCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Try out every root key of the settings, former ones included, and not the recovery root
    ///
    /// Five calls to each: generates and wraps a key, unwraps both, and makes sure that another account's context opens neither.
    /// Says which permission is missing. Stores nothing.
    #[command(after_help = "\
Examples:
  keystrata root verify
  keystrata root verify --root aws-kms:alias/keystrata --kms-rate 50 --kms-burst 10

Exit status: 0 all of them work; 3 one does not.

With --json, keys: roots [{location, id, works, error, kms {calls, estimated_usd}}]; error is null for one that works, kms for
one in a file.")]
    Verify {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata completions bash > ~/.local/share/bash-completion/completions/keystrata
  keystrata completions fish > ~/.config/fish/completions/keystrata.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_setting_is_among_those_that_some_commands_do_not_use() {
        let all = ["store", "root", "former_root", "recovery_root", "audit", "kms_rate", "kms_burst", "config"];
        assert_eq!(SettingsArgs::ids(), all);
    }

    #[test]
    fn value_of_a_pair_may_be_empty_or_hold_the_separator() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("a").is_err());
    }
}
