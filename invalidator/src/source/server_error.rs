//! An error in the server's own words, and what a person can do about it.

use std::fmt;

/// ErrorResponse or NoticeResponse, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL, WARNING …, in English.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// The C function that raised it: unlike the message, the same in every language.
    pub routine: String,
}

impl ServerError {
    /// Reads the body of the message; fields that are missing or cut off stay empty.
    pub(super) fn read(body: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        for field in body.split(|&byte| byte == 0) {
            let Some((&kind, value)) = field.split_first() else { continue };
            let value = String::from_utf8_lossy(value).into_owned();
            match kind {
                b'S' if error.severity.is_empty() => error.severity = value,
                b'V' => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'R' => error.routine = value,
                _ => {}
            }
        }
        error
    }

    fn says(&self, text: &str) -> bool {
        self.message.contains(text)
    }

    /// Another process uses the slot.
    pub(super) fn is_slot_active(&self) -> bool {
        self.code == "55006"
    }

    /// There is no such slot.
    pub(super) fn is_slot_missing(&self) -> bool {
        self.code == "42704" && (self.routine == "ReplicationSlotAcquire" || self.says("replication slot"))
    }

    /// There is a slot of this name already.
    pub(super) fn is_slot_duplicate(&self) -> bool {
        self.code == "42710" && (self.routine == "ReplicationSlotCreate" || self.says("replication slot"))
    }

    /// The WAL that the slot needs is gone.
    pub(super) fn is_slot_lost(&self) -> bool {
        // Every major version words it anew; what they share is the place and that the detail tells why.
        const PLACES: [&str; 3] = ["StartLogicalReplication", "CreateDecodingContext", "ReplicationSlotAcquire"];
        match self.code.as_str() {
            "55000" => {
                self.detail.is_some() && PLACES.contains(&self.routine.as_str())
                    || self.says("can no longer")
                    || self.says("cannot read from logical replication slot")
            }
            "58P01" => self.says("already been removed"),
            _ => false,
        }
    }

    /// At this place in the WAL the publication does not exist.
    pub(super) fn is_publication_missing(&self) -> bool {
        match self.code.as_str() {
            "42704" => !self.is_slot_missing() && (self.routine == "get_publication_oid" || self.says("publication")),
            // Since PostgreSQL 18 a warning, behind which changes are left out.
            "55000" => self.routine == "LoadPublications" || self.says("skipped loading publication"),
            _ => false,
        }
    }

    /// Name, password or permission were refused.
    pub(super) fn is_authentication(&self) -> bool {
        matches!(self.code.as_str(), "28P01" | "28000" | "42501" | "3D000")
    }

    /// wal_level, or a server that cannot decode because it is a standby.
    fn is_decoding_requirement(&self) -> bool {
        matches!(self.code.as_str(), "55000" | "0A000")
            && (matches!(self.routine.as_str(), "CheckLogicalDecodingRequirements" | "CheckSlotRequirements")
                || self.says("wal_level")
                || self.says("max_replication_slots")
                || self.says("in recovery"))
    }

    fn is_out_of_senders(&self) -> bool {
        self.code == "53300" && (self.routine == "InitWalSenderSlot" || self.says("max_wal_senders"))
    }

    /// A setting of the server or of the role has to be changed.
    pub(super) fn is_configuration(&self) -> bool {
        self.is_decoding_requirement() || self.is_out_of_senders() || self.code == "53400"
    }

    /// The same again may succeed.
    pub(super) fn is_transient(&self) -> bool {
        let class = self.code.get(..2).unwrap_or_default();
        // Connection exceptions, insufficient resources, operator intervention; a dropped database does not come back.
        self.is_slot_active()
            || matches!(class, "08" | "53") && self.code != "53400"
            || class == "57" && self.code != "57P04"
            || matches!(self.code.as_str(), "40001" | "40P01" | "55P03" | "58030")
    }

