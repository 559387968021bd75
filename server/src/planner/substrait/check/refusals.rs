//! The errors of what is not supported, by its name.

use datafusion::error::{DataFusionError, Result};
use datafusion_substrait::substrait::proto::extensions::AdvancedExtension;

use crate::planner::substrait::errors::unsupported;

/// Refuses an enhancement: it changes the meaning of `of`, so a server that does not know it must not ignore it.
pub(super) fn refuse_enhancement(extension: Option<&AdvancedExtension>, of: &str) -> Result<()> {
    match extension.and_then(|extension| extension.enhancement.as_ref()) {
        Some(enhancement) => Err(unsupported(format!(
            "the Substrait plan has an enhancement of its {of}, '{}', which is not supported",
            shorten(&enhancement.type_url)
        ))),
        None => Ok(()),
    }
}

pub(super) fn extension_relation(name: Option<&str>) -> DataFusionError {
    let name = name.unwrap_or("without a name");
    not_supported(&format!("an extension relation, '{}'", shorten(name)))
}

pub(super) fn physical_relation(kind: &str) -> DataFusionError {
    not_supported(&format!("a physical relation ({kind}); send the logical one, JoinRel"))
}

pub(super) fn not_supported(what: &str) -> DataFusionError {
    unsupported(format!("the Substrait plan has {what}: it is not supported"))
}

fn shorten(name: &str) -> String {
    name.chars().take(100).collect()
}
