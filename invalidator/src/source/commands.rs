//! What a walsender is told before it streams.

use bytes::Bytes;
use postgres_protocol::message::frontend;

use super::connection::ReplicationConnection;
use super::startup::unexpected;
use super::{Lsn, SourceError};

/// The first major version whose slots can be copied to standbys.
const OLDEST_WITH_FAILOVER_SLOTS: u32 = 17;

/// Answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Id of the cluster, the same for ever and on every standby.
    pub system_id: String,
    /// Timeline of its WAL: another one after each failover.
    pub timeline: u32,
    /// Its flush position.
    pub position: Lsn,
}

/// What START_REPLICATION asks for.
#[derive(Debug, Clone)]
pub struct StartOptions {
    slot: String,
    publication: String,
    from: Lsn,
    protocol: u32,
    streaming: bool,
}

impl StartOptions {
    /// Whole transactions of the publication `cachetag`, logical messages included, from where the slot stands.
    pub fn new(slot: &str) -> Self {
        StartOptions {
            slot: slot.into(),
            publication: "cachetag".into(),
            from: Lsn::ZERO,
            protocol: 1,
            streaming: false,
        }
    }

    /// Another publication.
    pub fn publication(mut self, name: &str) -> Self {
        self.publication = name.into();
        self
    }

    /// Leaves out commits that end at or before `lsn`. The server never goes back behind what the slot was told to forget.
    pub fn from(mut self, lsn: Lsn) -> Self {
        self.from = lsn;
        self
    }

    /// Large transactions before their commit (protocol version 2).
    pub fn streaming(mut self) -> Self {
        (self.protocol, self.streaming) = (2, true);
        self
    }

    fn command(&self) -> String {
        format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '{}', publication_names {}, messages 'true'{})",
            identifier(&self.slot),
            self.from,
            self.protocol,
            literal(&identifier(&self.publication)),
            if self.streaming { ", streaming 'on'" } else { "" },
        )
    }
}

/// A row of a result, every value as text.
type Row = Vec<Option<String>>;

