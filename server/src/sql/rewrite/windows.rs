//! Windows that extend a named one: `OVER (w ORDER BY x)`, `WINDOW w2 AS (w1 ORDER BY x)`.
//!
//! DataFusion 55.2 reads a name that stands alone (`OVER w`) and ignores one inside of the brackets, with its PARTITION BY.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, NamedWindowDefinition, NamedWindowExpr, Query, SetExpr, VisitMut, VisitorMut, WindowSpec, WindowType,
};
use squadron_proto::{Failure, FailureKind};

/// Puts what the named windows say into the windows that extend them.
pub(super) fn extend_windows(query: &mut Query) -> ControlFlow<Failure> {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return ControlFlow::Continue(());
    };
    if select.named_window.is_empty() {
        return ControlFlow::Continue(());
    }
    let mut windows = Windows::default();
    for NamedWindowDefinition(name, definition) in &mut select.named_window {
        let window = match definition {
            NamedWindowExpr::WindowSpec(window) => {
                windows.extend(window)?;
                window.clone()
            }
            NamedWindowExpr::NamedWindow(other) => windows.find(&other.value)?.clone(),
        };
        windows.named.insert(name.value.to_lowercase(), window);
    }
    select.projection.visit(&mut windows)?;
    select.qualify.visit(&mut windows)?;
    query.order_by.visit(&mut windows)
}

#[derive(Default)]
struct Windows {
    named: HashMap<String, WindowSpec>,
}

impl Windows {
    fn find(&self, name: &str) -> ControlFlow<Failure, &WindowSpec> {
        match self.named.get(&name.to_lowercase()) {
            Some(window) => ControlFlow::Continue(window),
            None => invalid(format!("there is no window {name}; WINDOW names those there are")),
        }
    }

    fn extend(&self, window: &mut WindowSpec) -> ControlFlow<Failure> {
        let Some(name) = window.window_name.take() else {
            return ControlFlow::Continue(());
        };
        let base = self.find(&name.value)?;
        if !window.partition_by.is_empty() {
            return invalid(format!("PARTITION BY of the window {name} cannot be replaced"));
        }
        if !window.order_by.is_empty() && !base.order_by.is_empty() {
            return invalid(format!("ORDER BY of the window {name} cannot be replaced"));
        }
        if base.window_frame.is_some() {
            return invalid(format!("the window {name} has a frame, so it cannot be extended"));
        }
        window.partition_by.clone_from(&base.partition_by);
        if window.order_by.is_empty() {
            window.order_by.clone_from(&base.order_by);
        }
        ControlFlow::Continue(())
    }
}

fn invalid<T>(message: String) -> ControlFlow<Failure, T> {
    ControlFlow::Break(Failure::new(FailureKind::Invalid, message))
}

impl VisitorMut for Windows {
    type Break = Failure;

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Failure> {
        match expression {
            Expr::Function(function) => match &mut function.over {
                Some(WindowType::WindowSpec(window)) => self.extend(window),
                _ => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }
}
