//! The deadline that a client gives a call, held until the answer begins and while rows flow.
//!
//! Most clients end their call themselves when its time is over, and tonic's server ends those whose answer has not begun, but as
//! `Cancelled`, which tells nobody that it was the time. So a call is ended here, a moment before that.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use squadron_proto::{Failure, FailureKind};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::status;

type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// gRPC over HTTP/2, "Requests": `grpc-timeout` is at most eight digits and a unit.
const HEADER: &str = "grpc-timeout";
const MAX_DIGITS: usize = 8;

/// So much earlier than the client's time is over a call is ended, which is more than timers are late.
const MARGIN: Duration = Duration::from_millis(3);

/// When the call is to be over; none where the client does not say so in the protocol's form.
pub(super) fn of(headers: &MetadataMap) -> Option<Instant> {
    let timeout = timeout(headers.get(HEADER)?.to_str().ok()?)?;
    Instant::now().checked_add(timeout.saturating_sub(MARGIN))
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The answer, unless its work takes longer than `deadline`; it is dropped then.
pub(super) async fn met<T>(
    work: impl Future<Output = Result<T, Status>>,
    deadline: Option<Instant>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(deadline) => timeout_at(deadline, work)
            .await
            .unwrap_or_else(|_| Err(status::of(&late(), None))),
    }
}

/// The same items up to `deadline`, where an error ends them. What makes them is dropped with it.
pub(super) fn held<T: Send + 'static>(items: Stream<T>, deadline: Option<Instant>) -> Stream<T> {
    let Some(deadline) = deadline else {
        return items;
    };
    let timed = (items, Box::pin(sleep_until(deadline)));
    stream::unfold(Some(timed), |timed| async move {
        let (mut items, mut time) = timed?;
        tokio::select! {
            item = items.next() => item.map(|item| (item, Some((items, time)))),
            () = &mut time => Some((Err(status::of(&late(), None)), None)),
        }
    })
    .boxed()
}

fn late() -> Failure {
    let message =
        "the call took longer than its client gave it (grpc-timeout); give it more time, or ask for fewer rows";
    Failure::new(FailureKind::Deadline, message)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("3000m", Some(Duration::from_secs(3))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("100000000S", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_late() {
        let soon = Instant::now() + Duration::from_millis(20);
        let never = std::future::pending::<Result<(), Status>>();
        let status = met(never, Some(soon)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        for deadline in [None, Some(soon)] {
            assert_eq!(met(async { Ok(1) }, deadline).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn rows_end_at_the_deadline_with_a_reason() {
        let endless = stream::iter([Ok(1)]).chain(stream::pending()).boxed();
        let soon = Instant::now() + Duration::from_millis(20);
        let items: Vec<_> = held(endless, Some(soon)).collect().await;
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].as_ref().ok(), Some(&1));
        let status = items[1].as_ref().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        // What ends in time ends as it would.
        let later = Instant::now() + Duration::from_secs(600);
        let whole: Vec<_> = held(stream::iter([Ok(1), Ok(2)]).boxed(), Some(later)).collect().await;
        assert_eq!(whole.len(), 2);
    }
}
