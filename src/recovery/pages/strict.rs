//! Records that SQLite reads and nobody wrote.
//!
//! SQLite gives text that is none, and `integrity_check` calls it ok. In a table that the caller
//! knows such a text, or a value of a type that its column never has, is a flipped byte. It
//! promises to find those, and to count nothing of tables that anybody may have filled.

use super::super::source::Pages;
use super::node::{Kind, Node};
use super::record::decode;
use super::schema::Schema;
use super::table::{Expected, Fit, Table};
use super::tree::{Claims, Tree};
use super::view::{Flaw, View, when};

/// Records of the `known` tables that nobody wrote. `page_done` is asked after each page, and ends
/// it early.
pub fn unwritten<E>(
    pages: &dyn Pages,
    known: &[Expected<'_>],
    mut page_done: impl FnMut() -> Result<(), E>,
) -> Result<u64, E> {
    let schema = Schema::read(pages, known);
    let view = View::new(pages, schema.header);
    let ours: Vec<Table> = known
        .iter()
        .filter_map(|k| Table::parse(k.sql, None))
        .collect();
    let is_ours = |t: &&Table| !t.without_rowid && ours.iter().any(|o| is_same(o, t));
    let tables: Vec<&Table> = schema.tables.iter().filter(is_ours).collect();
    let trees: Vec<Tree> = tables
        .iter()
        .map(|t| Tree {
            root: t.root,
            index: false,
        })
        .collect();
    let claims = Claims::new(&view, trees);
    let mut found = 0;
    for (tree, table) in tables.iter().enumerate() {
        claims.leaves(&view, tree, |stop| {
            let Some(bytes) = view.load(stop.version) else {
                return page_done();
            };
            let node = Node::parse(&bytes, stop.page, view.usable());
            let Some(node) = node.filter(|n| n.kind == Kind::TableLeaf) else {
                return page_done();
            };
            for cell in (0..node.cells).filter_map(|i| node.cell(i)) {
                let adds_up = match view.payload(&node, &cell, when(stop.version)) {
                    Ok(payload) => decode(&payload).is_some_and(|values| {
                        table.fit(&values, view.header.encoding) != Fit::Never
                    }),
                    Err(Flaw::TooLarge) => true,
                    Err(Flaw::Chain) => false,
                };
                found += u64::from(!adds_up);
            }
            page_done()
        })?;
    }
    Ok(found)
}

/// The same table, not only one of that name.
fn is_same(a: &Table, b: &Table) -> bool {
    let names = |t: &Table| -> Vec<String> {
        let columns = t.columns.iter();
        columns.map(|c| c.name.to_ascii_lowercase()).collect()
    };
    a.name.eq_ignore_ascii_case(&b.name) && names(a) == names(b)
}
