//! Authentication: trust, cleartext, MD5 and SCRAM-SHA-256.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::SourceError;
use super::connection::ReplicationConnection;

/// Answers the server's questions until it is content.
pub(super) async fn authenticate(connection: &mut ReplicationConnection, password: Option<&[u8]>) -> Result<(), SourceError> {
    let server = connection.server().to_string();
    let problem = |problem: &str| SourceError::Authentication { server: server.clone(), problem: problem.into() };
    let password = || {
        password.ok_or_else(|| problem("the server asks for a password; put it into the URL or into PGPASSWORD"))
    };
    loop {
        match connection.message("authenticating").await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = password()?;
                connection.write(|out| frontend::password_message(password, out)).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(connection.user().as_bytes(), password()?, body.salt());
                connection.write(|out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            Message::AuthenticationSasl(body) => {
                let mut mechanisms = body.mechanisms();
                let mut known = false;
                while let Some(mechanism) = mechanisms.next().map_err(|_| problem("its list of mechanisms is malformed"))? {
                    known |= mechanism == SCRAM_SHA_256;
                }
                if !known {
                    return Err(problem("it offers no mechanism that is known here (SCRAM-SHA-256)"));
                }
                scram(connection, password()?).await?;
            }
            other => {
                let kind = kind(&other);
                return Err(problem(&format!("it asks for {kind}, which is not supported; use scram-sha-256 in pg_hba.conf")));
            }
        }
    }
}

async fn scram(connection: &mut ReplicationConnection, password: &[u8]) -> Result<(), SourceError> {
    let server = connection.server().to_string();
    let failed = |e: std::io::Error| SourceError::Authentication { server: server.clone(), problem: format!("SCRAM: {e}") };
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    connection.write(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
    match connection.message("authenticating").await? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(failed)?,
        other => return Err(SourceError::Protocol { expected: "SASL continue", got: kind(&other) }),
    }
    connection.write(|out| frontend::sasl_response(scram.message(), out)).await?;
    match connection.message("authenticating").await? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(failed),
        other => Err(SourceError::Protocol { expected: "SASL final", got: kind(&other) }),
    }
}

/// Names a message for an error text.
pub(super) fn kind(message: &Message) -> String {
    match message {
        Message::AuthenticationGss | Message::AuthenticationGssContinue(_) | Message::AuthenticationSspi => "GSSAPI".into(),
        Message::AuthenticationKerberosV5 => "Kerberos".into(),
        Message::ReadyForQuery(_) => "ReadyForQuery".into(),
        Message::DataRow(_) => "a row".into(),
        Message::CommandComplete(_) => "CommandComplete".into(),
        Message::RowDescription(_) => "RowDescription".into(),
        Message::CopyDone => "CopyDone".into(),
        _ => "another message".into(),
    }
}
