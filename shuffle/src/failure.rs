//! Converts DataFusion's errors to [`Failure`] and back: the one place that decides the kind of an engine error.

use std::any::Any;
use std::error::Error;
use std::io;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::parquet::errors::ParquetError;
use squadron_proto::failure::panic_message;
use squadron_proto::{Failure, FailureKind};

use crate::sentences::sentence;

/// The failure behind `error`, by its root cause. A [`Failure`] anywhere in the chain is returned unchanged.
pub fn of(error: &DataFusionError) -> Failure {
    use DataFusionError as E;
    match error {
        E::Context(_, inner) | E::Diagnostic(_, inner) => of(inner),
        E::Shared(inner) => of(inner),
        E::Collection(errors) => errors
            .first()
            .map_or_else(|| Failure::internal("an empty collection of errors"), of),
        E::External(inner) => external(inner.as_ref()),
        E::ArrowError(inner, _) => arrow(inner),
        E::ParquetError(inner) => parquet(inner),
        E::ObjectStore(inner) => storage(inner),
        E::IoError(inner) => file(inner),
        E::SQL(inner, _) => told(FailureKind::Invalid, &inner.to_string()),
        E::Plan(text) | E::Configuration(text) | E::Execution(text) | E::Substrait(text) => {
            told(FailureKind::Invalid, without_backtrace(text))
        }
        E::SchemaError(inner, _) => Failure::new(FailureKind::Invalid, inner.to_string()),
        E::NotImplemented(text) => told(FailureKind::Unsupported, without_backtrace(text)),
        E::ResourcesExhausted(text) => Failure::new(FailureKind::Exhausted, without_backtrace(text)),
        E::ExecutionJoin(inner) if inner.is_cancelled() => Failure::new(FailureKind::Cancelled, "the work was stopped"),
        E::ExecutionJoin(inner) => Failure::internal(inner),
        E::Internal(text) | E::Ffi(text) => Failure::internal(without_backtrace(text)),
    }
}

/// The failure behind an error that came while a file was read: what a decompressor says of its content is no bug.
pub fn of_file(error: &DataFusionError) -> Failure {
    let failure = of(error);
    let is_io = match error.find_root() {
        DataFusionError::IoError(_) => true,
        DataFusionError::ArrowError(inner, _) => matches!(inner.as_ref(), ArrowError::IoError(..)),
        _ => false,
    };
    match failure.kind {
        FailureKind::Internal if is_io => {
            Failure::new(FailureKind::Invalid, format!("its content is broken ({error})"))
        }
        _ => failure,
    }
}

/// Wraps `failure` in an error that a plan may return and from which [`of`] gets `failure` back.
pub fn into_datafusion(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

/// The [`Failure`] of an Arrow error.
pub(crate) fn arrow(error: &ArrowError) -> Failure {
    use ArrowError as E;
    let kind = match error {
        E::ExternalError(inner) => return external(inner.as_ref()),
        E::IoError(_, inner) => return file(inner),
        E::NotYetImplemented(_) => FailureKind::Unsupported,
        E::MemoryError(_) => FailureKind::Exhausted,
        E::SchemaError(_) | E::CDataInterface(_) => FailureKind::Internal,
        E::CastError(_)
        | E::ParseError(_)
        | E::ComputeError(_)
        | E::DivideByZero
        | E::ArithmeticOverflow(_)
        | E::CsvError(_)
        | E::JsonError(_)
        | E::AvroError(_)
        | E::IpcError(_)
        | E::InvalidArgumentError(_)
        | E::ParquetError(_)
        | E::DictionaryKeyOverflowError
        | E::RunEndIndexOverflowError
        | E::OffsetOverflowError(_) => FailureKind::Invalid,
    };
    told(kind, &error.to_string())
}

fn parquet(error: &ParquetError) -> Failure {
    match error {
        ParquetError::External(inner) => external(inner.as_ref()),
        other => Failure::new(FailureKind::Invalid, other.to_string()),
    }
}

fn storage(error: &object_store::Error) -> Failure {
    let kind = match error {
        object_store::Error::NotFound { .. } => FailureKind::NotFound,
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            FailureKind::Unsupported
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            FailureKind::Denied
        }
        _ => FailureKind::Storage,
    };
    Failure::new(kind, error.to_string())
}

