use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn breaker(options: BreakerOptions) -> Breaker {
    Breaker::with_rng(options, fastrand::Rng::with_seed(7))
}

fn open(breaker: &Breaker, now: Instant) -> Duration {
    while let Some(permit) = breaker.permit(now) {
        permit.failure(now);
    }
    match breaker.state() {
        BreakerState::Open { until } => until - now,
        state => panic!("{state:?}"),
    }
}

#[test]
fn a_share_of_failures_opens_it_but_not_before_the_minimum() {
    let options = BreakerOptions { window: 10, minimum: 6, failure_rate: 0.5, consecutive: 100, ..Default::default() };
    let (breaker, now) = (breaker(options), Instant::now());
    for n in 0..6 {
        assert_eq!(breaker.state(), BreakerState::Closed, "{n} calls");
        let permit = breaker.permit(now).unwrap();
        if n % 2 == 0 {
            permit.success()
        } else {
            permit.failure(now);
        }
    }
    assert!(matches!(breaker.state(), BreakerState::Open { .. }));
}

#[test]
fn old_calls_leave_the_window() {
    let options = BreakerOptions { window: 4, minimum: 4, failure_rate: 0.75, consecutive: 100, ..Default::default() };
    let (breaker, now) = (breaker(options), Instant::now());
    for n in 0..40 {
        let permit = breaker.permit(now).unwrap();
        if n % 2 == 0 {
            permit.success()
        } else {
            permit.failure(now);
        }
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn it_stays_open_longer_each_time_up_to_the_cap() {
    let backoff = Backoff { base: SECOND, cap: 5 * SECOND, jitter: 0.0 };
    let breaker = breaker(BreakerOptions { backoff, consecutive: 1, ..Default::default() });
    let mut now = Instant::now();
    for expected in [1, 2, 4, 5, 5] {
        let wait = open(&breaker, now);
        assert_eq!(wait, expected * SECOND);
        assert!(breaker.permit(now + wait - Duration::from_nanos(1)).is_none());
        now += wait;
    }
    // Closed for good, it begins anew.
    breaker.permit(now).unwrap().success();
    breaker.permit(now).unwrap().success();
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(open(&breaker, now), SECOND);
}

#[test]
fn what_an_earlier_phase_has_to_say_counts_no_more() {
    let breaker = breaker(BreakerOptions { consecutive: 1, successes: 1, ..Default::default() });
    let now = Instant::now();
    let (slow_success, slow_failure) = (breaker.permit(now).unwrap(), breaker.permit(now).unwrap());
    let later = now + open(&breaker, now);
    let probe = breaker.permit(later).unwrap();
    slow_success.success();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    probe.success();
    slow_failure.failure(later);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_dropped_probe_makes_room() {
    let breaker = breaker(BreakerOptions { consecutive: 1, ..Default::default() });
    let now = Instant::now();
    let later = now + open(&breaker, now);
    let probe = breaker.permit(later).unwrap();
    assert!(breaker.permit(later).is_none());
    drop(probe);
    assert!(breaker.permit(later).is_some());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
}

#[derive(Debug, Clone)]
enum Step {
    Ask,
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
    Drop(prop::sample::Index),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Ask),
        2 => any::<prop::sample::Index>().prop_map(Step::Succeed),
        2 => any::<prop::sample::Index>().prop_map(Step::Fail),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => (0u64..3000).prop_map(Step::Wait),
    ];
    vec(step, 0..300)
}

fn options() -> impl Strategy<Value = BreakerOptions> {
    (1usize..12, 1usize..8, 0.1..1.0, 1u32..6, 1u32..4, 1u32..4).prop_map(
        |(window, minimum, failure_rate, consecutive, probes, successes)| BreakerOptions {
            window,
            minimum,
            failure_rate,
            consecutive,
            probes,
            successes,
            backoff: Backoff { base: SECOND, cap: 4 * SECOND, jitter: 0.5 },
        },
    )
}

/// The rule told once more, over the whole history instead of in steps: what a permit of phase `round` reported.
#[derive(Default)]
struct History {
    round: u64,
    reports: Vec<bool>,
    under_way: usize,
}

proptest! {
    #[test]
    fn it_does_what_the_rule_says(options in options(), steps in steps()) {
        let breaker = breaker(options);
        let mut now = Instant::now();
        let mut permits: Vec<Permit> = Vec::new();
        let mut history = History::default();
        let mut opened = 0u32;
        for step in steps {
            let before = breaker.state();
            let mut reported = None;
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Ask => {
                    let permit = breaker.permit(now);
                    let after = breaker.state();
                    match (before, &permit) {
                        (BreakerState::Closed, _) => prop_assert!(permit.is_some()),
                        (BreakerState::Open { until }, None) => prop_assert!(now < until),
                        (BreakerState::Open { until }, Some(_)) => {
                            prop_assert!(now >= until);
                            prop_assert_eq!(after, BreakerState::HalfOpen);
                            history = History { round: history.round + 1, ..History::default() };
                        }
                        (BreakerState::HalfOpen, _) => {
                            prop_assert_eq!(permit.is_some(), history.under_way < options.probes as usize);
                        }
                    }
                    if let Some(permit) = permit {
                        prop_assert_eq!(permit.round, history.round);
                        history.under_way += 1;
                        permits.push(permit);
                    }
                }
                Step::Succeed(at) | Step::Fail(at) | Step::Drop(at) if permits.is_empty() => { let _ = at; }
                Step::Succeed(at) => reported = Some((permits.swap_remove(at.index(permits.len())), Some(false))),
                Step::Fail(at) => reported = Some((permits.swap_remove(at.index(permits.len())), Some(true))),
                Step::Drop(at) => reported = Some((permits.swap_remove(at.index(permits.len())), None)),
            }
            let Some((permit, report)) = reported else { continue };
            let current = permit.round == history.round;
            match report {
                Some(true) => { permit.failure(now); }
                Some(false) => permit.success(),
                None => drop(permit),
            }
            if current {
                history.under_way -= 1;
                history.reports.extend(report);
            }
            let news = current && report.is_some();
            let after = breaker.state();
            let expected_change = news && match before {
                BreakerState::Closed => {
                    let recent: Vec<bool> = history.reports.iter().rev().take(options.window).copied().collect();
                    let failures = recent.iter().filter(|failed| **failed).count();
                    let in_a_row = history.reports.iter().rev().take_while(|failed| **failed).count();
                    report == Some(true) && (in_a_row >= options.consecutive as usize
                        || recent.len() >= options.minimum && failures as f64 >= options.failure_rate * recent.len() as f64)
                }
                BreakerState::Open { .. } => false,
                BreakerState::HalfOpen => report == Some(true) || history.reports.len() >= options.successes as usize,
            };
            if !expected_change {
                prop_assert_eq!(after, before);
                continue;
            }
            history = History { round: history.round + 1, ..History::default() };
            if report == Some(true) {
                let BreakerState::Open { until } = after else { return Err(TestCaseError::fail("not open")) };
                let full = (SECOND * 2u32.pow(opened.min(8))).min(4 * SECOND);
                prop_assert!(until - now <= full && until - now >= full / 2);
                opened += 1;
            } else {
                prop_assert_eq!(after, BreakerState::Closed);
                opened = 0;
            }
        }
    }
}
