//! `keystrata account …` for the states of KEKs, and what gives them up.

use std::time::Duration;

use keystrata_hierarchy::{KekVersion, RewrapScan};

/// One account, and one version of its KEK if not all are meant.
#[derive(Debug, clap::Args)]
pub(crate) struct StateArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    /// Only this version of its KEK
    #[arg(long, value_name = "N", value_parser = version)]
    pub(crate) version: Option<KekVersion>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Let no version below one open any more, for ever
///
/// The floor is raised and never lowered: what is still sealed under older versions is given up, also if their records come back
/// from a backup. Rewrap or rekey first what is to be kept. The versions stay in the store; `account destroy-version` takes their
/// secrets away. Has to be confirmed by the account's name. Needs no root key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata account min-version acme --version 3 --dry-run
  keystrata account min-version acme --version 3

With --json, keys: account [segments], dry_run, min_version, changed, given_up [versions] (those that opened until now).")]
pub(crate) struct MinVersionArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    /// The lowest version that opens from now on, at most that of the primary
    #[arg(long, value_name = "N", value_parser = version)]
    pub(crate) version: KekVersion,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Destroy one version of an account's KEK for ever, after everything under it was rewrapped
///
/// What is still sealed under it is lost. Refused for the primary; while it wraps KEKs of other accounts; until every process has
/// had to see that it is not the primary any more, which is 11 minutes after the rotation with the default TTL; and if the
/// rewrapping began before that. Has to be confirmed by the account's name. Needs no root key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keystrata account destroy-version acme --version 1 --dry-run
  keystrata account destroy-version acme --version 1 --rewrap-began 2026-01-31T23:59:59Z

A dry run shows what would be destroyed, and not whether it is refused.

With --json, keys: account [segments], dry_run, version, kek_id, changed.")]
pub(crate) struct DestroyArgs {
    /// The account; further segments of a path follow, outermost first
    #[arg(value_name = "NAME", required = true)]
    pub(crate) account: Vec<String>,
    /// The version to destroy
    #[arg(long, value_name = "N", value_parser = version)]
    pub(crate) version: KekVersion,
    /// When the rewrapping of everything that the account sealed began, as the first `keystrata rewrap` printed it: UTC, or
    /// seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = scan, required_unless_present = "dry_run")]
    pub(crate) rewrap_began: Option<RewrapScan>,
    /// The longest time for which any process keeps a KEK or a stream: TTL and use beyond it together
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(crate) longest_ttl: Duration,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How what cannot be undone is tried out and confirmed.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfirmArgs {
    /// Change nothing, and tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The account's name as `account list` shows it, instead of typing it at the terminal
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) yes_i_mean: Option<String>,
}

fn version(text: &str) -> Result<KekVersion, &'static str> {
    text.parse().ok().and_then(KekVersion::new).ok_or("expected the number of a version, from 1 on")
}

/// `90d`, `12h`, `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}, as in 90d, 12h or 30m"))
}

fn scan(text: &str) -> Result<RewrapScan, String> {
    let seconds = text.parse::<u64>().ok().or_else(|| {
        let time = humantime::parse_rfc3339(text).ok()?;
        time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
    });
    let started_at = seconds.ok_or("expected a time as in 2026-01-31T23:59:59Z, or seconds since 1970")?;
    Ok(RewrapScan { started_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_printed() {
        for (text, seconds) in [("0", 0), ("1769903999", 1_769_903_999), ("2026-01-31T23:59:59Z", 1_769_903_999)] {
            assert_eq!(scan(text), Ok(RewrapScan { started_at: seconds }), "{text}");
        }
        assert_eq!(scan(&crate::utc::Utc(1_769_903_999).to_string()), scan("1769903999"));
        for text in ["", "-1", "yesterday", "2026-01-31", "1960-01-01T00:00:00Z"] {
            assert!(scan(text).is_err(), "{text}");
        }
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for text in ["", "90", "-1d", "d", "1 fortnight"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
