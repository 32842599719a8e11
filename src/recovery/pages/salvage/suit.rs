//! Which table a page without a parent suits.

use super::super::node::Node;
use super::super::record::{Value, decode};
use super::super::table::{Affinity, Fit, Table};
use super::super::view::View;

/// How well the cells of a page suit a table; none when too many do not.
pub(super) fn score(view: &View<'_>, table: &Table, node: &Node<'_>, at: u64) -> Option<usize> {
    let (mut good, mut odd, mut exact) = (0, 0, 0);
    for i in 0..node.cells {
        let payload = node
            .cell(i)
            .and_then(|cell| Some(view.payload(node, &cell, at).ok()?.into_owned()));
        let Some(payload) = payload else { continue };
        let Some(values) = decode(&payload) else {
            continue;
        };
        match table.fit(&values, view.header.encoding) {
            Fit::Good => good += 1,
            Fit::Odd => odd += 1,
            Fit::Never => {}
        }
        let typed = values.iter().zip(&table.columns).enumerate();
        exact += usize::from(values.len() == table.columns.len());
        exact += typed
            .filter(|(i, (v, c))| table.alias != Some(*i) && telling(v, c.affinity))
            .count();
    }
    (good > 0 && good >= 3 * odd && (good >= 3 || (good + odd) * 2 >= node.cells))
        .then_some(exact * 4 + good)
}

/// Has each entry of `node` a value for every column of `table`, as a whole row has?
pub(super) fn fills(view: &View<'_>, table: &Table, node: &Node<'_>, at: u64) -> bool {
    (0..node.cells).filter_map(|i| node.cell(i)).all(|cell| {
        let payload = view.payload(node, &cell, at).ok();
        let values = payload.as_deref().and_then(decode);
        values.is_some_and(|v| v.len() == table.columns.len())
    })
}

/// A column whose type says something, and a value of just that type.
pub(super) fn telling(value: &Value<'_>, affinity: Affinity) -> bool {
    matches!(
        (value, affinity),
        (Value::Text(_), Affinity::Text)
            | (Value::Integer(_), Affinity::Integer)
            | (Value::Real(_), Affinity::Real)
            | (Value::Blob(_), Affinity::Any)
    )
}
