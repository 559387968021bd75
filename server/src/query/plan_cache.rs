//! The stages of statements that come again.
//!
//! To plan a small query takes longer than to run it. Its plan is kept as workers get it, in a process that is its own worker
//! when it comes a second time, and used again for
//!
//! - an equal logical plan, before it is optimised,
//! - of the same tables, which a change of their schema or definition replaces,
//! - with the same options of the session, for the same workers,
//! - while its tables consist of the same files: they are listed each time, as planning would list them.
//!
//! A statement is planned anew each time when a function in it depends on the time or the session, when it reads anything but
//! files (or, as `count(*)`, just what is known of them), and when its plan cannot be sent.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, Volatility};
use moka::sync::Cache;
use squadron_proto::StageId;
use squadron_proto::control::PlanRef;
use squadron_scheduler::{StageGraph, StageSpec};

use crate::catalog::files_of;
use crate::plan_limits::kept_bytes;
use crate::planner::files::{FileVersion, scanned_files};
use crate::planner::{ClusterShape, StagedPlan};

/// Bytes of all plans that are kept.
const MOST_BYTES: u64 = 32 * 1024 * 1024;
/// How many statements are remembered.
const MOST_SEEN: u64 = 10_000;
/// What a plan takes beside its stages and files: the options of a session that has set some.
const OPTIONS_BYTES: u64 = 16 * 1024;
/// A plan of more files is not kept.
const MOST_FILES: usize = 10_000;
/// How long a plan is kept that no statement asks for, and how long a statement is remembered.
const KEPT: Duration = Duration::from_secs(600);
/// How long a plan is used at most: what the optimizer knew of the tables may have been little.
const USED: Duration = Duration::from_secs(3600);
/// A file that changed a moment ago may change again without another time or size.
const SETTLED: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct PlanCache {
    plans: Cache<Arc<Statement>, Arc<KeptPlan>>,
    seen: Cache<u64, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Before,
    /// Its plan cannot be kept.
    InVain,
}

/// What a plan is made for.
#[derive(Debug)]
pub(super) struct Statement {
    plan: LogicalPlan,
    fingerprint: u64,
    tables: Vec<Arc<dyn TableProvider>>,
    options: Arc<ConfigOptions>,
    target: Target,
}

/// Where the rows go, and who computes them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) schema: SchemaRef,
    pub(super) shape: ClusterShape,
    pub(super) keeps_result: bool,
}

/// The stages of a query that has no id yet.
#[derive(Debug)]
pub(super) struct KeptPlan {
    pub(super) stages: Vec<StageSpec>,
    pub(super) root: StageId,
    pub(super) store_urls: BTreeSet<String>,
    scans: Vec<TableScan>,
    files: Vec<FileVersion>,
    bytes: u64,
}

impl Default for PlanCache {
    fn default() -> Self {
        let bytes = |_: &Arc<Statement>, kept: &Arc<KeptPlan>| u32::try_from(kept.bytes).unwrap_or(u32::MAX);
        Self {
            plans: Cache::builder()
                .weigher(bytes)
                .max_capacity(MOST_BYTES)
                .time_to_idle(KEPT)
                .time_to_live(USED)
                .build(),
            seen: Cache::builder().max_capacity(MOST_SEEN).time_to_live(KEPT).build(),
        }
    }
}

impl PlanCache {
    /// The plan of an equal statement, if the files are those that it was made for. Files that cannot be listed are an error of
    /// planning, which comes next.
    pub(super) async fn find(&self, statement: &Statement, state: &SessionState) -> Option<Arc<KeptPlan>> {
        let kept = self.plans.get(statement)?;
        if lists(&kept.scans, &kept.files, state).await {
            return Some(kept);
        }
        self.plans.invalidate(statement);
        None
    }

    /// Whether the plan of the statement is to be kept: it came before, or the plan is encoded in any case. Notes that it
    /// came.
    pub(super) fn wants(&self, statement: &Statement, is_encoded: bool) -> bool {
        match self.seen.get(&statement.fingerprint) {
            Some(seen) => seen == Seen::Before,
            None => {
                self.seen.insert(statement.fingerprint, Seen::Before);
                is_encoded
            }
        }
    }

