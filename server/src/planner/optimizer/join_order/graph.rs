//! What a tree of inner joins joins, and by which conditions.

use std::collections::HashMap;

use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan};

use super::super::cardinality::Estimator;
use super::super::joins;
use super::super::relation::{Relation, pair_domain};
use super::super::selectivity::selectivity;

/// Leaves as bits, the first one being the least.
pub(super) type Members = u64;

/// Trees of more leaves stay as they are.
const MAX_LEAVES: usize = 32;

/// What a row costs that is copied, beside one that is looked up.
const MADE: f64 = 3.0;

/// A plan that takes part in the joins.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) plan: LogicalPlan,
    /// How a change is described to people.
    pub(super) name: String,
    relation: Relation,
}

/// A condition that is no equality of two leaves.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) condition: Expr,
    pub(super) members: Members,
    selectivity: f64,
}

/// Expressions, of one leaf each, that are equal in all rows.
#[derive(Debug)]
struct Equal {
    /// By the number of their leaf, the one of fewest values first.
    keys: Vec<(usize, Expr)>,
    /// Of how many pairs of rows with two of the keys one is equal; of each key with itself, how many values it has.
    pairs: Vec<Vec<f64>>,
}

impl Equal {
    fn new(mut keys: Vec<(usize, Expr)>, leaves: &[Leaf]) -> Self {
        let relation = |leaf: usize| &leaves[leaf].relation;
        let domain = |(leaf, key): &(usize, Expr)| relation(*leaf).domain(key);
        keys.sort_by(|left, right| domain(left).total_cmp(&domain(right)));
        let pair = |left: &(usize, Expr), right: &(usize, Expr)| match left == right {
            true => domain(left),
            false => pair_domain((relation(left.0), &left.1), (relation(right.0), &right.1)),
        };
        let pairs = keys
            .iter()
            .map(|left| keys.iter().map(|right| pair(left, right)).collect());
        Self {
            pairs: pairs.collect(),
            keys,
        }
    }

    /// The place of a leaf's key.
    fn place(&self, leaf: usize) -> Option<usize> {
        self.keys.iter().position(|(owner, _)| *owner == leaf)
    }

    /// By what the product of the rows of `members` is divided.
    fn factor(&self, members: Members) -> f64 {
        let mut factor = 1.0;
        let mut last: Option<usize> = None;
        for (place, (leaf, _)) in self.keys.iter().enumerate() {
            if members >> leaf & 1 == 1 {
                factor *= last.map_or(1.0, |last| self.pairs[last][place]);
                last = Some(place);
            }
        }
        factor
    }
}

/// Leaves and conditions.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) leaves: Vec<Leaf>,
    pub(super) filters: Vec<Filter>,
    equal: Vec<Equal>,
    /// The joins as they were: both sides of each.
    original: Vec<(Members, Members)>,
}

/// Whether the node is an inner join by equalities of which NULL fulfils none.
pub(super) fn is_inner_join(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join)
        if join.join_type == JoinType::Inner && join.null_equality == NullEquality::NullEqualsNothing)
}

/// Whether the node drops columns of a join and does nothing else.
pub(super) fn is_columns(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Projection(projection)
        if is_inner_join(&projection.input) && joins::is_columns(projection))
}

/// The joins of a tree while it is taken apart.
#[derive(Default)]
struct Parts<'a> {
    leaves: Vec<&'a LogicalPlan>,
    pairs: Vec<(&'a Expr, &'a Expr)>,
    conditions: Vec<&'a Expr>,
    original: Vec<(Members, Members)>,
}

impl<'a> Parts<'a> {
    fn add(&mut self, plan: &'a LogicalPlan) -> Option<Members> {
        match plan {
            LogicalPlan::Projection(projection) if is_columns(plan) => self.add(&projection.input),
            LogicalPlan::Join(join) if is_inner_join(plan) => self.add_join(join),
            _ => {
                self.leaves.push(plan);
                (self.leaves.len() <= MAX_LEAVES).then(|| 1 << (self.leaves.len() - 1))
            }
        }
    }

    fn add_join(&mut self, join: &'a Join) -> Option<Members> {
        let (left, right) = (self.add(&join.left)?, self.add(&join.right)?);
        self.pairs.extend(join.on.iter().map(|(left, right)| (left, right)));
        self.conditions.extend(join.filter.iter().flat_map(split_conjunction));
        self.original.push((left, right));
        Some(left | right)
    }
}

