//! How large a plan may be. `check` counts what `MAX_RELATIONS` and `MAX_EXPRESSIONS` limit.

/// Bytes of a plan. Decoded it takes some ten times as many.
pub(super) const MAX_PLAN_BYTES: usize = 16 * 1024 * 1024;

/// Relations of a plan.
pub(super) const MAX_RELATIONS: usize = 1_000;

/// Expressions of a plan, the cells of its virtual tables included.
pub(super) const MAX_EXPRESSIONS: usize = 500_000;

/// Protobuf messages inside one another, as in every protobuf library; prost enforces it while it decodes. A relation
/// is two of them, a function three.
pub(super) const MAX_DEPTH: usize = 100;
