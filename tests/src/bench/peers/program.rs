//! A peer's program, which answers a line of JSON to every command (`tests/peers/README.md`).

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::Stack;
use crate::template::profile_folder;

/// Installs what is missing and says how each peer is started.
const INSTALLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/peers.sh");
/// Filling a tag at full size takes minutes; an answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A peer, present or with the reason why not.
pub(super) struct Peer {
    /// What it is called, with its version once that is known.
    pub(super) name: String,
    /// What its program said that it can do.
    pub(super) hello: Value,
    state: Result<Program, String>,
}

struct Program {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    errors: PathBuf,
    /// Ends with this.
    _child: Child,
}

impl Peer {
    /// All peers, installed where they can be and started, each on a Redis database of its own.
    pub(super) async fn start_all(stack: &Stack) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (database, (name, command)) in (1..).zip(installed()) {
            let mut peer = Peer { name: name.clone(), hello: Value::Null, state: Err(String::new()) };
            match command.and_then(|command| Program::start(stack, &name, &command, database)) {
                Ok(program) => peer.state = Ok(program),
                Err(why) => peer.state = Err(format!("not installed: {why}")),
            }
            if let Some(hello) = peer.answer().await {
                peer.name = format!("{name} {}", hello["version"].as_str().unwrap_or_default());
                peer.hello = hello;
            }
            peers.push(peer);
        }
        peers
    }

    /// Sends a command; no answer once something has gone wrong.
    pub(super) async fn ask(&mut self, command: &str) -> Option<Value> {
        let program = self.state.as_mut().ok()?;
        if let Err(error) = program.input.write_all(format!("{command}\n").as_bytes()).await {
            self.state = Err(format!("failed: {error}"));
        }
        self.answer().await
    }

    /// Why there are no (more) answers.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.state.as_ref().err().map(String::as_str)
    }

    /// A list in what the program said that it can do.
    pub(super) fn can(&self, what: &str) -> Vec<String> {
        let list = self.hello[what].as_array().into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    }

    async fn answer(&mut self) -> Option<Value> {
        match self.state.as_mut().ok()?.answer().await {
            Ok(value) => Some(value),
            Err(why) => {
                self.state = Err(format!("failed: {why}"));
                None
            }
        }
    }
}

impl Program {
    fn start(stack: &Stack, name: &str, command: &[String], database: u32) -> Result<Program, String> {
        let errors = stack.folder().join(format!("{name}.err"));
        let log = File::create(&errors).map_err(|error| error.to_string())?;
        let (program, arguments) = command.split_first().ok_or("no command")?;
        let (postgres, redis) = (stack.postgres_url(), stack.redis_url());
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .args([&postgres, &format!("{redis}/{database}"), &redis])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let (input, output) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        Ok(Program { input, output: BufReader::new(output).lines(), errors, _child: child })
    }

    async fn answer(&mut self) -> Result<Value, String> {
        match timeout(PATIENCE, self.output.next_line()).await {
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(Some(line))) => serde_json::from_str(&line).map_err(|error| format!("{error}: {line}")),
            Ok(Ok(None)) => {
                let log = std::fs::read_to_string(&self.errors).unwrap_or_default();
                let last = log.lines().rev().find(|line| line.contains("Error")).or(log.lines().last());
                Err(last.unwrap_or("it ended").trim().to_owned())
            }
        }
    }
}

/// The peers by name, with the command that starts each or why there is none.
fn installed() -> Vec<(String, Result<Vec<String>, String>)> {
    let folder = profile_folder();
    let target = folder.parent().unwrap_or(&folder);
    let output = Command::new(INSTALLER).env("CARGO_TARGET_DIR", target).stderr(Stdio::inherit()).output();
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().filter_map(parse).collect(),
        Err(error) => vec![("peers".to_owned(), Err(format!("{INSTALLER}: {error}")))],
    }
}

/// A line of the installer.
fn parse(line: &str) -> Option<(String, Result<Vec<String>, String>)> {
    let mut fields = line.split('\t').map(str::to_owned);
    let (name, state) = (fields.next()?, fields.next()?);
    match state.as_str() {
        "ready" => Some((name, Ok(fields.collect()))),
        "absent" => Some((name, Err(fields.next().unwrap_or_default()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_installer_are_read() {
        let ready = Some(("a".to_owned(), Ok(vec!["node".to_owned(), "/x y/main.mjs".to_owned()])));
        assert_eq!(parse("a\tready\tnode\t/x y/main.mjs"), ready);
        assert_eq!(parse("b\tabsent\tnpm is missing"), Some(("b".to_owned(), Err("npm is missing".to_owned()))));
        assert_eq!(parse("noise"), None);
    }
}
