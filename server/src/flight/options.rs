//! Session options over Flight: the same options that SQL sets with SET, under the names that drivers use.

use super::messages::{
    GetSessionOptionsResult, OptionValue, SessionOptionValue, SetSessionOptionError, SetSessionOptionErrorKind,
    SetSessionOptionsRequest, SetSessionOptionsResult,
};
use crate::query::{Queries, Session};
use crate::settings::session::{self, CATALOG, OptionError};

/// Sets the options of a request, and answers those that could not be set.
pub(super) fn set(queries: &Queries, session: &Session, request: SetSessionOptionsRequest) -> SetSessionOptionsResult {
    // The catalog first, since a schema is looked up in it.
    let mut options: Vec<_> = request.session_options.into_iter().collect();
    options.sort_by_key(|(name, _)| (name != CATALOG, name.clone()));
    let errors = options
        .into_iter()
        .filter_map(|(name, value)| {
            let kind = set_one(queries, session, &name, value.value).err()?;
            Some((name, SetSessionOptionError { value: kind.into() }))
        })
        .collect();
    SetSessionOptionsResult { errors }
}

/// All options of a session that have a value.
pub(super) fn get(session: &Session) -> GetSessionOptionsResult {
    let options = session.with_context(session::all).into_iter();
    let session_options = options.filter_map(|(name, value)| Some((name, to_option_value(value?))));
    GetSessionOptionsResult {
        session_options: session_options.collect(),
    }
}

fn set_one(
    queries: &Queries,
    session: &Session,
    name: &str,
    value: Option<OptionValue>,
) -> Result<(), SetSessionOptionErrorKind> {
    let value = value.map(into_text).transpose()?;
    queries.set_option(session, name, value.as_deref()).map_err(|wrong| {
        tracing::debug!("an option was not set: {wrong}");
        match wrong {
            OptionError::Name(_) => SetSessionOptionErrorKind::InvalidName,
            OptionError::Value(_) => SetSessionOptionErrorKind::InvalidValue,
        }
    })
}

fn into_text(value: OptionValue) -> Result<String, SetSessionOptionErrorKind> {
    match value {
        OptionValue::Text(text) => Ok(text),
        OptionValue::Flag(flag) => Ok(flag.to_string()),
        OptionValue::Integer(number) => Ok(number.to_string()),
        OptionValue::Real(number) => Ok(number.to_string()),
        OptionValue::List(_) => Err(SetSessionOptionErrorKind::InvalidValue),
    }
}

fn to_option_value(value: String) -> SessionOptionValue {
    SessionOptionValue {
        value: Some(OptionValue::Text(value)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::flight::tests::queries_and_session;
    use crate::settings::session::SCHEMA;

    fn set_to((queries, session): &(Queries, Session), name: &str, value: Option<OptionValue>) -> Option<i32> {
        let request = SetSessionOptionsRequest {
            session_options: HashMap::from([(name.into(), SessionOptionValue { value })]),
        };
        let result = set(queries, session, request);
        result.errors.get(name).map(|error| error.value)
    }

    fn option((_, session): &(Queries, Session), name: &str) -> String {
        match get(session).session_options[name].value.clone() {
            Some(OptionValue::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn unset_setting_gets_its_default() {
        let session = queries_and_session().await;
        let name = "datafusion.execution.batch_size";
        let before = option(&session, name);
        assert_eq!(set_to(&session, name, Some(OptionValue::Integer(17))), None);
        assert_eq!(option(&session, name), "17");
        assert_eq!(set_to(&session, name, None), None);
        assert_eq!(option(&session, name), before);
    }

    #[tokio::test]
    async fn catalog_and_schema_must_exist() {
        let session = queries_and_session().await;
        let text = |text: &str| Some(OptionValue::Text(text.into()));
        let invalid = Some(SetSessionOptionErrorKind::InvalidValue.into());
        assert_eq!(set_to(&session, CATALOG, text("datafusion")), None);
        assert_eq!(set_to(&session, SCHEMA, text("public")), None);
        assert_eq!(set_to(&session, CATALOG, text("nowhere")), invalid);
        assert_eq!(set_to(&session, SCHEMA, text("nowhere")), invalid);
        assert_eq!(option(&session, CATALOG), "datafusion");
    }

    #[tokio::test]
    async fn unsettable_options_are_named() {
        let session = queries_and_session().await;
        let list = OptionValue::List(Default::default());
        let batch_size = "datafusion.execution.batch_size";
        for (name, value, kind) in [
            (
                "colour",
                OptionValue::Flag(true),
                SetSessionOptionErrorKind::InvalidName,
            ),
            (batch_size, list, SetSessionOptionErrorKind::InvalidValue),
            (
                batch_size,
                OptionValue::Text("many".into()),
                SetSessionOptionErrorKind::InvalidValue,
            ),
        ] {
            assert_eq!(set_to(&session, name, Some(value)), Some(kind.into()));
        }
    }
}
