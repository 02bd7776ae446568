//! From an open stream to a session that takes commands, and the settings that the session gets.

use std::fmt::Write;

use cachetag_core::RENDER_SETTINGS;
use postgres_protocol::message::frontend;

use super::auth::Authentication;
use super::connection::ReplicationConnection;
use super::frames::LIMIT;
use super::{ConnectOptions, SourceError};

const DOING: &str = "connecting";

/// Whatever the role or the database are set to, these must not end a wait for a slot's consistent point, nor hide the warning that
/// changes are being left out.
const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("client_min_messages", "warning"),
];

/// `-c name=value` for each setting, behind the user's own: the last one wins.
pub(super) fn server_options<'a>(own: &str, settings: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> String {
    let mut options = own.trim().to_owned();
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        // Writing to a String cannot fail.
        let _ = write!(options, "{}-c {name}={value}", if options.is_empty() { "" } else { " " });
    }
    options
}

/// Sends the startup message, answers the server's questions, and waits until it is ready for a command.
pub(super) async fn run(connection: &mut ReplicationConnection, options: &ConnectOptions) -> Result<(), SourceError> {
    // Values are rendered under fixed settings, whatever the role's or the database's are.
    let settings = server_options(&options.server_options, RENDER_SETTINGS.iter().chain(SESSION_SETTINGS));
    let parameters = [
        ("user", options.user.as_str()),
        ("database", &options.database),
        ("replication", "database"),
        ("application_name", &options.application_name),
        ("client_encoding", "UTF8"),
        ("options", &settings),
    ];
    connection.send(|out| frontend::startup_message(parameters, out)).await?;

    let mut authentication = Authentication::new(options);
    loop {
        let message = connection.receive(DOING).await?;
        match message.tag {
            b'R' => {
                let done = authentication.answer(&message.body, connection.out())?;
                connection.flush().await?;
                if done {
                    break;
                }
            }
            tag => return Err(unexpected("a question for the password", tag)),
        }
    }
    connection.set_limit(LIMIT);
    loop {
        match connection.receive(DOING).await?.tag {
            b'K' => {}
            b'Z' => return Ok(()),
            tag => return Err(unexpected("the end of the startup", tag)),
        }
    }
}

/// A message that does not belong here.
pub(super) fn unexpected(expected: &'static str, tag: u8) -> SourceError {
    SourceError::Protocol { expected, got: format!("a message '{}'", tag.escape_ascii()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_escaped_and_come_last() {
        let options = server_options(" -c work_mem=1MB ", &[("a", "b c"), ("d", r"\")]);
        assert_eq!(options, r"-c work_mem=1MB -c a=b\ c -c d=\\");
        assert_eq!(server_options("", &[("a", "b")]), "-c a=b");
        assert!(server_options("", RENDER_SETTINGS).contains("-c extra_float_digits=1"));
    }
}
