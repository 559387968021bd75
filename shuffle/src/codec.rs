//! Encodes the plan nodes of this crate, as a DataFusion extension codec.

use std::sync::Arc;

use datafusion::common::{Result, internal_datafusion_err, internal_err, not_impl_err};
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{LexOrdering, Partitioning};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::from_proto::{parse_physical_sort_exprs, parse_protobuf_partitioning};
use datafusion_proto::physical_plan::to_proto::{serialize_partitioning, serialize_physical_sort_exprs};
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use object_store::path::Path;
use prost::Message;
use squadron_proto::StageId;

use crate::nested::NestedExec;
use crate::{FileEncoding, FileTarget, ShuffleReadExec, ShuffleWriteExec, WriteFilesExec, WritePartitioning};

/// Encodes [`ShuffleReadExec`], [`ShuffleWriteExec`], [`WriteFilesExec`] and the parts of deep plans; functions travel by their names.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShuffleCodec;

#[derive(Clone, PartialEq, Message)]
struct NodeMessage {
    #[prost(oneof = "Node", tags = "1, 2, 3, 4")]
    node: Option<Node>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(clippy::large_enum_variant, reason = "each one is encoded right after it is made")]
enum Node {
    #[prost(message, tag = "1")]
    Write(WriteMessage),
    #[prost(message, tag = "2")]
    Read(ReadMessage),
    #[prost(message, tag = "3")]
    Files(FilesMessage),
    /// A plan, encoded.
    #[prost(bytes, tag = "4")]
    Nested(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct WriteMessage {
    #[prost(message, optional, tag = "1")]
    schema: Option<protobuf::Schema>,
    /// A hash partitioning; none for identity.
    #[prost(message, optional, tag = "2")]
    partitioning: Option<protobuf::Partitioning>,
}

#[derive(Clone, PartialEq, Message)]
struct ReadMessage {
    #[prost(uint32, tag = "1")]
    stage: u32,
    #[prost(message, optional, tag = "2")]
    schema: Option<protobuf::Schema>,
    #[prost(message, optional, tag = "3")]
    partitioning: Option<protobuf::Partitioning>,
    #[prost(message, repeated, tag = "4")]
    ordering: Vec<protobuf::PhysicalSortExprNode>,
    #[prost(uint32, repeated, tag = "5")]
    partitions: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct FilesMessage {
    #[prost(string, tag = "1")]
    store: String,
    #[prost(string, tag = "2")]
    staging: String,
    #[prost(message, optional, tag = "3")]
    schema: Option<protobuf::Schema>,
    #[prost(string, repeated, tag = "4")]
    partition_by: Vec<String>,
    #[prost(bool, tag = "5")]
    keep_partition_columns: bool,
    #[prost(bool, tag = "6")]
    never_empty: bool,
    /// A DataFusion sink without rows, which carries the format and its options.
    #[prost(message, optional, tag = "7")]
    encoding: Option<protobuf::PhysicalPlanNode>,
    #[prost(bool, tag = "8")]
    single_file: bool,
}

impl PhysicalExtensionCodec for ShuffleCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let message =
            NodeMessage::decode(buf).map_err(|error| internal_datafusion_err!("malformed shuffle node: {error}"))?;
        let context = PhysicalPlanDecodeContext::new(ctx, self);
        match (message.node, inputs) {
            (Some(Node::Write(message)), [input]) => decode_write(message, input, &context, proto_converter),
            (Some(Node::Read(message)), []) => decode_read(message, &context, proto_converter),
            (Some(Node::Files(message)), [input]) => decode_files(message, input, &context, proto_converter),
            (Some(Node::Nested(plan)), []) => decode_nested(&plan, &context, proto_converter),
            _ => internal_err!("a shuffle node with {} inputs", inputs.len()),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let node = if let Some(write) = node.downcast_ref::<ShuffleWriteExec>() {
            Node::Write(encode_write(write, self, proto_converter)?)
        } else if let Some(read) = node.downcast_ref::<ShuffleReadExec>() {
            Node::Read(encode_read(read, self, proto_converter)?)
        } else if let Some(files) = node.downcast_ref::<WriteFilesExec>() {
            Node::Files(encode_files(files.target(), self, proto_converter)?)
        } else if let Some(nested) = node.downcast_ref::<NestedExec>() {
            let plan = proto_converter.execution_plan_to_proto(nested.plan(), self)?;
            Node::Nested(plan.encode_to_vec())
        } else {
            return not_impl_err!("{} cannot be sent to a worker", node.name());
        };
        buf.extend(NodeMessage { node: Some(node) }.encode_to_vec());
        Ok(())
    }
}

fn encode_write(
    node: &ShuffleWriteExec,
    codec: &ShuffleCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<WriteMessage> {
    let partitioning = match node.partitioning() {
        WritePartitioning::Hash { exprs, partitions } => {
            let hash = Partitioning::Hash(exprs.clone(), *partitions);
            Some(serialize_partitioning(&hash, codec, converter)?)
        }
        WritePartitioning::Identity => None,
    };
    Ok(WriteMessage {
        schema: Some(node.schema().as_ref().try_into()?),
        partitioning,
    })
}

fn decode_write(
    message: WriteMessage,
    input: &Arc<dyn ExecutionPlan>,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let proto = message.partitioning.as_ref();
    let partitioning = match parse_protobuf_partitioning(proto, context, &input.schema(), converter)? {
        Some(Partitioning::Hash(exprs, partitions)) => WritePartitioning::Hash { exprs, partitions },
        None if proto.is_none() => WritePartitioning::Identity,
        other => return internal_err!("a shuffle is not written by {other:?}"),
    };
    Ok(Arc::new(ShuffleWriteExec::new(
        Arc::clone(input),
        partitioning,
        Arc::new(require(message.schema.as_ref(), "schema")?.try_into()?),
    )))
}

fn encode_read(
    node: &ShuffleReadExec,
    codec: &ShuffleCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<ReadMessage> {
    let properties = node.properties();
    let ordering = properties.output_ordering().cloned().into_iter().flatten();
    let partitioning = properties.output_partitioning();
    Ok(ReadMessage {
        stage: node.stage().0,
        schema: Some(node.schema().as_ref().try_into()?),
        partitioning: Some(serialize_partitioning(partitioning, codec, converter)?),
        ordering: serialize_physical_sort_exprs(ordering, codec, converter)?,
        partitions: node.partitions().to_vec(),
    })
}

fn decode_read(
    message: ReadMessage,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::new(require(message.schema.as_ref(), "schema")?.try_into()?);
    let proto = message.partitioning.as_ref();
    let partitioning = parse_protobuf_partitioning(proto, context, &schema, converter)?;
    let partitioning = require(partitioning, "partitioning")?;
    if partitioning.partition_count() != message.partitions.len() {
        return internal_err!("a shuffle node whose partitions are not counted right");
    }
    let ordering = parse_physical_sort_exprs(&message.ordering, context, &schema, converter)?;
    Ok(Arc::new(ShuffleReadExec::for_partitions(
        StageId(message.stage),
        message.partitions,
        schema,
        partitioning,
        LexOrdering::new(ordering),
    )))
}

fn encode_files(
    target: &FileTarget,
    codec: &ShuffleCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<FilesMessage> {
    let encoding = target.encoding.to_proto(target.file_schema(), codec, converter)?;
    Ok(FilesMessage {
        store: target.store.as_str().to_owned(),
        staging: target.staging.to_string(),
        schema: Some(target.schema.as_ref().try_into()?),
        partition_by: target.partition_by.clone(),
        keep_partition_columns: target.keep_partition_columns,
        never_empty: target.never_empty,
        encoding: Some(encoding),
        single_file: target.single_file,
    })
}

fn decode_files(
    message: FilesMessage,
    input: &Arc<dyn ExecutionPlan>,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let encoding = require(message.encoding.as_ref(), "encoding")?;
    let staging = Path::parse(&message.staging)
        .map_err(|error| internal_datafusion_err!("a malformed staging folder: {error}"))?;
    let target = FileTarget {
        store: ObjectStoreUrl::parse(&message.store)?,
        staging,
        schema: Arc::new(require(message.schema.as_ref(), "schema")?.try_into()?),
        partition_by: message.partition_by,
        keep_partition_columns: message.keep_partition_columns,
        never_empty: message.never_empty,
        single_file: message.single_file,
        encoding: FileEncoding::from_proto(encoding, context, converter)?,
    };
    Ok(Arc::new(WriteFilesExec::new(Arc::clone(input), Arc::new(target))))
}

fn decode_nested(
    plan: &[u8],
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = protobuf::PhysicalPlanNode::decode(plan)
        .map_err(|error| internal_datafusion_err!("a malformed part of a plan: {error}"))?;
    converter.proto_to_execution_plan(&plan, context)
}

fn require<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| internal_datafusion_err!("a shuffle node without its {name}"))
}

#[cfg(test)]
mod tests {
    use arrow::compute::SortOptions;
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use datafusion::physical_expr::PhysicalSortExpr;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_plan::displayable;
    use datafusion_proto::bytes::{
        physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
    };

    use super::*;

    fn schema() -> SchemaRef {
        let metadata = [("unit".to_string(), "m".to_string())];
        let fields = vec![
            Field::new("a", DataType::Int64, false).with_metadata(metadata.into()),
            Field::new_dictionary("b", DataType::Int32, DataType::Utf8, true),
            Field::new_list("c", Field::new("item", DataType::Utf8View, true), true),
        ];
        Arc::new(Schema::new(fields))
    }

    fn round_trip(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &ShuffleCodec).unwrap();
        let context = TaskContext::default();
        let decoded = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &ShuffleCodec).unwrap();
        let show = |plan: &dyn ExecutionPlan| displayable(plan).indent(true).to_string();
        assert_eq!(show(decoded.as_ref()), show(plan.as_ref()));
        assert_eq!(decoded.schema(), plan.schema());
        // Unknown partitionings never equal each other.
        let partitioning = |plan: &dyn ExecutionPlan| plan.properties().output_partitioning().to_string();
        assert_eq!(partitioning(decoded.as_ref()), partitioning(plan.as_ref()));
        decoded
    }

    fn hash(partitions: usize) -> Partitioning {
        Partitioning::Hash(vec![col("a", &schema()).unwrap()], partitions)
    }

    #[test]
    fn shuffle_nodes_survive_their_encoding() {
        let options = SortOptions::new(true, false);
        let order = PhysicalSortExpr::new(col("a", &schema()).unwrap(), options);
        let read = ShuffleReadExec::new(StageId(3), schema(), hash(4), LexOrdering::new([order]));
        let some = read.with_partitions(vec![3, 1]).unwrap();
        let decoded = round_trip(Arc::new(some));
        let decoded = decoded.downcast_ref::<ShuffleReadExec>().unwrap();
        assert_eq!(decoded.stage(), StageId(3));
        assert_eq!(decoded.partitions(), [3, 1]);
        assert!(decoded.properties().output_ordering().is_some());

        let read: Arc<dyn ExecutionPlan> = Arc::new(read);
        let exprs = vec![col("a", &schema()).unwrap()];
        for partitioning in [
            WritePartitioning::Identity,
            WritePartitioning::Hash { exprs, partitions: 7 },
        ] {
            let write = ShuffleWriteExec::new(Arc::clone(&read), partitioning, schema());
            round_trip(Arc::new(write));
        }
    }

    #[test]
    fn garbage_bytes_fail_to_decode() {
        let context = TaskContext::default();
        let converter = datafusion_proto::physical_plan::DefaultPhysicalProtoConverter {};
        for garbage in [&b""[..], b"garbage", &[10, 0], &[18, 0]] {
            assert!(ShuffleCodec.try_decode(garbage, &[], &context, &converter).is_err());
        }
    }
}
