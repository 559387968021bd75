//! Types and their variations.

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::Type;
use datafusion_substrait::substrait::proto::r#type::Kind;

use super::limits::Walk;
use crate::planner::substrait::errors::invalid;

impl Walk<'_> {
    /// Checks a type. The variations up to `known` are those that DataFusion defines for its own plans.
    pub(super) fn check_type(&mut self, of: &Type) -> Result<()> {
        self.count_expression()?;
        let Some(kind) = &of.kind else {
            return Err(invalid(
                "the Substrait plan has a type of no kind, or of one that this server does not know",
            ));
        };
        let (reference, name, known) = match kind {
            Kind::Bool(it) => (it.type_variation_reference, "boolean", 0),
            Kind::I8(it) => (it.type_variation_reference, "i8", 1),
            Kind::I16(it) => (it.type_variation_reference, "i16", 1),
            Kind::I32(it) => (it.type_variation_reference, "i32", 1),
            Kind::I64(it) => (it.type_variation_reference, "i64", 1),
            Kind::Fp32(it) => (it.type_variation_reference, "fp32", 0),
            Kind::Fp64(it) => (it.type_variation_reference, "fp64", 0),
            Kind::String(it) => (it.type_variation_reference, "string", 2),
            Kind::Binary(it) => (it.type_variation_reference, "binary", 2),
            #[expect(deprecated, reason = "DataFusion reads it")]
            Kind::Timestamp(it) => (it.type_variation_reference, "timestamp", 3),
            Kind::Date(it) => (it.type_variation_reference, "date", 1),
            Kind::Decimal(it) => (it.type_variation_reference, "decimal", 1),
            Kind::Varchar(it) => (it.type_variation_reference, "varchar", 0),
            Kind::FixedChar(it) => (it.type_variation_reference, "fixedchar", 0),
            Kind::PrecisionTime(it) => (it.type_variation_reference, "precision_time", 1),
            Kind::IntervalDay(it) => (it.type_variation_reference, "interval_day", 1),
            Kind::List(it) => {
                match it.r#type.as_deref() {
                    Some(item) => self.check_type(item)?,
                    None => {
                        return Err(invalid("the Substrait plan has a list type without an item"));
                    }
                }
                (it.type_variation_reference, "list", 1)
            }
            Kind::Map(it) => {
                let (Some(key), Some(value)) = (it.key.as_deref(), it.value.as_deref()) else {
                    return Err(invalid("the Substrait plan has a map type without a key or a value"));
                };
                self.check_type(key)?;
                self.check_type(value)?;
                (it.type_variation_reference, "map", 1)
            }
            Kind::Struct(it) => {
                it.types.iter().try_for_each(|field| self.check_type(field))?;
                (it.type_variation_reference, "struct", 0)
            }
            Kind::UserDefined(it) => {
                self.declarations.check_type(it.type_reference)?;
                (it.type_variation_reference, "user-defined", 0)
            }
            // DataFusion knows no variation of the others, and names those that it does not know at all.
            _ => return Ok(()),
        };
        self.declarations.check_variation(reference, name, known)
    }
}
