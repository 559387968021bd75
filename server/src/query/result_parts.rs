//! The rows of a query that runs, part by part: a part is what one task of the root stage writes.
//!
//! | happens | the part is |
//! |---|---|
//! | the result is ready | opened, and its frames forwarded as they come |
//! | it is lost, and no frame of it was forwarded | opened again where it is written now |
//! | it is lost, and all its frames were forwarded | not needed any more |
//! | it is lost, and some of its frames were forwarded | opened again too, and read on from there; if its frames are not the same until then, that is the end of the query |
//! | it is void: its rows do not belong to the result any more | opened again if no frame was forwarded, else the end of the query |
//!
//! Rows that the server keeps for itself (the names of written files, say) have not been forwarded: those of a lost part are
//! dropped.
//!
//! A stream that breaks is the consequence of something. Usually the scheduler hears of that too, within moments; if the
//! server alone cannot reach a worker, the scheduler hears of it here.

use std::collections::BTreeMap;

use arrow_flight::FlightData;
use datafusion::arrow::datatypes::SchemaRef;
use futures::stream::{self, AbortHandle, BoxStream, SelectAll, abortable};
use futures::{Stream, StreamExt};
use squadron_proto::{AttemptKey, AttemptNumber, Failure, FailureKind, TaskId};
use squadron_scheduler::{LostParts, QuerySummary, ResultPart};
use tokio::time::timeout;

use super::delivered::{Delivered, Fate};
use super::result_reader::{CAUSE_PATIENCE, Frames, PartFrames, ResultReader, is_loss};
use crate::driver::{QueryEvents, QueryUpdate};

/// Rows of a query that runs, and the query's own fate. Dropping it cancels the query.
pub(super) struct RunningRows {
    reader: ResultReader,
    schema: SchemaRef,
    events: QueryEvents,
    parts: BTreeMap<TaskId, Part>,
    /// Parts that can be read and are not opened yet.
    unopened: Vec<ResultPart>,
    frames: SelectAll<BoxStream<'static, (AttemptKey, Step)>>,
    use_of_rows: UseOfRows,
    kept_bytes: usize,
    summary: Option<QuerySummary>,
}

/// Where rows go as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UseOfRows {
    /// To the client.
    Forward,
    /// They are kept with their parts, so many bytes at most. What is lost is dropped and comes again.
    Keep { max_bytes: usize },
    /// To nobody.
    ThrowAway,
}

#[derive(Debug, Default)]
struct Part {
    /// The attempt that is read; none while the part is lost.
    attempt: Option<AttemptNumber>,
    /// The attempt whose stream broke off; it is not read again.
    broken: Option<AttemptNumber>,
    /// Ends its stream.
    abort: Option<AbortHandle>,
    delivered: Delivered,
    /// The frames that are kept.
    kept: Vec<FlightData>,
    /// Why it was lost, the last time.
    loss: Option<Failure>,
    is_complete: bool,
}

/// What comes of a part.
enum Step {
    Frame(u32, FlightData),
    Broken(Failure),
    Complete,
}

impl RunningRows {
    /// Waits until the result can be read, and opens all parts.
    ///
    /// # Errors
    /// The query's own failure.
    pub(super) async fn open(reader: ResultReader, schema: SchemaRef, events: QueryEvents) -> Result<Self, Failure> {
        let mut rows = Self {
            reader,
            schema,
            events,
            parts: BTreeMap::new(),
            unopened: Vec::new(),
            frames: SelectAll::new(),
            use_of_rows: UseOfRows::Forward,
            kept_bytes: 0,
            summary: None,
        };
        while !rows.is_open() {
            match rows.unopened.pop() {
                Some(part) => rows.open_part(part).await?,
                None => rows.wait().await?,
            }
        }
        Ok(rows)
    }

