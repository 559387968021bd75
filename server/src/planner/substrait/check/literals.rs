//! Literals and their variations.

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::expression::Literal;
use datafusion_substrait::substrait::proto::expression::literal::LiteralType;

use super::limits::Walk;
use crate::planner::substrait::errors::invalid;

impl Walk<'_> {
    pub(super) fn check_literal(&mut self, literal: &mut Literal) -> Result<()> {
        self.count_expression()?;
        // DataFusion's consumer reads texts as strings alone.
        if let Some(LiteralType::VarChar(text)) = literal.literal_type.as_mut() {
            literal.literal_type = Some(LiteralType::String(std::mem::take(&mut text.value)));
        }
        let Some(value) = literal.literal_type.as_mut() else {
            return Err(invalid(
                "the Substrait plan has a literal of no type, or of one that this server does not know",
            ));
        };
        let (name, known) = match value {
            LiteralType::I8(_) => ("i8", 1),
            LiteralType::I16(_) => ("i16", 1),
            LiteralType::I32(_) => ("i32", 1),
            LiteralType::I64(_) => ("i64", 1),
            LiteralType::String(_) => ("string", 2),
            LiteralType::Binary(_) => ("binary", 2),
            LiteralType::PrecisionTime(_) => ("precision_time", 1),
            LiteralType::List(_) | LiteralType::EmptyList(_) => ("list", 1),
            #[expect(deprecated, reason = "DataFusion reads it")]
            LiteralType::Timestamp(_) => ("timestamp", 3),
            LiteralType::Null(of) => {
                self.check_type(of)?;
                ("null", 0)
            }
            _ => ("literal", 0),
        };
        self.declarations
            .check_variation(literal.type_variation_reference, name, known)?;
        match value {
            LiteralType::Struct(it) => it.fields.iter_mut().try_for_each(|one| self.check_literal(one)),
            LiteralType::List(it) => it.values.iter_mut().try_for_each(|one| self.check_literal(one)),
            LiteralType::Map(it) => {
                it.key_values
                    .iter_mut()
                    .try_for_each(|entry| match (entry.key.as_mut(), entry.value.as_mut()) {
                        (Some(key), Some(value)) => {
                            self.check_literal(key)?;
                            self.check_literal(value)
                        }
                        _ => Err(invalid("the Substrait plan has a map entry without a key or a value")),
                    })
            }
            LiteralType::EmptyList(of) if of.r#type.is_none() => {
                Err(invalid("the Substrait plan has an empty list without a type"))
            }
            _ => Ok(()),
        }
    }
}
