//! `cachetag status` and `cachetag check`: is the cache served, and if not, why and what to do. Both look at the two servers themselves:
//! a daemon that is stuck has nothing true to say of itself.
//!
//! [`gather`] asks the servers, [`findings`] judges what they said (pure), [`print`] shows it.

mod facts;
mod findings;
mod gather;
mod print;

use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Config, ConfigError, RunArgs, parse_duration};

pub use facts::{Answer, Asked, Facts, PostgresFacts, RedisFacts, SlotFacts, StateFacts, StreamFacts};
pub use findings::{Finding, Level, Verdict, findings, verdict};
pub use gather::gather;

/// Flags of `cachetag status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    common: Common,
}

/// Flags of `cachetag check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// How long each of the two servers may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2s")]
    timeout: Duration,
    /// A second daemon that waits for the first to go is meant to be there
    #[arg(long)]
    standby: bool,
    #[command(flatten)]
    servers: RunArgs,
}

impl Common {
    async fn ask(self) -> Result<(Facts, Vec<Finding>), ConfigError> {
        let config = Config::resolve(self.servers)?;
        let facts = gather(&config, self.timeout).await;
        let mut findings = findings(&facts);
        if self.standby {
            findings.retain(|finding| finding.check != findings::SECOND_DAEMON);
        }
        Ok((facts, findings))
    }
}

/// Prints what there is to know. Fails only when the configuration does: what is wrong is in the text.
///
/// # Errors
/// A configuration that cannot be used.
pub async fn status(args: StatusArgs) -> Result<ExitCode, ConfigError> {
    let (facts, findings) = args.common.ask().await?;
    let text = if args.json { print::json(&facts, &findings) } else { print::table(&facts, &findings) };
    print::out(&text);
    Ok(ExitCode::SUCCESS)
}

/// Prints a line for each problem, and tells by its exit code: 0 healthy, 1 not, 2 not known.
///
/// # Errors
/// A configuration that cannot be used.
pub async fn check(args: CheckArgs) -> Result<ExitCode, ConfigError> {
    let (_, findings) = args.common.ask().await?;
    print::out(&print::lines(&findings));
    Ok(ExitCode::from(verdict(&findings).code()))
}
