//! Results reduced to what is cheap to compare: the number of rows, and a checksum that does not depend on their order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::row::{RowConverter, SortField};
use arrow_flight::FlightInfo;
use arrow_flight::error::FlightError;
use futures::TryStreamExt;
use squadron_integration::client::status;
use squadron_integration::tpch;
use tokio::sync::Notify;
use tonic::Status;

use crate::connection::{self, Connection};

/// Bits of a float's mantissa that the checksum ignores: partial sums of parallel partitions are added in any order.
const LOOSE_BITS: u32 = 20;

/// The size and the checksum of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) rows: u64,
    checksum: u64,
}

impl Answer {
    fn take(&mut self, batch: &RecordBatch) -> Result<(), FlightError> {
        let columns = batch.columns().iter().map(round_floats);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        self.rows += batch.num_rows() as u64;
        if columns.is_empty() {
            return Ok(());
        }
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
        let rows = RowConverter::new(fields.collect())?.convert_columns(&columns)?;
        for row in &rows {
            let mut hasher = DefaultHasher::new();
            row.as_ref().hash(&mut hasher);
            self.checksum = self.checksum.wrapping_add(hasher.finish());
        }
        Ok(())
    }
}

/// Rounds away the bits of floats that may differ from run to run.
fn round_floats(column: &ArrayRef) -> Result<ArrayRef, FlightError> {
    if !column.data_type().is_floating() {
        return Ok(Arc::clone(column));
    }
    let wide = cast(column, &DataType::Float64)?;
    let round = |value: f64| {
        let half = 1_u64 << (LOOSE_BITS - 1);
        f64::from_bits((value.to_bits() + half) >> LOOSE_BITS << LOOSE_BITS)
    };
    let rounded: Float64Array = wide.as_primitive::<Float64Type>().unary(round);
    Ok(Arc::new(rounded))
}

/// A query, and the answer that it must give.
pub(super) struct Target {
    pub(super) sql: String,
    pub(super) answer: Answer,
}

/// The 22 queries of TPC-H with the answers that the server at `url` gives now.
pub(super) async fn tpch_targets(url: &str, scale: f64) -> crate::Result<Vec<Target>> {
    targets(url, (1..=tpch::QUERIES).map(|number| tpch::query(number, scale))).await
}

/// Queries with the answers that the server at `url` gives now.
pub(super) async fn targets(url: &str, queries: impl IntoIterator<Item = String>) -> crate::Result<Vec<Target>> {
    let mut connection = connection::connect(url).await?;
    let mut targets = Vec::new();
    for sql in queries {
        let answer = ask(&mut connection, &sql).await?;
        targets.push(Target { sql, answer });
    }
    Ok(targets)
}

/// Runs `sql` and reads all of its rows.
pub(super) async fn ask(connection: &mut Connection, sql: &str) -> Result<Answer, Status> {
    let info = connection.execute(sql.to_owned(), None).await;
    read(connection, info.map_err(status)?).await
}

/// Reads a started query to its end. Dropping the future ends the transfer.
pub(super) async fn read(connection: &mut Connection, info: FlightInfo) -> Result<Answer, Status> {
    read_and_notify(connection, info, &Notify::new()).await
}

/// Like [`read`], and notifies `opened` of each stream that was opened.
pub(super) async fn read_and_notify(
    connection: &mut Connection,
    info: FlightInfo,
    opened: &Notify,
) -> Result<Answer, Status> {
    let mut answer = Answer::default();
    for ticket in info.endpoint.into_iter().filter_map(|it| it.ticket) {
        let mut stream = connection.do_get(ticket).await.map_err(status)?;
        opened.notify_one();
        while let Some(batch) = stream.try_next().await.map_err(status)? {
            answer.take(&batch).map_err(status)?;
        }
    }
    Ok(answer)
}

/// An answer of so many rows, for tests that compare no rows.
#[cfg(test)]
pub(super) fn sample(rows: u64) -> Answer {
    Answer { rows, checksum: 0 }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    fn answer(rows: &[(&str, f64)]) -> Answer {
        let texts: StringArray = rows.iter().map(|(text, _)| Some(*text)).collect();
        let numbers: Float64Array = rows.iter().map(|(_, number)| Some(*number)).collect();
        let columns: [(&str, ArrayRef); 2] = [("text", Arc::new(texts)), ("number", Arc::new(numbers))];
        let mut answer = Answer::default();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        answer.take(&batch).unwrap();
        answer
    }

    #[test]
    fn checksum_ignores_order_and_rounding() {
        let one = answer(&[("a", 0.1 + 0.2), ("b", 2.0)]);
        assert_eq!(one, answer(&[("b", 2.0), ("a", 0.3)]));
        assert_eq!(one.rows, 2);
    }

    #[test]
    fn different_rows_give_different_answers() {
        let one = answer(&[("a", 1.0), ("b", 2.0)]);
        for other in [
            answer(&[("a", 2.0), ("b", 1.0)]),
            answer(&[("a", 1.0), ("b", 2.001)]),
            answer(&[("a", 1.0)]),
            answer(&[("a", 1.0), ("b", 2.0), ("b", 2.0)]),
        ] {
            assert_ne!(one, other);
        }
    }
}
