//! `cachetag`: the daemon and its command line.

use std::process::ExitCode;

use cachetag_invalidator::audit::{self, AuditArgs};
use cachetag_invalidator::broken;
use cachetag_invalidator::config::{Config, ConfigError, LogFormat, RunArgs};
use cachetag_invalidator::dev::{self, DaemonTarget, DevArgs, stop_signal};
use cachetag_invalidator::run;
use cachetag_invalidator::status::{self, CheckArgs, StatusArgs, Verdict};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Says so when this program is one that is broken on purpose.
const VERSION: &str = if broken::NOTICE.is_empty() {
    env!("CARGO_PKG_VERSION")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " BROKEN ON PURPOSE, for tests only")
};

/// Keeps caches in front of PostgreSQL honest: every commit becomes version bumps and tag invalidations in Redis.
#[derive(Parser)]
#[command(name = "cachetag", version = VERSION, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Follow PostgreSQL and invalidate in Redis, until told to stop
    Run(Box<RunArgs>),
    /// Show what PostgreSQL and Redis say of the cache, what is wrong and what to do about it
    Status(Box<StatusArgs>),
    /// Tell by the exit code whether the cache is served: 0 healthy, 1 not, 2 cannot be told; a line for each problem
    Check(Box<CheckArgs>),
    /// Start a private PostgreSQL and a private Redis in a folder with the daemon beside them, until told to stop
    Dev(Box<DevArgs>),
    /// Compare entries of the live cache with the database, by the recipes registered there
    Audit(Box<AuditArgs>),
}

/// What ends the program before its time.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The program.
pub fn main() -> ExitCode {
    // One thread: everything that the daemon does waits for a socket, and children are bound to the thread that starts them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cachetag: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match Cli::parse().command {
        Command::Run(args) => runtime.block_on(run_daemon(*args)).map(|()| ExitCode::SUCCESS),
        Command::Dev(args) => runtime.block_on(run_dev(*args)).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => return told(runtime.block_on(status::status(*args))),
        Command::Check(args) => return told(runtime.block_on(status::check(*args))),
        Command::Audit(args) => return runtime.block_on(audit::main(*args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cachetag: {error}");
        ExitCode::FAILURE
    })
}

/// Whoever cannot even ask, cannot tell.
fn told(result: Result<ExitCode, ConfigError>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("cachetag: {error}");
        ExitCode::from(Verdict::Undetermined.code())
    })
}

async fn run_daemon(args: RunArgs) -> Result<(), Failure> {
    let print = args.print_config;
    let config = Config::resolve(args)?;
    if print {
        print!("{}", config.to_toml());
        return Ok(());
    }
    start_log(&config.log, config.log_format)?;
    run::run(&config, stop_signal()?).await?;
    Ok(())
}

async fn run_dev(args: DevArgs) -> Result<(), Failure> {
    let filter = std::env::var("CACHETAG_LOG").unwrap_or_else(|_| "warn,cachetag_invalidator=info".into());
    start_log(&filter, LogFormat::Text)?;
    let stop = stop_signal()?;
    let daemon = |target: DaemonTarget| async move {
        let config = Config::resolve(RunArgs {
            postgres: Some(target.postgres_url),
            redis: Some(target.redis_url),
            max_lag: Some(target.max_lag),
            ..RunArgs::default()
        })?;
        let stop = async move {
            // Told to stop or left alone: either way the end.
            let _ = target.stop.await;
        };
        run::run(&config, stop).await?;
        Ok::<(), Failure>(())
    };
    dev::run(args, daemon, stop).await?;
    Ok(())
}

fn start_log(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("log filter {filter:?}: {e}; try info or debug"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    }
}
