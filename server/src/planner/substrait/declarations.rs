//! What a plan declares: the names behind its anchors, and what DataFusion calls these functions.
//!
//! Functions are resolved by name alone. A name may carry the signature of its arguments (`add:i32_i32`); which
//! extension file it comes from does not matter.

use std::collections::HashMap;

use datafusion::error::Result;
use datafusion_substrait::extensions::Extensions;
use datafusion_substrait::substrait::proto::aggregate_function::AggregationInvocation;
use datafusion_substrait::substrait::proto::function_argument::ArgType;
use datafusion_substrait::substrait::proto::{AggregateFunction, FunctionArgument, Plan};
use datafusion_substrait::variation_const::{FLOAT_16_TYPE_NAME, NULL_TYPE_NAME};

use super::errors::{invalid, unsupported};

/// The types that DataFusion's own plans declare, those of its old releases too.
const KNOWN_TYPES: [&str; 3] = [FLOAT_16_TYPE_NAME, "interval-month-day-nano", NULL_TYPE_NAME];

/// The producer of a plan, where its names or relations mean something else than in the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Its functions are DataFusion's.
    DataFusion,
    /// Its projections give their expressions alone, where the standard puts the columns of the input before them.
    DuckDb,
    /// The standard's.
    Standard,
}

/// The release of Substrait, 0.x, up to which DuckDB's plans are in `Dialect::DuckDb`.
const LAST_OF_DUCKDB: u32 = 53;

/// The names of a plan.
pub(super) struct Declarations {
    pub(super) dialect: Dialect,
    /// The functions under DataFusion's own names, where its consumer looks them up.
    pub(super) extensions: Extensions,
    /// The functions as the plan calls them.
    declared: HashMap<u32, String>,
}

impl Declarations {
    pub(super) fn from_plan(plan: &Plan) -> Result<Self> {
        let version = plan.version.as_ref();
        let producer = version.map(|version| (version.producer.as_str(), version.minor_number));
        let dialect = match producer {
            Some(("datafusion", _)) => Dialect::DataFusion,
            Some(("DuckDB", minor)) if minor <= LAST_OF_DUCKDB => Dialect::DuckDb,
            _ => Dialect::Standard,
        };
        let mut extensions = Extensions::try_from(&plan.extensions)?;
        let declared = extensions
            .functions
            .iter()
            .map(|(anchor, name)| (*anchor, name.clone()))
            .collect();
        if dialect != Dialect::DataFusion {
            for name in extensions.functions.values_mut() {
                let own = datafusion_name(&bare_name(name));
                *name = own;
            }
        }
        Ok(Self {
            dialect,
            extensions,
            declared,
        })
    }

    /// The function as the plan calls it.
    ///
    /// # Errors
    /// When no declaration has the anchor.
    pub(super) fn function(&self, anchor: u32) -> Result<&str> {
        self.declared.get(&anchor).map(String::as_str).ok_or_else(|| {
            invalid(format!(
                "the Substrait plan calls the function with anchor {anchor}, which it does not declare"
            ))
        })
    }

    /// Refuses a variation of a type. DataFusion's own plans use some without declaring them.
    pub(super) fn check_variation(&self, reference: u32, of: &str, known: u32) -> Result<()> {
        if reference == 0 || (self.extensions.type_variations.is_empty() && reference <= known) {
            return Ok(());
        }
        let name = match self.extensions.type_variations.get(&reference) {
            Some(name) => format!("'{name}' (reference {reference})"),
            None => format!("with the reference {reference}, which the plan does not declare,"),
        };
        Err(unsupported(format!(
            "the type variation {name} of the type {of} is not supported"
        )))
    }

    /// Refuses a type of the plan's own.
    pub(super) fn check_type(&self, reference: u32) -> Result<()> {
        match self.extensions.types.get(&reference) {
            Some(name) if KNOWN_TYPES.contains(&name.as_str()) => Ok(()),
            Some(name) => Err(unsupported(format!(
                "the type '{name}' (reference {reference}) is not supported"
            ))),
            // Old releases of DataFusion use these anchors for intervals without declaring them.
            None if (1..=3).contains(&reference) => Ok(()),
            None => Err(invalid(format!(
                "the Substrait plan uses the type with anchor {reference}, which it does not declare"
            ))),
        }
    }