impl Graph {
    /// The graph of a tree; none where its order is not for us to choose: two joins at least, of leaves that have
    /// estimates and columns of different names, by conditions whose value is the same at each evaluation.
    pub(super) fn of(plan: &LogicalPlan, estimator: Estimator<'_>) -> Option<Self> {
        let mut parts = Parts::default();
        parts.add(plan)?;
        let has_choice = parts.leaves.len() > 2;
        let is_volatile = parts.conditions.iter().any(|condition| condition.is_volatile())
            || parts
                .pairs
                .iter()
                .any(|(left, right)| left.is_volatile() || right.is_volatile());
        if !has_choice || is_volatile {
            return None;
        }
        let owners = owners(&parts.leaves)?;
        let members = |expression: &Expr| members(expression, &owners);
        let mut all = Relation::new(0.0, 0.0, []);
        let mut leaves = Vec::new();
        for leaf in &parts.leaves {
            let relation = estimator.relation(leaf)?;
            all = all.beside(&relation);
            leaves.push(Leaf {
                plan: (*leaf).clone(),
                name: name(leaf),
                relation,
            });
        }
        let mut equal = Classes::default();
        let mut filters = Vec::new();
        for (left, right) in parts.pairs {
            let sides = (members(left)?, members(right)?);
            if is_single(sides.0)
                && is_single(sides.1)
                && sides.0 != sides.1
                && have_one_type(left, right, &parts.leaves, sides)
            {
                let leaf = |side: Members| side.trailing_zeros() as usize;
                equal.join((leaf(sides.0), left.clone()), (leaf(sides.1), right.clone()));
            } else {
                filters.push(filter(left.clone().eq(right.clone()), sides.0 | sides.1, &all));
            }
        }
        for condition in parts.conditions {
            filters.push(filter(condition.clone(), members(condition)?, &all));
        }
        Some(Self {
            equal: equal.finish(&leaves)?,
            leaves,
            filters,
            original: parts.original,
        })
    }

    /// The rows of the join of `members`.
    pub(super) fn rows(&self, members: Members) -> f64 {
        let is_member = |leaf: usize| members >> leaf & 1 == 1;
        let mut rows: f64 = (0..self.leaves.len())
            .filter(|leaf| is_member(*leaf))
            .map(|leaf| self.leaves[leaf].relation.rows)
            .product();
        for class in &self.equal {
            rows /= class.factor(members);
        }
        rows *= self.correction(members);
        for filter in &self.filters {
            if filter.members & !members == 0 {
                rows *= filter.selectivity;
            }
        }
        rows
    }

    /// Keys of several columns have fewer values than the product of those of their columns: by how much.
    fn correction(&self, members: Members) -> f64 {
        let mut correction = 1.0;
        for second in 0..self.leaves.len() {
            let factors = (0..second)
                .filter(|first| members >> first & 1 == 1 && members >> second & 1 == 1)
                .map(|first| self.pair_correction(first, second));
            correction *= factors.fold(1.0, f64::max);
        }
        correction
    }

    fn pair_correction(&self, first: usize, second: usize) -> f64 {
        let (mut product, mut shared) = (1.0, 0);
        let (mut largest, mut of_first, mut of_second) = (1.0_f64, 1.0, 1.0);
        for class in &self.equal {
            if let (Some(left), Some(right)) = (class.place(first), class.place(second)) {
                shared += 1;
                product *= class.pairs[left][right];
                let (left, right) = (class.pairs[left][left], class.pairs[right][right]);
                largest = largest.max(left).max(right);
                of_first *= left;
                of_second *= right;
            }
        }
        if shared < 2 {
            return 1.0;
        }
        let most = |leaf: usize, keys: f64| keys.min(self.leaves[leaf].relation.whole);
        let keys = most(first, of_first).min(most(second, of_second)).max(largest);
        (product / keys).max(1.0)
    }

