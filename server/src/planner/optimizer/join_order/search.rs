//! The cheapest order of joins.
//!
//! Up to [`MAX_EXACT`] leaves, dynamic programming over sets of leaves finds the best tree, bushy ones included, without
//! Cartesian products (Moerkotte and Neumann, "Analysis of Two Existing and One New Dynamic Programming Algorithm for the
//! Generation of Optimal Bushy Join Trees without Cross Products", 2006; its DPsub). Above, the two sets whose join has the
//! fewest rows are joined first, again and again (Fegaras, "A New Heuristic for Optimizing Large Queries", 1998).

use super::graph::{Graph, Members, join_cost};

/// 3^10 pairs of sets take a few milliseconds.
const MAX_EXACT: usize = 10;

/// An order of joins. The left side has fewer rows.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Leaf(usize),
    Join(Box<Tree>, Box<Tree>),
}

/// A tree and its cost.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) tree: Tree,
    pub(super) cost: f64,
}

/// The cheapest tree; none where some leaves are joined with others by no equality.
pub(super) fn cheapest(graph: &Graph) -> Option<Ordered> {
    match graph.leaves.len() {
        0..=MAX_EXACT => exact(graph),
        _ => greedy(graph),
    }
}

#[derive(Clone, Copy)]
struct Best {
    cost: f64,
    rows: f64,
    /// The side with fewer rows; nothing for a leaf.
    left: Members,
}

fn exact(graph: &Graph) -> Option<Ordered> {
    let count = graph.leaves.len();
    let all: Members = (1 << count) - 1;
    let mut best: Vec<Option<Best>> = vec![None; 1 << count];
    for members in 1..=all {
        let rows = graph.rows(members);
        if members.count_ones() == 1 {
            best[index(members)] = Some(Best {
                cost: 0.0,
                rows,
                left: 0,
            });
            continue;
        }
        let mut least: Option<Best> = None;
        // Each split once: the left part has the last leaf.
        let last = 1 << (Members::BITS - 1 - members.leading_zeros());
        let mut left = members;
        while left > 0 {
            let right = members & !left;
            if left & last != 0
                && right != 0
                && let (Some(first), Some(second)) = (best[index(left)], best[index(right)])
                && graph.are_joined(left, right)
            {
                let cost = first.cost + second.cost + join_cost(first.rows, second.rows, rows);
                if least.is_none_or(|least| cost < least.cost) {
                    let left = if first.rows <= second.rows { left } else { right };
                    least = Some(Best { cost, rows, left });
                }
            }
            left = (left - 1) & members;
        }
        best[index(members)] = least;
    }
    let cost = best[index(all)]?.cost;
    Some(Ordered {
        tree: tree(all, &best),
        cost,
    })
}

fn index(members: Members) -> usize {
    usize::try_from(members).unwrap_or(usize::MAX)
}

fn tree(members: Members, best: &[Option<Best>]) -> Tree {
    match best[index(members)] {
        Some(Best { left, .. }) if left != 0 => {
            let right = members & !left;
            Tree::Join(Box::new(tree(left, best)), Box::new(tree(right, best)))
        }
        _ => Tree::Leaf(members.trailing_zeros() as usize),
    }
}

fn greedy(graph: &Graph) -> Option<Ordered> {
    let mut sets: Vec<(Members, Tree)> = (0..graph.leaves.len())
        .map(|leaf| (1 << leaf, Tree::Leaf(leaf)))
        .collect();
    let mut cost = 0.0;
    while sets.len() > 1 {
        let mut least: Option<(f64, usize, usize)> = None;
        for second in 0..sets.len() {
            for first in 0..second {
                let (left, right) = (sets[first].0, sets[second].0);
                if graph.are_joined(left, right) {
                    let rows = graph.rows(left | right);
                    if least.is_none_or(|(least, ..)| rows < least) {
                        least = Some((rows, first, second));
                    }
                }
            }
        }
        let (_, first, second) = least?;
        let (right, right_tree) = sets.swap_remove(second);
        let (left, left_tree) = sets.swap_remove(first);
        cost += graph.cost(left, right);
        let (left_tree, right_tree) = match graph.rows(left) <= graph.rows(right) {
            true => (left_tree, right_tree),
            false => (right_tree, left_tree),
        };
        sets.push((left | right, Tree::Join(Box::new(left_tree), Box::new(right_tree))));
    }
    sets.pop().map(|(_, tree)| Ordered { tree, cost })
}
