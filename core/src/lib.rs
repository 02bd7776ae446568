//! The words that all parts of cachetag share: tags, templates, predicates, versions, messages. No I/O, no dependencies on a server.
//!
//! What a query computes and what the daemon computes must be the same bytes; this crate is the one place where those bytes are defined.
//! Other languages have the test vectors in `vectors/`.
//!
//! ```
//! use cachetag_core::{Rendered, Tag, Template};
//!
//! let template = Template::parse("product:{id}")?;
//! let rendered = template.render(|column| (column == "id").then_some(b"42".as_slice()));
//! assert_eq!(rendered, Rendered::Tag(Tag::parse("product:42").unwrap()));
//! # Ok::<(), cachetag_core::TemplateError>(())
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod key_template;
pub mod message;
pub mod plpgsql;
pub mod predicate;
pub mod settings;
pub mod tag;
pub mod template;
pub mod version;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;

pub use key_template::{KeyTemplate, KeyTemplateError, KeyTemplateReason};
pub use message::{InvalidationMessage, MESSAGE_PREFIX, MessageError};
pub use predicate::{BoundPredicate, Predicate, PredicateError, PredicateReason, Value};
pub use settings::RENDER_SETTINGS;
pub use tag::{Tag, TagError, TagReason, decode_part, encode_part, encode_part_bytes};
pub use template::{BoundTemplate, RenderOutcome, Rendered, Template, TemplateError, TemplateReason, UnknownColumn};
pub use version::{Epoch, Lsn, Version, VersionError};
