//! Tags that a query gives beside its rows.

use std::collections::BTreeSet;

use cachetag_core::Tag;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresError;

/// The name of the column from which tags are taken: `cachetag.tag_agg(…) AS cachetag_tags`.
pub const TAGS_COLUMN: &str = "cachetag_tags";

/// The tags in that column of all rows; none if there is no such column.
pub(super) fn tags_of(rows: &[Row]) -> Result<BTreeSet<Tag>, PostgresError> {
    let mut tags = BTreeSet::new();
    let Some(column) = rows.first().and_then(|row| row.columns().iter().position(|c| c.name() == TAGS_COLUMN)) else {
        return Ok(tags);
    };
    for row in rows {
        let texts: Vec<Option<&str>> = match row.columns()[column].type_() {
            &Type::TEXT | &Type::VARCHAR => vec![row.try_get(column).map_err(PostgresError::Query)?],
            &Type::TEXT_ARRAY | &Type::VARCHAR_ARRAY => {
                let array: Option<Vec<Option<&str>>> = row.try_get(column).map_err(PostgresError::Query)?;
                array.unwrap_or_default()
            }
            other => return Err(PostgresError::TagsColumn { found: other.name().to_owned() }),
        };
        for text in texts.into_iter().flatten() {
            tags.insert(Tag::parse(text).map_err(|source| PostgresError::Tag { source })?);
        }
    }
    Ok(tags)
}
