//! Faults of the daemon.

use std::fmt;

use super::Undo;
use crate::daemon::{Daemon, DaemonOptions};
use crate::stack::Stack;

/// A fault of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonFault {
    /// SIGSTOP, later SIGCONT.
    Frozen,
    /// SIGKILL; it is started again at the end.
    Killed,
    /// SIGKILL while a second one waits for its place; the first comes back at the end.
    Replaced,
    /// A second one for the same slot and the same Redis, ended at the end.
    Second,
}

impl DaemonFault {
    /// All of them.
    pub const ALL: &[DaemonFault] =
        &[DaemonFault::Frozen, DaemonFault::Killed, DaemonFault::Replaced, DaemonFault::Second];

    pub(super) async fn inject(self, stack: &mut Stack) -> Undo {
        let mut other = None;
        match self {
            DaemonFault::Frozen => stack.daemon().pause(),
            DaemonFault::Killed => stack.daemon().kill9().await,
            DaemonFault::Replaced => {
                other = Some(second(stack));
                stack.daemon().kill9().await;
            }
            DaemonFault::Second => other = Some(second(stack)),
        }
        Undo::Daemon(self, other.map(Box::new))
    }

    pub(super) async fn end(self, other: Option<Daemon>, stack: &mut Stack) {
        match self {
            DaemonFault::Frozen => stack.daemon().resume(),
            DaemonFault::Killed | DaemonFault::Replaced => stack.daemon().start_again(),
            DaemonFault::Second => {}
        }
        if let Some(mut other) = other {
            other.kill9().await;
        }
    }
}

/// Told the same as the first, whatever that is.
fn second(stack: &mut Stack) -> Daemon {
    let options: DaemonOptions = stack.daemon().options().clone();
    stack.another_daemon(&stack.folder().join("second-daemon.log"), options)
}

impl fmt::Display for DaemonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DaemonFault::Frozen => "frozen",
            DaemonFault::Killed => "killed",
            DaemonFault::Replaced => "replaced",
            DaemonFault::Second => "second",
        })
    }
}