    /// What a person can do about the errors that this daemon is known to meet.
    fn remedy(&self) -> Option<&'static str> {
        if self.is_publication_missing() {
            return Some(
                "the publication was dropped, or created after the slot: SELECT cachetag.attach(), then let the daemon replace the slot",
            );
        }
        if self.is_slot_lost() {
            return Some(
                "the slot's WAL is gone: drop the slot, the daemon makes a new one; raise max_slot_wal_keep_size",
            );
        }
        if self.is_decoding_requirement() {
            return Some(if self.says("wal_level") || self.says("max_replication_slots") {
                "set wal_level = logical, max_replication_slots and max_wal_senders above 0, and restart PostgreSQL"
            } else {
                "connect to the primary: this server is a standby"
            });
        }
        if self.is_out_of_senders() {
            return Some("raise max_wal_senders and restart PostgreSQL, or end a replication client that nobody needs");
        }
        Some(match self.code.as_str() {
            "28P01" => "check user and password",
            "28000" => {
                "check the user, and that pg_hba.conf has a line for this database (not for \"replication\"), user and address"
            }
            "53400" => {
                "raise max_replication_slots, or drop a slot that nobody uses (SELECT * FROM pg_replication_slots)"
            }
            "53300" => "raise max_connections, or end a client that nobody needs",
            "42501" => "give the role the REPLICATION attribute: ALTER ROLE … REPLICATION",
            "3D000" => "create the database, or correct its name",
            "55006" => "another daemon holds the slot; this one waits until it is free",
            "42710" => "another client has just created this slot; use it, or give this daemon a name of its own",
            "42704" if self.is_slot_missing() => "create the slot; the daemon does so when it starts",
            _ => return None,
        })
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        for more in [self.detail.as_deref(), self.hint.as_deref(), self.remedy()].into_iter().flatten() {
            write!(f, "; {more}")?;
        }
        Ok(())
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> ServerError {
        ServerError {
            severity: error.severity().into(),
            code: error.code().code().into(),
            message: error.message().into(),
            detail: error.detail().map(Into::into),
            hint: error.hint().map(Into::into),
            routine: error.routine().unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let body = b"SFEHLER\0VERROR\0C42704\0Mreplication slot \"x\" does not exist\0Dd\0Hh\0Fslot.c\0L1\0RReplicationSlotAcquire\0\0";
        let expected = ServerError {
            severity: "ERROR".into(),
            code: "42704".into(),
            message: "replication slot \"x\" does not exist".into(),
            detail: Some("d".into()),
            hint: Some("h".into()),
            routine: "ReplicationSlotAcquire".into(),
        };
        assert_eq!(ServerError::read(body), expected);
    }

    #[test]
    fn broken_fields_do_no_harm() {
        assert_eq!(ServerError::read(b""), ServerError::default());
        assert_eq!(ServerError::read(b"M\xFFcut").message, "\u{FFFD}cut");
    }

    fn error(code: &str, message: &str, detail: Option<&str>, routine: &str) -> ServerError {
        let detail = detail.map(Into::into);
        ServerError {
            code: code.into(),
            message: message.into(),
            detail,
            routine: routine.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_lost_slot_in_the_words_of_each_version() {
        for (message, detail) in [
            (
                "cannot read from logical replication slot \"s\"",
                Some("This slot has been invalidated because it exceeded the maximum reserved size."),
            ),
            ("can no longer get changes from replication slot \"s\"", Some("This slot has been invalidated …")),
            ("can no longer access replication slot \"s\"", Some("This replication slot has been invalidated …")),
        ] {
            assert!(error("55000", message, detail, "").is_slot_lost());
        }
        // In another language only the place tells.
        assert!(error("55000", "kann nicht lesen", Some("verfallen"), "StartLogicalReplication").is_slot_lost());
        assert!(!error("55000", "falsche Datenbank", None, "CreateDecodingContext").is_slot_lost());
    }

    #[test]
    fn missing_things_are_told_apart() {
        let slot = error("42704", "Slot fehlt", None, "ReplicationSlotAcquire");
        assert!(slot.is_slot_missing() && !slot.is_publication_missing() && !slot.is_configuration());
        let publication = error("42704", "publication \"p\" does not exist", None, "get_publication_oid");
        assert!(!publication.is_slot_missing() && publication.is_publication_missing());
        let skipped = error("55000", "skipped loading publication \"p\"", Some("…"), "LoadPublications");
        assert!(skipped.is_publication_missing() && !skipped.is_slot_lost());
    }
}
