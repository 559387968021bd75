//! Where the messages of an Arrow file are.
//!
//! Source: the Arrow columnar format, "Serialization and Interprocess Communication (IPC)", both formats.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::FileDecoder;
use datafusion::arrow::ipc::{Block, MessageHeader, MetadataVersion, root_as_footer, root_as_message};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::broken;
use crate::messages::{check, without_panics};

const MAGIC: &[u8] = b"ARROW1";
/// The length of the footer, then the magic.
const TRAILER_BYTES: u64 = 10;
/// Marks the beginning of a message; older writers leave it out.
const CONTINUATION: [u8; 4] = [0xFF; 4];
/// How much of a stream is read at a time; a larger message is read as a whole.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// An object in a store.
#[derive(Clone)]
struct Object {
    store: Arc<dyn ObjectStore>,
    location: Path,
    size: u64,
}

impl Object {
    /// These bytes.
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > self.size {
            return Err(broken("it is shorter than it says").into());
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        Ok(self.store.get_range(&self.location, range).await?)
    }
}

/// An open file, of which the next batches are to be read.
pub(super) struct ArrowFile {
    pub(super) schema: SchemaRef,
    messages: Messages,
    decoder: FileDecoder,
}

impl ArrowFile {
    /// Reads the schema, and the dictionaries of a file with a footer.
    pub(super) async fn open(store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<Self> {
        let object = Object {
            store: Arc::clone(store),
            location: object.location.clone(),
            size: object.size,
        };
        let beginning = object.read(0..object.size.min(MAGIC.len() as u64)).await?;
        match beginning.as_ref() == MAGIC {
            true => Self::open_file(object).await,
            false => Self::open_stream(object).await,
        }
    }

    async fn open_file(object: Object) -> Result<Self> {
        let end_of_footer = object.size.checked_sub(TRAILER_BYTES);
        let end_of_footer = end_of_footer.ok_or_else(|| broken("it has no footer"))?;
        let trailer = object.read(end_of_footer..object.size).await?;
        let (length, magic) = trailer.split_at(4);
        if magic != MAGIC {
            return Err(broken("it does not end as one; it may be cut off").into());
        }
        let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
        let start = end_of_footer.checked_sub(u64::from(length));
        let start = start.ok_or_else(|| broken("its footer would be longer than the file"))?;
        let footer = object.read(start..end_of_footer).await?;
        let (schema, version, dictionaries, batches) = without_panics(|| read_footer(&footer))?;
        let mut file = Self {
            decoder: FileDecoder::new(Arc::clone(&schema), version),
            schema,
            messages: Messages::Blocks(object, batches),
        };
        for block in dictionaries {
            let bytes = file.messages.object().read(range_of(&block)?).await?;
            file.read_dictionary(&block, bytes)?;
        }
        Ok(file)
    }

    async fn open_stream(object: Object) -> Result<Self> {
        let mut messages = Stream {
            object,
            offset: 0,
            window: Bytes::new(),
        };
        let first = messages.next().await?;
        let (block, bytes) = first.ok_or_else(|| broken("it has no schema"))?;
        let (schema, version) = without_panics(|| {
            let message = root_as_message(metadata(&block, &bytes)?).map_err(|error| broken(&error.to_string()))?;
            let schema = message.header_as_schema().ok_or_else(|| broken("it has no schema"))?;
            Ok((Arc::new(fb_to_schema(schema)), message.version()))
        })?;
        Ok(Self {
            decoder: FileDecoder::new(Arc::clone(&schema), version),
            schema,
            messages: Messages::Stream(messages),
        })
    }

    /// Reads these columns only.
    pub(super) fn with_projection(mut self, columns: Vec<usize>) -> Self {
        self.decoder = self.decoder.with_projection(columns);
        self
    }

    /// Reads only what begins within `range`; a stream begins at its start.
    pub(super) fn with_range(mut self, range: Range<u64>) -> Self {
        match &mut self.messages {
            Messages::Blocks(_, blocks) => blocks.retain(|block| {
                let offset = u64::try_from(block.offset());
                offset.is_ok_and(|offset| range.contains(&offset))
            }),
            Messages::Stream(stream) if !range.contains(&0) => stream.offset = stream.object.size,
            Messages::Stream(_) => {}
        }
        self
    }

    /// The next batch; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some((block, bytes)) = self.messages.next().await? {
            let is_dictionary = {
                let message = root_as_message(metadata(&block, &bytes)?).map_err(|error| broken(&error.to_string()))?;
                check(&message, body(&block, &bytes)?)?;
                message.header_type() == MessageHeader::DictionaryBatch
            };
            if is_dictionary {
                self.read_dictionary(&block, bytes)?;
                continue;
            }
            let bytes = Buffer::from(bytes);
            let batch = without_panics(|| self.decoder.read_record_batch(&block, &bytes));
            if let Some(batch) = batch.map_err(|error| broken(&error.to_string()))? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn read_dictionary(&mut self, block: &Block, bytes: Bytes) -> Result<()> {
        let message = root_as_message(metadata(block, &bytes)?).map_err(|error| broken(&error.to_string()))?;
        check(&message, body(block, &bytes)?)?;
        let bytes = Buffer::from(bytes);
        let read = without_panics(|| self.decoder.read_dictionary(block, &bytes));
        Ok(read.map_err(|error| broken(&error.to_string()))?)
    }
}

/// Schema, version, and the blocks of dictionaries and batches.
type Footer = (SchemaRef, MetadataVersion, Vec<Block>, VecDeque<Block>);

fn read_footer(bytes: &[u8]) -> Result<Footer, ArrowError> {
    let footer = root_as_footer(bytes).map_err(|error| broken(&error.to_string()))?;
    let schema = footer.schema().ok_or_else(|| broken("it has no schema"))?;
    let metadata = footer.custom_metadata().into_iter().flatten();
    let metadata = metadata.filter_map(|pair| Some((pair.key()?.to_owned(), pair.value()?.to_owned())));
    let schema = fb_to_schema(schema);
    let mut all = schema.metadata().clone();
    all.extend(metadata);
    Ok((
        Arc::new(Schema::new_with_metadata(schema.fields().clone(), all)),
        footer.version(),
        footer.dictionaries().iter().flatten().copied().collect(),
        footer.recordBatches().iter().flatten().copied().collect(),
    ))
}

fn range_of(block: &Block) -> Result<Range<u64>, ArrowError> {
    let part = |size: i64| u64::try_from(size).ok();
    let range = part(block.offset()).and_then(|start| {
        let metadata = part(block.metaDataLength().into())?;
        Some(start..start.checked_add(metadata)?.checked_add(part(block.bodyLength())?)?)
    });
    range.ok_or_else(|| broken("a message has an impossible size"))
}

/// The header of the message, without what marks its beginning.
fn metadata<'bytes>(block: &Block, bytes: &'bytes [u8]) -> Result<&'bytes [u8], ArrowError> {
    let length = usize::try_from(block.metaDataLength()).ok();
    let header = length.and_then(|length| bytes.get(..length));
    let header = header.and_then(|header| header.get(prefix_bytes(header)..));
    header.ok_or_else(|| broken("a message is shorter than it says"))
}