    /// Keeps the plan of a statement. Returns false if it cannot be kept, now or at all.
    pub(super) async fn keep(
        &self,
        statement: Statement,
        plan: &StagedPlan,
        graph: &StageGraph,
        state: &SessionState,
    ) -> bool {
        let is_sent = graph
            .stages
            .iter()
            .all(|stage| matches!(stage.plan, PlanRef::Encoded(_)));
        let files = plan.files();
        if !is_sent || files.is_empty() || files.len() > MOST_FILES {
            self.give_up(&statement);
            return false;
        }
        let now = SystemTime::now();
        if files.iter().any(|file| file.age(now) < SETTLED) {
            return false;
        }
        if !lists(&plan.scans, &files, state).await {
            self.give_up(&statement);
            return false;
        }
        let file_bytes: u64 = files.iter().map(FileVersion::bytes).sum();
        let kept = KeptPlan {
            bytes: graph.bytes() + kept_bytes(&statement.plan) + file_bytes + OPTIONS_BYTES,
            stages: graph.stages.clone(),
            root: graph.root,
            store_urls: plan.store_urls(),
            scans: plan.scans.clone(),
            files,
        };
        self.plans.insert(Arc::new(statement), Arc::new(kept));
        true
    }

    /// The plan of this statement cannot be kept.
    pub(super) fn give_up(&self, statement: &Statement) {
        self.seen.insert(statement.fingerprint, Seen::InVain);
    }
}

impl Statement {
    /// What `plan` is planned for; none if an equal plan may come to something else another time. `fingerprint` is that of
    /// the plan.
    ///
    /// # Errors
    /// None that a valid plan has.
    pub(super) fn of(
        plan: &LogicalPlan,
        fingerprint: u64,
        options: &Arc<ConfigOptions>,
        target: Target,
    ) -> Result<Option<Self>> {
        let Some(tables) = file_tables(plan)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            plan: plan.clone(),
            fingerprint,
            tables,
            options: Arc::clone(options),
            target,
        }))
    }
}

/// Whether the scans would read exactly these files now.
async fn lists(scans: &[TableScan], files: &[FileVersion], state: &SessionState) -> bool {
    scanned_files(scans, state).await.is_ok_and(|listed| listed == files)
}

/// The tables of `plan` in the order of its scans; none if it reads anything else, or the result depends on when it is planned.
fn file_tables(plan: &LogicalPlan) -> Result<Option<Vec<Arc<dyn TableProvider>>>> {
    let mut tables = Vec::new();
    let mut is_lasting = true;
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) => match source_as_provider(&scan.source) {
                Ok(table) if files_of(table.as_ref()).is_some() => tables.push(table),
                _ => is_lasting = false,
            },
            LogicalPlan::Extension(_) => is_lasting = false,
            _ => {}
        }
        node.apply_expressions(|expression| {
            is_lasting &= !depends_on_time(expression)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(match is_lasting {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok((is_lasting && !tables.is_empty()).then_some(tables))
}

/// Whether another evaluation of the expression, with the same rows, may give another value.
fn depends_on_time(expression: &Expr) -> Result<bool> {
    expression.exists(|node| {
        let volatility = match node {
            Expr::ScalarFunction(call) => call.func.signature().volatility,
            Expr::AggregateFunction(call) => call.func.signature().volatility,
            Expr::WindowFunction(call) => call.fun.signature().volatility,
            Expr::ScalarVariable(..) | Expr::Placeholder(_) => Volatility::Volatile,
            _ => Volatility::Immutable,
        };
        Ok(volatility != Volatility::Immutable)
    })
}

impl Hash for Statement {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        // Equal scans may be of different tables: their names are compared, not what they stand for.
        let same_table = |(one, other): (&Arc<dyn TableProvider>, &Arc<dyn TableProvider>)| {
            std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
        };
        self.fingerprint == other.fingerprint
            && self.target == other.target
            && Arc::ptr_eq(&self.options, &other.options)
            && self.tables.len() == other.tables.len()
            && self.tables.iter().zip(&other.tables).all(same_table)
            && self.plan == other.plan
    }
}

impl Eq for Statement {}
