//! Stage plans on their way to workers: which nodes may run in several tasks ([`partition_safety`]), which plans must
//! not be encoded ([`lossy`]), which give the same rows whenever they run ([`determinism`](mod@determinism)), how an attempt gets its share of a plan ([`slice`](mod@slice)), and the encoding itself.
//!
//! ```text
//! server:  fragment --strip_scans--> plan without files --encode--> bytes (once per stage)
//!                    `-------------> file groups ------------------> with each launch
//! worker:  bytes --decode--> plan --slice(partitions, file groups)--> the attempt's own instance
//! ```

pub mod determinism;
pub mod json_array;
pub mod lossy;
pub mod partition_safety;
pub mod slice;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::DeduplicatingProtoConverter;

use crate::codec::ShuffleCodec;
use crate::nested::in_parts;
pub use slice::{slice, strip_scans};

/// The content of `PlanRef::InProcess`: a stage plan, root [`crate::ShuffleWriteExec`], that runs once and whole.
#[derive(Debug)]
pub struct InProcessPlan(pub Arc<dyn ExecutionPlan>);

/// Bytes of the checksum behind an encoded plan.
const CHECKSUM_BYTES: usize = 4;

/// Encodes a stage plan, with a checksum (CRC-32): decoders believe the sizes in it.
///
/// # Errors
/// When a node of it has no encoding. [`lossy::reason`] finds plans that can be encoded but lose their meaning.
pub fn encode(plan: Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    let plan = in_parts(plan)?;
    let plan = physical_plan_to_bytes_with_proto_converter(plan, &ShuffleCodec, &DeduplicatingProtoConverter {})?;
    let mut bytes = Vec::with_capacity(plan.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(&plan);
    bytes.extend(crc32fast::hash(&plan).to_le_bytes());
    Ok(bytes.into())
}

/// Decodes a stage plan. The object stores it reads must be registered in the context's runtime.
///
/// # Errors
/// When the bytes are no plan or not what was encoded, nest too deep, or name a function or node that this process does not have.
pub fn decode(bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    let Some((plan, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return internal_err!("a stage plan of {} bytes", bytes.len());
    };
    if crc32fast::hash(plan).to_le_bytes() != *checksum {
        return internal_err!("a stage plan is not what its server encoded");
    }
    physical_plan_from_bytes_with_proto_converter(plan, context, &ShuffleCodec, &DeduplicatingProtoConverter {})
}