fn body<'bytes>(block: &Block, bytes: &'bytes [u8]) -> Result<&'bytes [u8], ArrowError> {
    let start = usize::try_from(block.metaDataLength()).ok();
    let body = start.and_then(|start| bytes.get(start..));
    body.ok_or_else(|| broken("a message is shorter than it says"))
}

/// The continuation marker, where there is one, and the length of the header.
fn prefix_bytes(header: &[u8]) -> usize {
    if header.starts_with(&CONTINUATION) { 8 } else { 4 }
}

enum Messages {
    /// The blocks of a file that are not read yet.
    Blocks(Object, VecDeque<Block>),
    Stream(Stream),
}

impl Messages {
    fn object(&self) -> &Object {
        match self {
            Self::Blocks(object, _) => object,
            Self::Stream(stream) => &stream.object,
        }
    }

    async fn next(&mut self) -> Result<Option<(Block, Bytes)>> {
        match self {
            Self::Blocks(object, blocks) => {
                let Some(block) = blocks.pop_front() else {
                    return Ok(None);
                };
                let bytes = object.read(range_of(&block)?).await?;
                Ok(Some((block, bytes)))
            }
            Self::Stream(stream) => stream.next().await,
        }
    }
}

/// Messages one after the other.
struct Stream {
    object: Object,
    /// Of the next message.
    offset: u64,
    /// What was read beyond the last message.
    window: Bytes,
}

impl Stream {
    /// The next message; none at the end of the stream, marked or not.
    async fn next(&mut self) -> Result<Option<(Block, Bytes)>> {
        if self.offset >= self.object.size {
            return Ok(None);
        }
        let marker = self.peek(4).await?;
        let prefix = prefix_bytes(&marker) as u64;
        let header = self.peek(prefix).await?;
        let length = header.last_chunk().map(|length| u32::from_le_bytes(*length));
        let length = match length {
            None | Some(0) => return Ok(None),
            Some(length) => u64::from(length),
        };
        let header = self.peek(prefix + length).await?;
        let body = {
            let message = header.get(prefix as usize..).unwrap_or_default();
            let message = root_as_message(message).map_err(|error| broken(&error.to_string()))?;
            u64::try_from(message.bodyLength()).map_err(|_| broken("a message has an impossible size"))?
        };
        let whole = (prefix + length).checked_add(body);
        let bytes = self
            .peek(whole.ok_or_else(|| broken("a message has an impossible size"))?)
            .await?;
        let metadata_length = i32::try_from(prefix + length).map_err(|_| broken("a header of 2 GiB"))?;
        let block = Block::new(self.offset as i64, metadata_length, body as i64);
        self.offset += bytes.len() as u64;
        self.window = self.window.slice(bytes.len()..);
        Ok(Some((block, bytes)))
    }

    /// The next `length` bytes, which stay to be read.
    async fn peek(&mut self, length: u64) -> Result<Bytes> {
        let end = self.offset.checked_add(length).filter(|end| *end <= self.object.size);
        let end = end.ok_or_else(|| broken("it is cut off"))?;
        if (self.window.len() as u64) < length {
            let ahead = (self.offset + READ_BYTES).clamp(end, self.object.size);
            self.window = self.object.read(self.offset..ahead).await?;
        }
        Ok(self.window.slice(..length as usize))
    }
}