impl ReplicationConnection {
    /// IDENTIFY_SYSTEM.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, SourceError> {
        let row = self.query_row("IDENTIFY_SYSTEM", "identifying the system").await?;
        Ok(SystemIdentity { system_id: field(&row, 0)?, timeline: field(&row, 1)?, position: field(&row, 2)? })
    }

    /// Creates a logical slot for pgoutput and waits for the transactions that are running, however long they take. Returns its
    /// consistent point: commits from there on are streamed.
    ///
    /// Create the publication first: a change that comes before it in the WAL could not be decoded. Where the server can, the slot is one that
    /// standbys with `sync_replication_slots` keep.
    pub async fn create_slot(&mut self, name: &str) -> Result<Lsn, SourceError> {
        // This syntax is that of version 10 and still understood by all; the list of options is that of 15.
        let options =
            if self.has_failover_slots() { "(SNAPSHOT 'nothing', FAILOVER true)" } else { "NOEXPORT_SNAPSHOT" };
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {options}", identifier(name));
        let row = self.query_row(&command, "creating the replication slot").await?;
        field(&row, 1)
    }

    /// Can standbys keep a copy of a slot, so that it is there after a promotion? Not those that are made on a standby itself.
    fn has_failover_slots(&self) -> bool {
        let version = self.parameter("server_version").unwrap_or_default();
        let major = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok());
        major.is_some_and(|major: u32| major >= OLDEST_WITH_FAILOVER_SLOTS)
            && self.parameter("in_hot_standby") != Some("on")
    }

    /// Drops a slot, once whoever uses it has let go.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), SourceError> {
        let command = format!("DROP_REPLICATION_SLOT {} WAIT", identifier(name));
        self.command(&command, "dropping the replication slot").await?;
        Ok(())
    }

    /// Runs plain SQL; a walsender of a database takes it. All rows of all results, in memory: for settings, not for data.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, SourceError> {
        self.command(sql, "running a query").await
    }

    /// Begins to stream: from now on, [`Self::ready`], [`Self::try_next_frame`] and [`Self::send_status`].
    pub async fn start_replication(&mut self, options: &StartOptions) -> Result<(), SourceError> {
        const DOING: &str = "starting replication";
        self.begin()?;
        let command = options.command();
        self.send(|out| frontend::query(&command, out)).await?;
        match self.receive(DOING).await {
            Ok(message) if message.tag == b'W' => {
                self.begin_stream();
                Ok(())
            }
            Ok(message) => Err(unexpected("the beginning of the stream", message.tag)),
            Err(error) => Err(self.after_error(error).await),
        }
    }

    async fn query_row(&mut self, command: &str, doing: &'static str) -> Result<Row, SourceError> {
        let rows = self.command(command, doing).await?;
        rows.into_iter().next().ok_or(SourceError::Protocol { expected: "a row", got: "none".into() })
    }

    /// Sends a simple query and collects its rows up to ReadyForQuery. Given up halfway, it leaves the connection busy.
    async fn command(&mut self, command: &str, doing: &'static str) -> Result<Vec<Row>, SourceError> {
        self.begin()?;
        self.send(|out| frontend::query(command, out)).await?;
        let mut rows = Vec::new();
        loop {
            match self.receive(doing).await {
                Ok(message) => match message.tag {
                    b'D' => rows.push(row(&message.body)?),
                    // RowDescription, CommandComplete, EmptyQueryResponse.
                    b'T' | b'C' | b'I' => {}
                    b'Z' => {
                        self.end();
                        return Ok(rows);
                    }
                    tag => return Err(unexpected("the answer to a command", tag)),
                },
                Err(error) => return Err(self.after_error(error).await),
            }
        }
    }

    /// After an error of the server comes ReadyForQuery, unless it was the last thing that it said.
    async fn after_error(&mut self, error: SourceError) -> SourceError {
        if error.server_error().is_some_and(|error| error.severity == "ERROR") {
            while let Ok(message) = self.receive("recovering from an error").await {
                if message.tag == b'Z' {
                    self.end();
                    break;
                }
            }
        }
        error
    }
}

/// A name for the replication grammar, which quotes as SQL does.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The values of a DataRow.
fn row(body: &Bytes) -> Result<Row, SourceError> {
    values(body).ok_or(SourceError::Protocol { expected: "a row", got: "a malformed one".into() })
}

fn values(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Row::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        // -1 is NULL.
        values.push(match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, tail) = rest.split_at_checked(length)?;
                rest = tail;
                Some(String::from_utf8_lossy(value).into_owned())
            }
            Err(_) => None,
        });
    }
    rest.is_empty().then_some(values)
}

/// A value of a row that has to be there.
fn field<T: std::str::FromStr>(row: &[Option<String>], index: usize) -> Result<T, SourceError> {
    let text = row.get(index).and_then(Option::as_deref).unwrap_or_default();
    text.parse().map_err(|_| SourceError::Protocol {
        expected: "a system id, a timeline or a position",
        got: format!("{text:?} in column {index}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(
            StartOptions::new("s\"lot").publication("o'p").from(Lsn(0x16_0000_00AB)).streaming().command(),
            "START_REPLICATION SLOT \"s\"\"lot\" LOGICAL 16/AB \
             (proto_version '2', publication_names '\"o''p\"', messages 'true', streaming 'on')"
        );
        assert_eq!(
            StartOptions::new("cachetag").command(),
            "START_REPLICATION SLOT \"cachetag\" LOGICAL 0/0 \
             (proto_version '1', publication_names '\"cachetag\"', messages 'true')"
        );
    }

    #[test]
    fn rows() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(values(b"\0\x03\0\0\0\x02ab\xFF\xFF\xFF\xFF\0\0\0\0"), Some(vec![text("ab"), None, text("")]));
        assert_eq!(values(b"\0\0"), Some(vec![]));
        for broken in [b"\0".as_slice(), b"\0\x01", b"\0\x01\0\0\0\x02a", b"\0\0x", b"\xFF\xFF\0\0\0\0"] {
            assert_eq!(values(broken), None);
        }
    }
}
