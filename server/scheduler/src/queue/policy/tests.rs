//! Weights, lanes, tags and orders, one rule a test.

use super::*;
use crate::testing::stage;

fn order(policy: Policy) -> Order {
    Order { policy, decay: 2 }
}

fn weight(priority: i32, size_us: u64) -> u64 {
    order(Policy::Stride).weight(&PolicyInput {
        priority,
        size_us,
        ..PolicyInput::default()
    })
}

#[test]
fn policy_names_parse_as_displayed() {
    for policy in Policy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert!("lottery".parse::<Policy>().is_err());
}

#[test]
fn ten_priority_points_double_weight() {
    for priority in [-100, -33, 0, 7, 90] {
        let ratio = weight(priority + 10, 0) as f64 / weight(priority, 0) as f64;
        assert!((ratio - 2.0).abs() < 0.01, "{priority}: {ratio}");
    }
    let weights: Vec<_> = (-100..=100).map(|priority| weight(priority, 0)).collect();
    assert!(weights.is_sorted_by(|less, more| less < more));
}

#[test]
fn weight_falls_quadratically_to_floor() {
    assert_eq!(weight(0, SHORT_US), UNIT);
    assert_eq!(weight(0, 2 * SHORT_US), UNIT / 4);
    assert_eq!(weight(0, u64::MAX), UNIT / LEAST_PART);
    let fair = PolicyInput {
        size_us: u64::MAX,
        ..PolicyInput::default()
    };
    assert_eq!(order(Policy::Fair).weight(&fair), UNIT);
}

#[test]
fn decay_is_power_of_size() {
    for decay in 0..=4 {
        let weight = |size_us| {
            let order = Order {
                policy: Policy::Stride,
                decay,
            };
            order.weight(&PolicyInput {
                size_us,
                ..PolicyInput::default()
            })
        };
        assert_eq!(weight(SHORT_US), UNIT);
        assert_eq!(weight(2 * SHORT_US), UNIT >> decay);
        let least = if decay == 0 { UNIT } else { UNIT / LEAST_PART };
        assert_eq!(weight(u64::MAX), least);
        let weights: Vec<_> = (0..60).map(|power| weight(1 << power)).collect();
        assert!(weights.is_sorted_by(|small, large| small >= large));
    }
}

#[test]
fn lane_does_not_depend_on_decay() {
    for size_us in [SHORT_US, SHORT_LANE_US * 2, MEDIUM_LANE_US * 2] {
        for priority in [-20, 0, 20] {
            let input = PolicyInput {
                priority,
                size_us,
                ..PolicyInput::default()
            };
            let lane = |decay| {
                let policy = Policy::Stride;
                Order { policy, decay }.lane(&input)
            };
            assert!((0..=4).all(|decay| lane(decay) == lane(2)));
        }
    }
}

#[test]
fn lanes_follow_size_and_priority() {
    let lane = |policy: Policy, priority, size_us| {
        order(policy).lane(&PolicyInput {
            priority,
            size_us,
            ..PolicyInput::default()
        })
    };
    let stride = |priority, size_us| lane(Policy::Stride, priority, size_us);
    assert_eq!(stride(0, SHORT_LANE_US), Lane::Short);
    assert_eq!(stride(0, SHORT_LANE_US * 2), Lane::Medium);
    assert_eq!(stride(0, MEDIUM_LANE_US * 2), Lane::Long);
    assert_eq!(
        stride(20, SHORT_LANE_US * 2),
        Lane::Short,
        "four times the weight, half the size"
    );
    assert_eq!(stride(-20, SHORT_LANE_US), Lane::Medium);
    for policy in [Policy::Fair, Policy::Fifo] {
        assert_eq!(lane(policy, -100, u64::MAX), Lane::Short);
    }
}

#[test]
fn tags_order_queries_by_policy() {
    let small = PolicyInput {
        next_us: 1_000,
        ..PolicyInput::default()
    };
    let large = PolicyInput {
        size_us: 1_000_000,
        ..small
    };
    assert!(order(Policy::Stride).tag(&small) < order(Policy::Stride).tag(&large));
    assert_eq!(order(Policy::Fair).tag(&small), order(Policy::Fair).tag(&large));
    let charged = PolicyInput { pass: 1, ..small };
    assert!(order(Policy::Fair).tag(&small) < order(Policy::Fair).tag(&charged));
    assert_eq!(order(Policy::Fifo).tag(&small), order(Policy::Fifo).tag(&large));
    let preferred = PolicyInput { priority: 1, ..large };
    for policy in Policy::ALL {
        let tag = |input| order(policy).tag(input);
        assert!(tag(&preferred) < tag(&large), "{policy}");
    }
}

#[test]
fn longest_critical_path_comes_first() {
    let mut stages = vec![stage(0, &[], 1), stage(1, &[], 9), stage(2, &[0, 1], 1)];
    let paths = critical_paths(&stages, &[vec![2], vec![2], vec![]]);
    assert_eq!(paths, [2, 10, 1]);
    stages[0].tasks[0].bytes = 20 << 20;
    let paths = critical_paths(&stages, &[vec![2], vec![2], vec![]]);
    let ready = (0..2).map(|stage| (Reverse(paths[stage]), stage)).collect();
    assert_eq!(next_stage(&ready), Some(0));
    assert_eq!(next_stage(&BTreeSet::new()), None);
}

#[test]
fn larger_tasks_come_first() {
    let tasks = [5, 9, 5].map(|bytes| TaskSpec {
        bytes,
        ..TaskSpec::default()
    });
    let mut order = order_tasks_reversed(&tasks);
    order.reverse();
    assert_eq!(order, [1, 0, 2]);
}