    /// The equalities by which two sets of leaves join.
    pub(super) fn keys(&self, left: Members, right: Members) -> Vec<(Expr, Expr)> {
        let of = |class: &Equal, members: Members| {
            let mut keys = class.keys.iter();
            keys.find(|(leaf, _)| members >> leaf & 1 == 1)
                .map(|(_, key)| key.clone())
        };
        let classes = self.equal.iter();
        classes
            .filter_map(|class| of(class, left).zip(of(class, right)))
            .collect()
    }

    pub(super) fn are_joined(&self, left: Members, right: Members) -> bool {
        let has = |class: &Equal, members: Members| class.keys.iter().any(|(leaf, _)| members >> leaf & 1 == 1);
        self.equal.iter().any(|class| has(class, left) && has(class, right))
    }

    /// What the joins cost as they were.
    pub(super) fn cost_of_original(&self) -> f64 {
        let joins = self.original.iter();
        joins.map(|(left, right)| self.cost(*left, *right)).sum()
    }

    /// What one join costs.
    pub(super) fn cost(&self, left: Members, right: Members) -> f64 {
        join_cost(self.rows(left), self.rows(right), self.rows(left | right))
    }
}

/// What a join costs by numbers of rows: one for each that is looked up, and [`MADE`] for each that is put into a table or
/// comes out, whose values are copied.
pub(super) fn join_cost(left: f64, right: f64, joined: f64) -> f64 {
    left.max(right) + MADE * (left.min(right) + joined)
}

fn filter(condition: Expr, members: Members, all: &Relation) -> Filter {
    Filter {
        selectivity: selectivity(&condition, all),
        condition,
        members,
    }
}

fn is_single(members: Members) -> bool {
    members.count_ones() == 1
}

fn have_one_type(left: &Expr, right: &Expr, leaves: &[&LogicalPlan], sides: (Members, Members)) -> bool {
    let type_of = |expression: &Expr, side: Members| {
        let leaf = leaves.get(side.trailing_zeros() as usize)?;
        expression.get_type(leaf.schema()).ok()
    };
    type_of(left, sides.0).is_some_and(|data_type| Some(data_type) == type_of(right, sides.1))
}

/// The leaf of each column; none where two have one of equal name.
fn owners(leaves: &[&LogicalPlan]) -> Option<HashMap<Column, usize>> {
    let mut owners = HashMap::new();
    for (number, leaf) in leaves.iter().enumerate() {
        for column in leaf.schema().columns() {
            if owners.insert(column, number).is_some() {
                return None;
            }
        }
    }
    Some(owners)
}

/// The leaves that an expression speaks of; none where a column is of no leaf.
fn members(expression: &Expr, owners: &HashMap<Column, usize>) -> Option<Members> {
    let columns = expression.column_refs();
    let mut numbers = columns.into_iter().map(|column| owners.get(column).copied());
    numbers.try_fold(0, |members, number| Some(members | 1 << number?))
}

fn name(leaf: &LogicalPlan) -> String {
    match leaf {
        LogicalPlan::TableScan(scan) => scan.table_name.table().to_owned(),
        LogicalPlan::SubqueryAlias(alias) => alias.alias.table().to_owned(),
        _ => match leaf.inputs().first() {
            Some(input) => name(input),
            None => "rows".to_owned(),
        },
    }
}

/// Sets of keys that are equal, as equalities come in.
#[derive(Default)]
struct Classes(Vec<Vec<(usize, Expr)>>);

impl Classes {
    fn join(&mut self, left: (usize, Expr), right: (usize, Expr)) {
        let mut class = vec![];
        for key in [left, right] {
            match self.0.iter().position(|class| class.contains(&key)) {
                Some(place) => class.append(&mut self.0.swap_remove(place)),
                None if !class.contains(&key) => class.push(key),
                None => {}
            }
        }
        self.0.push(class);
    }

    /// None where a leaf has two keys of one class: they are equal within the leaf too, by no join.
    fn finish(self, leaves: &[Leaf]) -> Option<Vec<Equal>> {
        let has_each_leaf_once = |class: &Vec<(usize, Expr)>| {
            let mut leaves: Vec<_> = class.iter().map(|(leaf, _)| *leaf).collect();
            leaves.sort_unstable();
            leaves.windows(2).all(|pair| pair[0] != pair[1])
        };
        self.0
            .iter()
            .all(has_each_leaf_once)
            .then(|| self.0.into_iter().map(|keys| Equal::new(keys, leaves)).collect())
    }
}
