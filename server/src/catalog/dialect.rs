//! How the texts of a table are written, as the beginning of its first file shows: the sign between the values of a CSV
//! file, and whether JSON is an array.

use std::sync::Arc;

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::{StreamExt, TryStreamExt};

/// How much of a file is looked at.
const SAMPLE_BYTES: usize = 64 * 1024;

/// What the beginning of a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// Between the values of a CSV file.
    pub(super) delimiter: u8,
    /// Whether JSON objects are in one array, not in a line each.
    pub(super) is_array: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            delimiter: b',',
            is_array: false,
        }
    }
}

impl Dialect {
    /// Looks at the beginning of `object`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn of(
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
        compression: FileCompressionType,
    ) -> Result<Self> {
        let bytes = store
            .get(&object.location)
            .await?
            .into_stream()
            .map_err(DataFusionError::from);
        let mut bytes = compression.convert_stream(bytes.boxed())?;
        let mut sample = Vec::new();
        while sample.len() < SAMPLE_BYTES
            && let Some(chunk) = bytes.try_next().await?
        {
            sample.extend_from_slice(&chunk);
        }
        Ok(Self::of_sample(&sample))
    }

    fn of_sample(sample: &[u8]) -> Self {
        let text = sample.strip_prefix(b"\xef\xbb\xbf").unwrap_or(sample);
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        let lines = text.split(|byte| *byte == b'\n');
        let mut lines = lines.filter(|line| !line.is_empty()).map(counts);
        let header = lines.next().unwrap_or_default();
        let second = lines.next();
        // A comma in the header is one that separates; other signs must be in the second line as often.
        let others = (1..DELIMITERS.len())
            .filter(|at| header[*at] > 0 && second.is_none_or(|second| second[*at] == header[*at]))
            .max_by_key(|at| header[*at]);
        let delimiter = match (header[0], others) {
            (0, Some(at)) => DELIMITERS[at],
            _ => DELIMITERS[0],
        };
        Self {
            delimiter,
            is_array: first == Some(&b'['),
        }
    }
}

const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// How often each delimiter is in a line, outside of quotes.
fn counts(line: &[u8]) -> [usize; DELIMITERS.len()] {
    let mut counts = [0; DELIMITERS.len()];
    let mut is_quoted = false;
    for byte in line {
        is_quoted ^= *byte == b'"';
        if let Some(at) = DELIMITERS.iter().position(|sign| sign == byte).filter(|_| !is_quoted) {
            counts[at] += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_show_the_dialect() {
        for (sample, delimiter, is_array) in [
            ("a,b\n1,2\n", b',', false),
            ("a;b\n1,5;2,5\n", b';', false),
            ("a\tb\tc\nx\ty\tz\n", b'\t', false),
            ("a|b\n1|2\n", b'|', false),
            ("\u{feff}a|b\n", b'|', false),
            ("a;b,c\n1,2\n", b',', false),
            ("\"a;b\"\n1\n", b',', false),
            ("text; with a sign\nnone here\n", b',', false),
            ("a\n1\n", b',', false),
            ("", b',', false),
            (" \n[{\"a\": 1}]", b',', true),
            ("{\"a\": [1]}\n", b',', false),
        ] {
            assert_eq!(
                Dialect::of_sample(sample.as_bytes()),
                Dialect { delimiter, is_array },
                "{sample}"
            );
        }
    }
}