    /// All frames, then the query's failure if it has one.
    pub(super) fn into_stream(self) -> Frames {
        stream::unfold(Some(self), |rows| async move {
            let mut rows = rows?;
            match rows.next().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(rows))),
                Ok(None) => match rows.end().await {
                    Ok(_) => None,
                    Err(failure) => Some((Err(failure), None)),
                },
                Err(failure) => Some((Err(failure), None)),
            }
        })
        .boxed()
    }

    /// Reads all frames and forgets them.
    ///
    /// # Errors
    /// The query's own failure.
    pub(super) async fn throw_away(&mut self) -> Result<(), Failure> {
        self.use_of_rows = UseOfRows::ThrowAway;
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Reads all frames, up to `max_bytes` of them, part by part. The query has ended well when this returns.
    ///
    /// # Errors
    /// The query's own failure; `Exhausted` where there is more.
    pub(super) async fn collect(mut self, max_bytes: usize) -> Result<Vec<FlightData>, Failure> {
        self.use_of_rows = UseOfRows::Keep { max_bytes };
        while self.next().await?.is_some() {}
        let parts = std::mem::take(&mut self.parts);
        self.end().await?;
        Ok(parts.into_values().flat_map(|part| part.kept).collect())
    }

    /// Tells the scheduler that all rows were read, and waits for the end of the query.
    ///
    /// # Errors
    /// The query's own failure.
    pub(super) async fn end(mut self) -> Result<QuerySummary, Failure> {
        self.events.result_done();
        while self.summary.is_none() {
            match self.events.next().await {
                Some(QueryUpdate::Ended(outcome)) => self.summary = Some(outcome?),
                // What was lost is not needed any more.
                Some(QueryUpdate::PartsLost { .. } | QueryUpdate::ResultReady { .. }) => {}
                None => break,
            }
        }
        let summary = self.summary.take();
        summary.ok_or_else(|| Failure::internal("the query never ended after its last row"))
    }

    fn is_open(&self) -> bool {
        let mut parts = self.parts.values();
        !self.parts.is_empty()
            && self.unopened.is_empty()
            && parts.all(|part| part.attempt.is_some() || part.is_complete)
    }

    /// The next frame; none when all parts are complete. The query's failure goes before what the loss of a stream says,
    /// since it names the cause.
    async fn next(&mut self) -> Result<Option<FlightData>, Failure> {
        loop {
            if let Some(part) = self.unopened.pop() {
                self.open_part(part).await?;
                continue;
            }
            if self.parts.values().all(|part| part.is_complete) {
                return Ok(None);
            }
            if self.summary.is_some() && self.frames.is_empty() {
                return Err(Failure::internal("the query ended before all its rows were read"));
            }
            let has_frames = !self.frames.is_empty();
            tokio::select! {
                biased;
                update = self.events.next(), if self.summary.is_none() => self.take(update)?,
                Some((attempt, step)) = self.frames.next(), if has_frames => {
                    if let Some(frame) = self.take_step(attempt, step).await? {
                        return Ok(Some(frame));
                    }
                }
            }
        }
    }

    async fn take_step(&mut self, attempt: AttemptKey, step: Step) -> Result<Option<FlightData>, Failure> {
        let part = self.parts.entry(attempt.task).or_default();
        match (step, self.use_of_rows) {
            (Step::Frame(_, frame), UseOfRows::ThrowAway) => return Ok(Some(frame)),
            (Step::Frame(_, frame), UseOfRows::Keep { max_bytes }) => {
                self.kept_bytes += bytes_of(&frame);
                part.kept.push(frame);
                self.check_kept(max_bytes)?;
            }
            (Step::Frame(partition, frame), UseOfRows::Forward) => match part.delivered.take(partition, &frame) {
                Fate::Forward => return Ok(Some(frame)),
                Fate::Skip => {}
                Fate::Differs => return Err(self.give_up(attempt.task)),
            },
            (Step::Complete, _) if part.delivered.is_behind() => return Err(self.give_up(attempt.task)),
            (Step::Complete, _) => part.is_complete = true,
            (Step::Broken(broken), _) => self.wait_for_cause(attempt, broken).await?,
        }
        Ok(None)
    }

    /// Waits for the next update.
    async fn wait(&mut self) -> Result<(), Failure> {
        let update = self.events.next().await;
        self.take(update)
    }

    fn take(&mut self, update: Option<QueryUpdate>) -> Result<(), Failure> {
        match update {
            Some(QueryUpdate::ResultReady { parts }) => self.announce(parts),
            Some(QueryUpdate::PartsLost { parts, failure }) => return self.lose(&parts, &failure),
            Some(QueryUpdate::Ended(outcome)) => self.summary = Some(outcome?),
            None => return Err(Failure::internal("the query ended before its result could be read")),
        }
        Ok(())
    }

    fn announce(&mut self, parts: Vec<ResultPart>) {
        for part in parts {
            let known = self.parts.entry(part.attempt.task).or_default();
            let attempt = Some(part.attempt.attempt);
            if !known.is_complete && known.attempt != attempt && known.broken != attempt {
                known.attempt = None;
                self.unopened.retain(|other| other.attempt.task != part.attempt.task);
                self.unopened.push(part);
            }
        }
    }

    async fn open_part(&mut self, part: ResultPart) -> Result<(), Failure> {
        let attempt = part.attempt;
        match self.reader.part(&self.schema, &part).await {
            Ok(frames) => {
                let (frames, abort) = abortable(steps(frames));
                self.frames.push(frames.map(move |step| (attempt, step)).boxed());
                let known = self.parts.entry(attempt.task).or_default();
                known.delivered.start_again();
                let dropped = known.kept.drain(..);
                self.kept_bytes -= dropped.map(|frame| bytes_of(&frame)).sum::<usize>();
                known.attempt = Some(attempt.attempt);
                if let Some(before) = known.abort.replace(abort) {
                    before.abort();
                }
                Ok(())
            }
            Err(broken) => self.wait_for_cause(attempt, broken).await,
        }
    }

    fn check_kept(&self, max_bytes: usize) -> Result<(), Failure> {
        if self.kept_bytes <= max_bytes {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Exhausted,
            format!(
                "the result is larger than the {max_bytes} bytes that the server keeps for such a statement; make it \
                 smaller, or bind one row of parameters at a time"
            ),
        ))
    }

    /// Parts are lost. They are announced again.
    fn lose(&mut self, lost: &LostParts, failure: &Failure) -> Result<(), Failure> {
        for (task, is_void) in all(lost) {
            self.unopened.retain(|part| part.attempt.task != task);
            let part = self.parts.entry(task).or_default();
            part.loss = Some(failure.clone());
            if is_void && !part.delivered.is_empty() {
                return Err(self.give_up(task));
            }
            part.is_complete &= !is_void;
            part.attempt = None;
            if let Some(abort) = part.abort.take() {
                abort.abort();
            }
        }
        Ok(())
    }

    /// The rows of a part that the client has are not those of the result any more.
    fn give_up(&mut self, part: TaskId) -> Failure {
        let loss = self.parts.get(&part).and_then(|part| part.loss.clone());
        let loss = loss.unwrap_or_else(|| Failure::internal("an attempt gave other rows than itself"));
        let message = format!(
            "{}; a part of the rows had been sent already, and they would come in another order or be others, so the \
             server did not run the statement again by itself: it is safe to run it again",
            loss.message
        );
        let failure = Failure::new(loss.kind, message);
        self.events.give_up(failure.clone());
        failure
    }

    /// A part broke off. Waits until the scheduler says that it is lost, or why the query failed.
    async fn wait_for_cause(&mut self, attempt: AttemptKey, broken: Failure) -> Result<(), Failure> {
        if is_loss(&broken) {
            self.events.cannot_read(broken.clone());
        }
        let part = self.parts.entry(attempt.task).or_default();
        part.attempt = None;
        part.broken = Some(attempt.attempt);
        let cause = async {
            loop {
                let update = self.events.next().await;
                let settles = update.as_ref().is_none_or(|update| concerns(update, attempt));
                self.take(update)?;
                if settles {
                    return Ok(());
                }
            }
        };
        match timeout(CAUSE_PATIENCE, cause).await {
            Ok(outcome) => outcome,
            Err(_) => Err(broken),
        }
    }
}

