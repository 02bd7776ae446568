//! The daemon frozen, killed, replaced by a second one that was waiting, and beside one.

use cachetag_tests::fault::{DaemonFault, Fault};

use crate::trial::{Trial, WHILE};

#[tokio::test]
async fn every_fault_of_the_daemon() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    for &fault in DaemonFault::ALL {
        trial.suffers(Fault::Daemon(fault), WHILE).await;
        assert_eq!(trial.epoch().await, epoch, "{fault:?}: a daemon that comes back is no discontinuity");
    }
    trial.finish().await;
}
