//! Which columns of an application hold text that is none.
//!
//! It promises to ask no more than a sample of each table, and to call usual only what more than
//! one damaged place could show.

use super::super::node::{Kind, Node};
use super::super::record::{Value, decode, text};
use super::super::schema::Schema;
use super::super::table::Letters;
use super::super::tree::Claims;
use super::super::view::View;

/// Leaves of a table that are asked.
const SAMPLE: usize = 256;
/// So many leaves with such text are more than damage explains.
const MANY: usize = 3;

/// Of one column.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    texts: usize,
    odd: usize,
    odd_leaves: usize,
}

/// `schema` with the columns marked in which an application writes text in another encoding.
pub(super) fn usual(view: &View<'_>, claims: &Claims, schema: &Schema) -> Schema {
    let mut schema = schema.clone();
    for (tree, table) in schema.tables.iter_mut().enumerate() {
        if !table.foreign {
            continue;
        }
        let mut seen = vec![Seen::default(); table.columns.len()];
        let mut asked = 0;
        // Ends early by an error that is none.
        let ended = claims.leaves(view, tree, |stop| {
            asked += 1;
            let bytes = view.load(stop.version).unwrap_or_default();
            let node = Node::parse(&bytes, stop.page, view.usable());
            if let Some(node) = node.filter(|n| n.is_orderly() && n.kind != Kind::TableInterior) {
                ask(view, &node, &mut seen);
            }
            if asked < SAMPLE { Ok(()) } else { Err(()) }
        });
        log::debug!(
            "{}: text of {asked} leaves, all: {}",
            table.name,
            ended.is_ok()
        );
        for (column, seen) in table.columns.iter_mut().zip(seen) {
            let often = seen.odd >= 2 && seen.odd * 4 >= seen.texts;
            if seen.odd_leaves >= MANY || often {
                column.letters = Letters::Usual;
            }
        }
    }
    schema
}

fn ask(view: &View<'_>, node: &Node<'_>, seen: &mut [Seen]) {
    let mut odd_here = vec![false; seen.len()];
    for cell in (0..node.cells).filter_map(|i| node.cell(i)) {
        let values = decode(node.bytes(cell.local.clone())).filter(|_| cell.overflow == 0);
        let columns = values
            .iter()
            .flatten()
            .zip(seen.iter_mut().zip(&mut odd_here));
        for (value, (seen, odd_here)) in columns {
            if let Value::Text(bytes) = value {
                seen.texts += 1;
                if text(bytes, view.header.encoding).is_none() {
                    seen.odd += 1;
                    *odd_here = true;
                }
            }
        }
    }
    for (seen, odd_here) in seen.iter_mut().zip(odd_here) {
        seen.odd_leaves += usize::from(odd_here);
    }
}