/// Whether a disk has no room, or no more for this user.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn file(error: &io::Error) -> Failure {
    let of_content = matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
    );
    if let Some(inner) = error.get_ref() {
        let known = external(inner);
        // A decoder says what is wrong with what it was given, in an error of its own.
        if known.kind != FailureKind::Internal || !of_content {
            return known;
        }
    }
    let kind = match error.kind() {
        _ if of_content => FailureKind::Invalid,
        io::ErrorKind::NotFound => FailureKind::NotFound,
        io::ErrorKind::PermissionDenied => FailureKind::Denied,
        _ if is_disk_full(error) => FailureKind::DiskFull,
        _ => FailureKind::Storage,
    };
    Failure::new(kind, error.to_string())
}

/// The failure behind an error of an unknown type: the first of its sources that has a known type decides.
fn external(error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    while let Some(known) = cause {
        if let Some(failure) = known.downcast_ref::<Failure>() {
            return failure.clone();
        } else if let Some(inner) = known.downcast_ref::<DataFusionError>() {
            return of(inner);
        } else if let Some(inner) = known.downcast_ref::<Arc<DataFusionError>>() {
            return of(inner);
        } else if let Some(inner) = known.downcast_ref::<ArrowError>() {
            return arrow(inner);
        } else if let Some(inner) = known.downcast_ref::<ParquetError>() {
            return parquet(inner);
        } else if let Some(inner) = known.downcast_ref::<object_store::Error>() {
            return storage(inner);
        } else if let Some(inner) = known.downcast_ref::<io::Error>() {
            return file(inner);
        }
        cause = known.source();
    }
    Failure::internal(error)
}

/// What a library says, as a sentence.
fn told(kind: FailureKind, text: &str) -> Failure {
    Failure::new(kind, sentence(text))
}

fn without_backtrace(text: &str) -> &str {
    text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or(text)
}

/// The failure of a reader that panicked at the content of a file, without the file's name: a length, an offset or a
/// statistic in it is impossible.
pub fn of_broken_file(panic: &(dyn Any + Send)) -> Failure {
    let said = panic_message(panic).unwrap_or("its reader gave up");
    Failure::new(FailureKind::Invalid, format!("its content is broken ({said})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_survives_every_wrapping() {
        let lost = Failure::new(FailureKind::ShuffleLost, "worker 2 is gone");
        let wrappings = [
            into_datafusion(lost.clone()),
            into_datafusion(lost.clone()).context("while joining"),
            DataFusionError::Shared(Arc::new(into_datafusion(lost.clone()))),
            DataFusionError::External(Box::new(Arc::new(into_datafusion(lost.clone())))),
            ArrowError::from_external_error(Box::new(into_datafusion(lost.clone()))).into(),
            DataFusionError::IoError(io::Error::other(lost.clone())),
            DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(lost.clone())))),
            DataFusionError::Collection(vec![into_datafusion(lost.clone())]),
        ];
        for wrapped in wrappings {
            assert_eq!(of(&wrapped), lost, "{wrapped:?}");
        }
    }

    #[test]
    fn kind_follows_the_root_cause() {
        let missing = object_store::Error::NotFound {
            path: "a".into(),
            source: "gone".into(),
        };
        let table: [(DataFusionError, FailureKind); 9] = [
            (ArrowError::DivideByZero.into(), FailureKind::Invalid),
            (ArrowError::CastError("x".into()).into(), FailureKind::Invalid),
            (
                DataFusionError::ResourcesExhausted("no".into()).context("sort"),
                FailureKind::Exhausted,
            ),
            (DataFusionError::NotImplemented("no".into()), FailureKind::Unsupported),
            (DataFusionError::Plan("no".into()), FailureKind::Invalid),
            (DataFusionError::Internal("no".into()), FailureKind::Internal),
            (DataFusionError::ObjectStore(Box::new(missing)), FailureKind::NotFound),
            (
                DataFusionError::ObjectStore(Box::new(object_store::Error::Generic {
                    store: "S3",
                    source: "503".into(),
                })),
                FailureKind::Storage,
            ),
            (DataFusionError::External("unheard of".into()), FailureKind::Internal),
        ];
        for (error, kind) in table {
            assert_eq!(of(&error).kind, kind, "{error:?}");
        }
    }
}
