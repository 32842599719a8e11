//! Tables of which nothing tells the name any more: the schema is lost, and nobody knows it.
//!
//! It promises that their rows are kept under `lost_and_found_PAGE`, PAGE being the page at which
//! their tree begins, with as many columns as their records have, and that entries of indexes are
//! not taken for rows. It must never take a page that a table with a name has.

use std::collections::HashSet;

use super::node::{Kind, Node};
use super::record::{Value, decode};
use super::schema::Schema;
use super::table::{Letters, Table};
use super::tree::{Bounds, Claim, Claims, Tree, children};
use super::view::{View, when};

/// More of them are no help to anybody.
const MOST: usize = 1_000;
/// Wider records are taken for damage.
const WIDEST: usize = 1_000;
/// Pages of one tree that are looked at for a leaf.
const MOST_ASKED: u32 = 10_000;

/// The tables of `view` that are none of `schema`'s.
pub(super) fn unnamed(view: &View<'_>, schema: &Schema) -> Vec<Table> {
    let claims = Claims::new(view, trees(schema));
    let mut below = HashSet::new();
    let mut tops = Vec::new();
    for page in 2..=view.pages.highest() {
        if claims.of(page) != Claim::None || !view.may_hold_data(page) {
            continue;
        }
        let Some(bytes) = view.newest(page).and_then(|v| view.load(v)) else {
            continue;
        };
        let Some(node) = Node::parse(&bytes, page, view.usable()).filter(|n| n.cells > 0) else {
            continue;
        };
        if node.kind.is_interior() {
            let all = children(&node, Bounds::default()).unwrap_or_default();
            below.extend(all.into_iter().map(|(child, _)| child));
        }
        // What is no b-tree looks like one at times, but not in good order.
        if node.is_orderly() {
            tops.push(page);
        }
    }
    let tops = tops.into_iter().filter(|page| !below.contains(page));
    tops.filter_map(|page| table(view, page))
        .take(MOST)
        .collect()
}

/// The trees of a schema: its tables', then the others', then its own.
pub(super) fn trees(schema: &Schema) -> Vec<Tree> {
    let mut trees: Vec<Tree> = schema
        .tables
        .iter()
        .map(|t| Tree {
            root: t.root,
            index: t.without_rowid,
        })
        .collect();
    // Other trees are walked too, so that their pages are nobody else's.
    trees.extend(schema.others.iter().filter(|o| o.root > 0).map(|o| Tree {
        root: Some(o.root),
        index: o.kind == "index",
    }));
    trees.push(Tree {
        root: Some(1),
        index: false,
    });
    trees
}

/// The table whose tree begins at `root`, as the first of its leaves that are left show it.
fn table(view: &View<'_>, root: u32) -> Option<Table> {
    let mut next = vec![root];
    let mut asked = 0;
    let (fields, index) = loop {
        let page = next.pop()?;
        asked += 1;
        if asked > MOST_ASKED {
            return None;
        }
        let version = view.newest(page).filter(|_| view.may_hold_data(page));
        let Some((v, bytes)) = version.and_then(|v| Some((v, view.load(v)?))) else {
            continue;
        };
        let Some(node) = Node::parse(&bytes, page, view.usable()) else {
            continue;
        };
        if node.kind == Kind::TableInterior {
            let below = children(&node, Bounds::default()).unwrap_or_default();
            next.extend(below.into_iter().rev().map(|(child, _)| child));
            continue;
        }
        if node.kind.is_index() && ends_in_rowids(&node) {
            return None;
        }
        let cells = (0..node.cells).filter_map(|i| node.cell(i));
        let fields = cells.filter_map(|cell| {
            let payload = view.payload(&node, &cell, when(v)).ok()?;
            decode(&payload).map(|values| values.len())
        });
        if let Some(fields) = fields.max().filter(|n| (1..=WIDEST).contains(n)) {
            break (fields, node.kind.is_index());
        }
    };
    let columns: Vec<_> = (0..fields).map(|n| format!("c{n}")).collect();
    let sql = format!("CREATE TABLE lost_and_found_{root}({})", columns.join(", "));
    let mut table = Table::parse(&sql, Some(root))?.of_an_application();
    table.without_rowid = index;
    for column in &mut table.columns {
        column.letters = Letters::Usual;
    }
    Some(table)
}

/// As the entries of an index do.
pub(super) fn ends_in_rowids(node: &Node<'_>) -> bool {
    (0..node.cells).filter_map(|i| node.cell(i)).all(|cell| {
        decode(node.bytes(cell.local.clone()))
            .is_some_and(|v| matches!(v.last(), Some(Value::Integer(_))))
    })
}
