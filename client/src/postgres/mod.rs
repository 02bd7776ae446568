//! Helpers around tokio-postgres and deadpool.
//!
//! | to | use |
//! | --- | --- |
//! | query inside of a cache's loader | [`Load::query`](crate::Load::query) |
//! | run a query by itself, and know whether its result may be stored and under which tags | [`Loading`] |
//! | have the extension find the tags of unchanged queries | [`Load::capture`](crate::Load::capture), or by itself [`capture()`] |
//! | read one's own writes | [`commit_position`] |
//!
//! Nothing here retries: whether a read is worth another try is the application's business.

mod capture;
pub(crate) mod error;
mod load;
mod loading;
pub(crate) mod pipelined;
mod position;
mod tags;
pub(crate) mod trouble;

pub use capture::{Captured, capture};
pub use error::PostgresError;
pub use loading::{Loading, NotStorable, Rows};
pub use position::commit_position;
pub(crate) use position::{AFTER_ASYNCHRONOUS_COMMIT, AFTER_COMMIT};
pub use tags::TAGS_COLUMN;
