//! The rows that the optimizer expected of joins and groups, beside those that were found.
//!
//! A worker tells of its operators by their texts alone. What they join and group by is read from there, and found in the
//! list that the optimizer made; where two of a query have equal keys and different numbers, none is shown.

use squadron_proto::control::OperatorMetrics;

use super::numbers::count;
use crate::planner::optimizer::Expected;

/// An estimate is told of when it is wrong by this factor.
const TOLD: f64 = 2.0;

/// The rows that were expected of an operator.
pub(super) fn rows_expected(expected: &[Expected], operator: &str) -> Option<u64> {
    let what = join(operator).or_else(|| groups(operator))?;
    let mut found = expected.iter().filter(|expected| expected.what == what);
    let rows = found.next()?.rows;
    found.all(|other| other.rows == rows).then_some(rows)
}

/// A line about the estimate that was wrong by the largest factor, if there is one worth telling.
pub(super) fn worst_estimate<'a>(
    expected: &[Expected],
    operators: impl IntoIterator<Item = &'a OperatorMetrics>,
) -> Option<String> {
    let estimates = operators
        .into_iter()
        .filter_map(|operator| Some((operator, rows_expected(expected, &operator.operator)?)));
    let (operator, rows) = estimates.max_by(|one, other| factor(*one).total_cmp(&factor(*other)))?;
    let wrong = factor((operator, rows));
    let what = join(&operator.operator).or_else(|| groups(&operator.operator))?;
    (wrong >= TOLD).then(|| {
        let (rows, found) = (count(rows), count(operator.rows));
        format!("worst estimate: {rows} rows expected of {what}, {found} found, {wrong:.0} times off")
    })
}

/// By how much an estimate is off, whether too high or too low.
fn factor((operator, expected): (&OperatorMetrics, u64)) -> f64 {
    let (found, expected) = (operator.rows.max(1) as f64, expected.max(1) as f64);
    (found / expected).max(expected / found)
}

/// What a join is called, from `HashJoinExec: mode=..., join_type=Inner, on=[(a@0, b@1)], ...`.
fn join(operator: &str) -> Option<String> {
    let kind = between(operator, "join_type=", ",")?;
    let on = between(operator, "on=[(", ")]")?;
    let pairs = on.split("), (").map(|pair| {
        let (left, right) = pair.split_once(", ")?;
        Some((column(left)?, column(right)?))
    });
    Some(Expected::join(kind, pairs.collect::<Option<Vec<_>>>()?))
}

/// What groups are called, from `AggregateExec: mode=Final, gby=[a@0 as a, b@1 as b], aggr=[...]`. There may be more partial
/// groups, one for each partition.
fn groups(operator: &str) -> Option<String> {
    let mode = between(operator, "AggregateExec: mode=", ",").filter(|mode| *mode != "Partial")?;
    let keys = between(operator, "gby=[", "], aggr").filter(|keys| !mode.is_empty() && !keys.is_empty())?;
    let keys = keys.split(", ").map(|key| key.split_once(" as ").map(|(_, name)| name));
    Some(Expected::groups(keys.collect::<Option<Vec<_>>>()?))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// The name in `name@7`.
fn column(text: &str) -> Option<&str> {
    text.rsplit_once('@').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(operator: &str, rows: u64) -> OperatorMetrics {
        OperatorMetrics {
            operator: operator.into(),
            rows,
            ..OperatorMetrics::default()
        }
    }

    fn expected() -> Vec<Expected> {
        let of = |what, rows| Expected { what, rows };
        vec![
            of(Expected::join("Inner", vec![("b", "a"), ("c", "d")]), 100),
            of(Expected::join("LeftSemi", vec![("k", "k")]), 7),
            of(Expected::groups(vec!["a", "b"]), 20),
            of(Expected::groups(vec!["twice"]), 1),
            of(Expected::groups(vec!["twice"]), 2),
        ]
    }

    #[test]
    fn operators_are_found_by_their_keys() {
        for (text, rows) in [
            (
                "HashJoinExec: mode=CollectLeft, join_type=Inner, on=[(d@1, c@0), (a@0, b@4)], projection=[a@0]",
                Some(100),
            ),
            (
                "HashJoinExec: mode=Partitioned, join_type=RightSemi, on=[(k@1, k@0)]",
                Some(7),
            ),
            (
                "HashJoinExec: mode=Partitioned, join_type=RightAnti, on=[(k@1, k@0)]",
                None,
            ),
            (
                "AggregateExec: mode=FinalPartitioned, gby=[b@0 as b, a@1 as a], aggr=[sum(x)]",
                Some(20),
            ),
            (
                "AggregateExec: mode=Partial, gby=[b@0 as b, a@1 as a], aggr=[sum(x)]",
                None,
            ),
            ("AggregateExec: mode=Final, gby=[], aggr=[sum(x)]", None),
            ("AggregateExec: mode=Single, gby=[twice@0 as twice], aggr=[]", None),
            ("FilterExec: join_type=", None),
        ] {
            assert_eq!(rows_expected(&expected(), text), rows, "{text}");
        }
    }

    #[test]
    fn worst_estimate_is_named_if_it_is_off_by_twice() {
        let semi = |rows| operator("HashJoinExec: join_type=LeftSemi, on=[(k@1, k@0)]", rows);
        let groups = |rows| operator("AggregateExec: mode=Final, gby=[a@0 as a, b@1 as b], aggr=[]", rows);
        let worst = |operators: &[OperatorMetrics]| worst_estimate(&expected(), operators);
        assert_eq!(worst(&[semi(8), groups(15)]), None);
        let line = worst(&[semi(21), groups(1)]).unwrap();
        assert_eq!(
            line,
            "worst estimate: 20 rows expected of groups by a, b, 1 found, 20 times off"
        );
    }
}
