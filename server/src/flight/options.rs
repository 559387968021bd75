//! Session options: the same settings that SQL reaches with SET, under the names drivers use.
//!
//! `catalog` and `schema` are what JDBC's `catalog=` and ADBC's current catalog and schema send; every other option is
//! a DataFusion setting by its full name.

use std::collections::HashMap;

use datafusion::config::ConfigOptions;
use datafusion::prelude::SessionContext;

use super::messages::{
    GetSessionOptionsResult, OptionValue, SessionOptionValue, SetSessionOptionError,
    SetSessionOptionErrorKind, SetSessionOptionsRequest, SetSessionOptionsResult,
};

const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";

/// Sets each option that can be set, and names those that cannot.
pub(super) fn set(
    context: &SessionContext,
    request: SetSessionOptionsRequest,
) -> SetSessionOptionsResult {
    // The catalog first, since a schema is looked up in it.
    let mut options: Vec<_> = request.session_options.into_iter().collect();
    options.sort_by_key(|(name, _)| (name != CATALOG, name.clone()));
    let errors = options
        .into_iter()
        .filter_map(|(name, value)| {
            let kind = set_one(context, &name, value.value).err()?;
            Some((name, SetSessionOptionError { value: kind.into() }))
        })
        .collect();
    SetSessionOptionsResult { errors }
}

/// All options of a session.
pub(super) fn get(context: &SessionContext) -> GetSessionOptionsResult {
    let config = context.copied_config();
    let defaults = &config.options().catalog;
    let mut session_options: HashMap<_, _> = config
        .options()
        .entries()
        .into_iter()
        .filter_map(|entry| Some((entry.key, text(entry.value?))))
        .collect();
    session_options.insert(CATALOG.into(), text(defaults.default_catalog.clone()));
    session_options.insert(SCHEMA.into(), text(defaults.default_schema.clone()));
    GetSessionOptionsResult { session_options }
}

fn set_one(
    context: &SessionContext,
    name: &str,
    value: Option<OptionValue>,
) -> Result<(), SetSessionOptionErrorKind> {
    let key = match name {
        CATALOG => "datafusion.catalog.default_catalog",
        SCHEMA => "datafusion.catalog.default_schema",
        name => name,
    };
    let default = ConfigOptions::new()
        .entries()
        .into_iter()
        .find(|entry| entry.key == key)
        .ok_or(SetSessionOptionErrorKind::InvalidName)?;
    let value = match value {
        Some(value) => as_text(value)?,
        None => default
            .value
            .ok_or(SetSessionOptionErrorKind::InvalidValue)?,
    };
    if !exists(context, name, &value) {
        return Err(SetSessionOptionErrorKind::InvalidValue);
    }
    let state = context.state_ref();
    let mut state = state.write();
    state
        .config_mut()
        .options_mut()
        .set(key, &value)
        .map_err(|_| SetSessionOptionErrorKind::InvalidValue)
}

/// Whether a catalog or schema of that name is there; true for every other option.
fn exists(context: &SessionContext, name: &str, value: &str) -> bool {
    match name {
        CATALOG => context.catalog(value).is_some(),
        SCHEMA => {
            let config = context.copied_config();
            context
                .catalog(&config.options().catalog.default_catalog)
                .is_some_and(|catalog| catalog.schema(value).is_some())
        }
        _ => true,
    }
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
    use super::*;

    fn set_to(context: &SessionContext, name: &str, value: Option<OptionValue>) -> Option<i32> {
        let request = SetSessionOptionsRequest {
            session_options: HashMap::from([(name.into(), SessionOptionValue { value })]),
        };
        set(context, request)
            .errors
            .get(name)
            .map(|error| error.value)
    }

    fn option(context: &SessionContext, name: &str) -> String {
        match get(context).session_options[name].value.clone() {
            Some(OptionValue::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_setting_is_set_read_and_unset() {
        let context = SessionContext::new();
        let name = "datafusion.execution.batch_size";
        let before = option(&context, name);
        assert_eq!(set_to(&context, name, Some(OptionValue::Integer(17))), None);
        assert_eq!(option(&context, name), "17");
        assert_eq!(set_to(&context, name, None), None);
        assert_eq!(option(&context, name), before);
    }

    #[test]
    fn catalog_and_schema_must_exist() {
        let context = SessionContext::new();
        let text = |text: &str| Some(OptionValue::Text(text.into()));
        let invalid = Some(SetSessionOptionErrorKind::InvalidValue.into());
        assert_eq!(set_to(&context, CATALOG, text("datafusion")), None);
        assert_eq!(set_to(&context, SCHEMA, text("public")), None);
        assert_eq!(set_to(&context, CATALOG, text("nowhere")), invalid);
        assert_eq!(set_to(&context, SCHEMA, text("nowhere")), invalid);
        assert_eq!(option(&context, CATALOG), "datafusion");
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        let context = SessionContext::new();
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
            assert_eq!(set_to(&context, name, Some(value)), Some(kind.into()));
        }
    }
}
