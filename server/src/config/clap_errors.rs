//! Clap's errors as one sentence: flag, value, remedy.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::origins::Origins;

/// Describes `error` in one sentence.
pub(super) fn describe(error: &clap::Error, origins: &Origins) -> String {
    let text = |kind| error.get(kind).map(first_text).unwrap_or_default();
    let argument = flag_name(&text(ContextKind::InvalidArg));
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
            let subject = subject(&argument, &value, origins);
            // The standard library's own parsers describe the value without a remedy.
            match reason.contains(';') {
                true => format!("{subject} {reason}"),
                false => format!("{subject} does not fit ({reason}); correct the value"),
            }
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{argument} needs a value; write {} VALUE", argument)
        }
        ErrorKind::InvalidValue => {
            let valid = error.get(ContextKind::ValidValue).map(all_texts).unwrap_or_default();
            format!(
                "{} is not known; use one of {valid}",
                subject(&argument, &value, origins)
            )
        }
        ErrorKind::UnknownArgument => {
            let remedy = match text(ContextKind::SuggestedArg) {
                near if near.is_empty() => "`squadron --help` and `squadron serve --help` list them".to_string(),
                near => format!("did you mean {}?", flag_name(&near)),
            };
            format!("{argument} is not a flag here; {remedy}")
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand);
            format!("{name} is not a command of squadron; use serve, worker, sql or hash-password")
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a command is missing; use squadron serve, squadron worker, squadron sql or squadron hash-password (--help \
             tells more)"
                .into()
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = error.get(ContextKind::InvalidArg).map(all_texts).unwrap_or_default();
            format!("{missing} is missing; add it")
        }
        ErrorKind::ArgumentConflict => {
            let prior = flag_name(&text(ContextKind::PriorArg));
            match prior == argument || prior.is_empty() {
                true => format!("{argument} is given more than once; give it once"),
                false => format!("{argument} and {prior} exclude each other; leave one out"),
            }
        }
        _ => fallback(error),
    }
}

/// The flag, variable or key as the user wrote it, with its value.
fn subject(argument: &str, value: &str, origins: &Origins) -> String {
    let origin = origins.get(argument.trim_start_matches('-'));
    format!("{} {value}", origin.map_or(argument, String::as_str))
}

/// `--slots` of `--slots <N>`.
fn flag_name(shown: &str) -> String {
    shown.split([' ', '=']).next().unwrap_or_default().to_string()
}

fn first_text(value: &ContextValue) -> String {
    match value {
        ContextValue::String(text) => text.clone(),
        ContextValue::Strings(texts) => texts.first().cloned().unwrap_or_default(),
        other => other.to_string(),
    }
}

fn all_texts(value: &ContextValue) -> String {
    match value {
        ContextValue::Strings(texts) => texts.join(", "),
        other => other.to_string(),
    }
}

/// Clap's own first line, for kinds of errors that these flags hardly cause.
fn fallback(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    format!(
        "{}; `squadron --help` lists commands and flags",
        line.trim_start_matches("error: ")
    )
}

/// The candidate that the user probably meant by `name`.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}
