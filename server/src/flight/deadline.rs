//! Enforces the deadline that a client sets for a call, until the answer begins and while rows are sent.
//!
//! Most clients end their call themselves at its deadline, and tonic's server ends a call whose answer has not begun,
//! but with `Cancelled`, which does not name the cause. So the call is ended here with `DeadlineExceeded`, a moment
//! earlier.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use squadron_proto::{Failure, FailureKind};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::status::{self, Stream};

/// gRPC over HTTP/2, "Requests": `grpc-timeout` is at most eight digits and a unit.
const HEADER: &str = "grpc-timeout";
const MAX_DIGITS: usize = 8;

/// How much earlier than the client's deadline a call is ended: more than timers are late.
const MARGIN: Duration = Duration::from_millis(3);

/// The deadline of a call; `None` without a timeout in the protocol's form.
pub(super) fn from_headers(headers: &MetadataMap) -> Option<Instant> {
    let timeout = parse_timeout(headers.get(HEADER)?.to_str().ok()?)?;
    Instant::now().checked_add(timeout.saturating_sub(MARGIN))
}

fn parse_timeout(text: &str) -> Option<Duration> {
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

/// Runs `work`; at `deadline` it is dropped and the call fails.
pub(super) async fn enforce<T>(
    work: impl Future<Output = Result<T, Status>>,
    deadline: Option<Instant>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(deadline) => timeout_at(deadline, work)
            .await
            .unwrap_or_else(|_| Err(status::from_failure(&exceeded(), None))),
    }
}

/// The same items up to `deadline`, at which an error ends the stream and `items` is dropped.
pub(super) fn limit_stream<T: Send + 'static>(items: Stream<T>, deadline: Option<Instant>) -> Stream<T> {
    let Some(deadline) = deadline else {
        return items;
    };
    let timed = (items, Box::pin(sleep_until(deadline)));
    stream::unfold(Some(timed), |timed| async move {
        let (mut items, mut time) = timed?;
        tokio::select! {
            item = items.next() => item.map(|item| (item, Some((items, time)))),
            () = &mut time => Some((Err(status::from_failure(&exceeded(), None)), None)),
        }
    })
    .boxed()
}

fn exceeded() -> Failure {
    let message =
        "the call took longer than its client gave it (grpc-timeout); give it more time, or ask for fewer rows";
    Failure::new(FailureKind::Deadline, message)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn timeout_is_parsed_with_unit() {
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
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn pending_answer_exceeds_its_deadline() {
        let soon = Instant::now() + Duration::from_millis(20);
        let never = std::future::pending::<Result<(), Status>>();
        let status = enforce(never, Some(soon)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        for deadline in [None, Some(soon)] {
            assert_eq!(enforce(async { Ok(1) }, deadline).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn stream_ends_at_its_deadline() {
        let endless = stream::iter([Ok(1)]).chain(stream::pending()).boxed();
        let soon = Instant::now() + Duration::from_millis(20);
        let items: Vec<_> = limit_stream(endless, Some(soon)).collect().await;
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].as_ref().ok(), Some(&1));
        let status = items[1].as_ref().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        // A stream that ends before its deadline is complete.
        let later = Instant::now() + Duration::from_secs(600);
        let whole: Vec<_> = limit_stream(stream::iter([Ok(1), Ok(2)]).boxed(), Some(later))
            .collect()
            .await;
        assert_eq!(whole.len(), 2);
    }
}
