//! Properties of a connection string that a driver does not know: JDBC and ODBC send them as lower-case headers of
//! every call.
//!
//! | header | meaning |
//! |---|---|
//! | `squadron.*`, `datafusion.*`, `catalog`, `schema` | an option of the session, set when the header first appears |
//! | an option without its prefix, such as `query_timeout` | refused, with the name it should have |
//! | anything else | ignored: proxies add headers of their own |

use std::collections::BTreeMap;

use squadron_proto::Failure;
use tonic::metadata::{KeyAndValueRef, MetadataMap};

use super::status::invalid;
use crate::settings::session::{CATALOG, OptionError, SCHEMA, suggest_option};

/// Properties by name; the catalog comes before the schema, which is looked up in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Reads the properties among the headers of a request.
    ///
    /// # Errors
    /// `Invalid` for an option without its prefix.
    pub(super) fn from_headers(headers: &MetadataMap) -> Result<Self, Failure> {
        let mut properties = BTreeMap::new();
        for header in headers.iter() {
            let KeyAndValueRef::Ascii(name, value) = header else {
                continue;
            };
            let name = name.as_str();
            let value = String::from_utf8_lossy(value.as_encoded_bytes());
            if is_option(name) {
                properties.insert(name.to_owned(), value.trim().to_owned());
            } else if let Some(option) = suggest_option(name)
                && !is_http_priority(name, &value)
            {
                return Err(invalid(format!(
                    "the connection property {name} is not known; did you mean {option}?"
                )));
            }
        }
        Ok(Self(properties))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `set` with each property of `newer` that differs from this one, and remembers those that were set.
    ///
    /// # Errors
    /// `Invalid` with the name of the property and the error of `set`.
    pub(super) fn merge(
        &mut self,
        newer: &Self,
        set: impl Fn(&str, &str) -> Result<(), OptionError>,
    ) -> Result<(), Failure> {
        for (name, value) in &newer.0 {
            if self.0.get(name) != Some(value) {
                set(name, value)
                    .map_err(|wrong| invalid(format!("the connection property {name} is refused: {wrong}")))?;
                self.0.insert(name.clone(), value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Properties {
    fn from(properties: [(&str, &str); N]) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self(properties.into_iter().map(owned).collect())
    }
}

fn is_option(name: &str) -> bool {
    name.starts_with("squadron.") || name.starts_with("datafusion.") || name == CATALOG || name == SCHEMA
}

/// RFC 9218 has a header `priority` too, as `u=3, i`; a proxy may add it.
fn is_http_priority(name: &str, value: &str) -> bool {
    name == "priority" && value.parse::<i64>().is_err()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tonic::metadata::AsciiMetadataKey;

    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<Properties, Failure> {
        let mut map = MetadataMap::new();
        for (name, value) in headers {
            let name: AsciiMetadataKey = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        Properties::from_headers(&map)
    }

    #[test]
    fn options_are_read_from_headers() {
        let properties = read(&[
            ("squadron.priority", "5"),
            ("datafusion.execution.batch_size", " 7 "),
            ("catalog", "c"),
            ("user-agent", "x"),
            ("x-request-id", "y"),
            ("priority", "u=3, i"),
        ]);
        let expected = [
            ("squadron.priority", "5"),
            ("datafusion.execution.batch_size", "7"),
            ("catalog", "c"),
        ];
        assert_eq!(properties, Ok(Properties::from(expected)));
        assert!(read(&[("accept", "x")]).unwrap().is_empty());
    }

    #[test]
    fn option_without_prefix_gets_hint() {
        for (name, value, option) in [
            ("query_timeout", "5s", "squadron.query_timeout"),
            ("priority", "5", "squadron.priority"),
            ("batch_size", "5", "datafusion.execution.batch_size"),
        ] {
            let failure = read(&[(name, value)]).unwrap_err();
            assert!(failure.message.contains(name), "{failure}");
            assert!(failure.message.contains(option), "{failure}");
        }
    }

    #[test]
    fn merge_sets_new_and_retries_refused() {
        let asked = RefCell::new(Vec::new());
        let set = |name: &str, value: &str| {
            asked.borrow_mut().push(format!("{name}={value}"));
            match value {
                "wrong" => Err(OptionError::Value("no".into())),
                _ => Ok(()),
            }
        };
        let mut properties = Properties::default();
        let newer = Properties::from([("schema", "wrong"), ("catalog", "c")]);
        for _ in 0..2 {
            let failure = properties.merge(&newer, set).unwrap_err();
            assert!(failure.message.contains("schema"), "{failure}");
        }
        assert_eq!(*asked.borrow(), ["catalog=c", "schema=wrong", "schema=wrong"]);
        assert_eq!(properties, Properties::from([("catalog", "c")]));
    }
}
