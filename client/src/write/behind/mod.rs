//! Write behind: operations go into a durable Redis stream and from there, in order, into PostgreSQL.
//!
//! What is promised, once [`WriteBehind::enqueue`] has returned an acknowledgement:
//!
//! - **Not lost** by `kill -9` of any process of the application, enqueuing or applying, nor by a restart of PostgreSQL. What a restart or a loss of
//!   Redis may cost is Redis's own durability; [`Acks`] says what an acknowledgement waits for:
//!
//!   | Redis | [`Acks`] | an acknowledged operation survives |
//!   | --- | --- | --- |
//!   | no AOF | `Server` | as long as the Redis process does |
//!   | `appendfsync everysec` | `Server` | a crash of Redis; of its machine, except the last second or two |
//!   | `appendfsync always` | `Server` | a crash of its machine (Redis answers after the fsync) |
//!   | any | `Replicas` | the loss of the primary, if a replica that has it is promoted |
//!   | Redis ≥ 7.2, AOF on | `Disk` | a crash of the machine, whatever `appendfsync` says; with replicas, of theirs too |
//!
//! - **Exactly once.** The idempotency key of an operation is written to the table `cachetag_applied` in the same transaction. A key that is there
//!   already is skipped, whether the operation was delivered again or enqueued again; keys are forgotten after [`WorkerBuilder::remember`].
//! - **In order.** Operations of one queue are applied in the order in which they are in the stream, by one worker at a time: it holds an advisory lock
//!   in the session that commits, so another takes over only when that session can commit no more. What went to the dead letters is left out.
//!   Where one worker is not enough, use several queues and choose by what must stay in order.
//! - **Bounded.** A queue that is full refuses ([`EnqueueError::Full`]); when the dead letters are as many as they may be, the worker waits.
//!
//! A transient error (conflict, deadlock, out of space) is tried again with back-off; while PostgreSQL is away the queue waits. A permanent one, or one
//! that stays, sends the operation with its error to the dead letters, alone: the batch that it was in is split. See [`WriteBehind::dead_letters`].
//!
//! A read is not a write behind: until the worker has applied an operation, nobody sees it.

mod dead;
mod entry;
mod error;
mod operation;
mod queue;
mod script;

#[cfg(feature = "postgres")]
mod applied;
#[cfg(feature = "postgres")]
mod batch;
#[cfg(feature = "postgres")]
mod session;
#[cfg(feature = "postgres")]
mod stream;
#[cfg(feature = "postgres")]
mod worker;

#[cfg(feature = "postgres")]
pub use applied::APPLIED_TABLE;
pub use dead::DeadLetter;
pub use error::{EnqueueError, OpenError};
pub use operation::{Operation, What};
pub use queue::{Acks, Builder, WriteBehind};
#[cfg(feature = "postgres")]
pub use worker::{Numbers, Worker, WorkerBuilder, WorkerError};