fn bytes_of(frame: &FlightData) -> usize {
    frame.data_header.len() + frame.data_body.len()
}

/// Each lost part, and whether it is void.
fn all(lost: &LostParts) -> impl Iterator<Item = (TaskId, bool)> + '_ {
    let void = lost.void.iter().map(|task| (*task, true));
    void.chain(lost.lost.iter().map(|task| (*task, false)))
}

/// Whether an update settles what becomes of a part whose attempt broke off.
fn concerns(update: &QueryUpdate, broken: AttemptKey) -> bool {
    match update {
        QueryUpdate::PartsLost { parts, .. } => all(parts).any(|(lost, _)| lost == broken.task),
        QueryUpdate::ResultReady { parts } => {
            let mut others = parts.iter().filter(|part| part.attempt != broken);
            others.any(|part| part.attempt.task == broken.task)
        }
        QueryUpdate::Ended(_) => true,
    }
}

/// The frames of a part, then how it ends.
fn steps(frames: PartFrames) -> impl Stream<Item = Step> + Send + 'static {
    stream::unfold(Some(frames), |frames| async move {
        let mut frames = frames?;
        match frames.next().await {
            Some(Ok((partition, frame))) => Some((Step::Frame(partition, frame), Some(frames))),
            Some(Err(broken)) => Some((Step::Broken(broken), None)),
            None => Some((Step::Complete, None)),
        }
    })
}
