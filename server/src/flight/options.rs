//! Session options over Flight: the same options that SQL reaches with SET, under the names drivers use.

use super::messages::{
    GetSessionOptionsResult, OptionValue, SessionOptionValue, SetSessionOptionError, SetSessionOptionErrorKind,
    SetSessionOptionsRequest, SetSessionOptionsResult,
};
use crate::query::{Queries, Session};
use crate::settings::session::{self, CATALOG, Wrong};

/// Sets each option that can be set, and names those that cannot.
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
    let options = session::all(&session.context).into_iter();
    let session_options = options.filter_map(|(name, value)| Some((name, text(value?))));
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
    let value = value.map(as_text).transpose()?;
    queries.set_option(session, name, value.as_deref()).map_err(|wrong| {
        tracing::debug!("an option was not set: {wrong}");
        match wrong {
            Wrong::Name(_) => SetSessionOptionErrorKind::InvalidName,
            Wrong::Value(_) => SetSessionOptionErrorKind::InvalidValue,
        }
    })
}

fn as_text(value: OptionValue) -> Result<String, SetSessionOptionErrorKind> {
    match value {
        OptionValue::Text(text) => Ok(text),
        OptionValue::Flag(flag) => Ok(flag.to_string()),
        OptionValue::Integer(number) => Ok(number.to_string()),
        OptionValue::Real(number) => Ok(number.to_string()),
        OptionValue::List(_) => Err(SetSessionOptionErrorKind::InvalidValue),
    }
}

fn text(value: String) -> SessionOptionValue {
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

    async fn session() -> (Queries, Session) {
        queries_and_session().await
    }

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
    async fn a_setting_is_set_read_and_unset() {
        let session = session().await;
        let name = "datafusion.execution.batch_size";
        let before = option(&session, name);
        assert_eq!(set_to(&session, name, Some(OptionValue::Integer(17))), None);
        assert_eq!(option(&session, name), "17");
        assert_eq!(set_to(&session, name, None), None);
        assert_eq!(option(&session, name), before);
    }

    #[tokio::test]
    async fn catalog_and_schema_must_exist() {
        let session = session().await;
        let text = |text: &str| Some(OptionValue::Text(text.into()));
        let invalid = Some(SetSessionOptionErrorKind::InvalidValue.into());
        assert_eq!(set_to(&session, CATALOG, text("datafusion")), None);
        assert_eq!(set_to(&session, SCHEMA, text("public")), None);
        assert_eq!(set_to(&session, CATALOG, text("nowhere")), invalid);
        assert_eq!(set_to(&session, SCHEMA, text("nowhere")), invalid);
        assert_eq!(option(&session, CATALOG), "datafusion");
    }

    #[tokio::test]
    async fn what_cannot_be_set_is_named() {
        let session = session().await;
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