    /// Replaces an aggregate function by DataFusion's, where an argument that is no expression, or an option, selects
    /// it.
    pub(super) fn settle_aggregate(&mut self, function: &mut AggregateFunction) -> Result<()> {
        let declared = self.function(function.function_reference)?.to_owned();
        if self.dialect == Dialect::DataFusion {
            return Ok(());
        }
        let mut choices = Vec::new();
        function.arguments.retain(|argument| match choice(argument) {
            Some(chosen) => {
                choices.push(chosen.to_owned());
                false
            }
            None => true,
        });
        for option in std::mem::take(&mut function.options) {
            check_option(&declared, &option.name, &option.preference).or_else(|refusal| {
                match option.name.as_str() {
                    "distribution" => {
                        choices.extend(option.preference.first().cloned());
                        Ok(())
                    }
                    _ => Err(refusal),
                }
            })?;
        }
        let own = match (bare_name(&declared).as_str(), choices.as_slice()) {
            (_, []) => return Ok(()),
            ("std_dev", [one]) if one == "POPULATION" => "stddev_pop",
            ("variance", [one]) if one == "POPULATION" => "var_pop",
            ("std_dev" | "variance", [one]) if one == "SAMPLE" => return Ok(()),
            ("median", [_]) => return Ok(()),
            _ => {
                return Err(unsupported(format!(
                    "the function '{declared}' with the argument {} is not supported",
                    choices.join(", ")
                )));
            }
        };
        function.function_reference = self.add(own);
        Ok(())
    }

    fn add(&mut self, name: &str) -> u32 {
        let taken = |anchor: &u32| self.extensions.functions.contains_key(anchor);
        let anchor = (0..=u32::MAX).rev().find(|it| !taken(it)).unwrap_or(0);
        self.extensions.functions.insert(anchor, name.to_owned());
        self.declared.insert(anchor, name.to_owned());
        anchor
    }
}

/// The one value of each option that DataFusion's functions implement; any other is refused.
const BEHAVIOUR: [(&str, &str); 7] = [
    ("case_sensitivity", "CASE_SENSITIVE"),
    ("division_type", "TRUNCATE"),
    ("null_handling", "ACCEPT_NULLS"),
    ("on_division_by_zero", "LIMIT"),
    ("on_domain_error", "NAN"),
    ("overflow", "SILENT"),
    ("rounding", "TIE_TO_EVEN"),
];

/// Refuses an option unless one of the values in `preference` is what the function does.
pub(super) fn check_option(function: &str, name: &str, preference: &[String]) -> Result<()> {
    let is_fulfilled = BEHAVIOUR
        .iter()
        .any(|(option, value)| *option == name && preference.iter().any(|wish| wish == value));
    if is_fulfilled {
        return Ok(());
    }
    Err(unsupported(format!(
        "the option {name} = {} of the function '{function}' is not supported",
        preference.join(" or ")
    )))
}

/// The value of an argument that is a choice, not an expression.
pub(super) fn choice(argument: &FunctionArgument) -> Option<&str> {
    match &argument.arg_type {
        Some(ArgType::Enum(chosen)) => Some(chosen),
        _ => None,
    }
}

/// Whether only distinct values count.
pub(super) fn is_distinct(invocation: i32) -> bool {
    invocation == AggregationInvocation::Distinct as i32
}

/// The name without its signature, in lower case.
pub(super) fn bare_name(name: &str) -> String {
    name.split(':').next().unwrap_or(name).to_lowercase()
}

/// What DataFusion calls a function of Substrait's standard extensions; most have one name.
fn datafusion_name(name: &str) -> String {
    match name {
        "any_value" => "first_value",
        "approx_count_distinct" => "approx_distinct",
        "greatest_skip_null" => "greatest",
        "least_skip_null" => "least",
        "sign" => "signum",
        "std_dev" => "stddev",
        "string_split" => "string_to_array",
        "variance" => "var_samp",
        same => same,
    }
    .to_owned()
}
