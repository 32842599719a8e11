//! What one state of a database says of a table, asked of a few pages.
//!
//! It promises to read no more than the schema and one path through a tree, so that it may be
//! asked at every start whatever the size of the database, and to answer nothing where a page on
//! the way is not sound.

use std::io;

use super::super::source::{Pages, Version};
use super::header::Header;
use super::node::{Kind, Node};
use super::record::{Value, decode, text};
use super::schema::at_hand;
use super::view::View;

/// Deeper trees do not exist.
const DEEPEST: usize = 32;
/// Pages of a small table that are read.
const MOST_PAGES: usize = 64;

/// The database as it is once the first transactions of its log are replayed, and no others.
pub struct AsOf<'a> {
    pages: &'a dyn Pages,
    transactions: u32,
}

impl std::fmt::Debug for AsOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsOf")
            .field("transactions", &self.transactions)
            .finish_non_exhaustive()
    }
}

impl<'a> AsOf<'a> {
    /// After so many transactions.
    pub fn new(pages: &'a dyn Pages, transactions: u32) -> Self {
        Self {
            pages,
            transactions,
        }
    }

    /// The highest rowid in `table`, or `None` in an empty one.
    ///
    /// # Errors
    /// [`Untold`]: the table, or a page on the way to its end, cannot be read.
    pub fn highest(&self, table: &str) -> Result<Option<i64>, Untold> {
        let view = self.view()?;
        let mut page = root(&view, table)?;
        for _ in 0..DEEPEST {
            let bytes = load(&view, page)?;
            let node = Node::parse(&bytes, page, view.usable()).ok_or(Untold)?;
            page = match node.kind {
                Kind::TableInterior => node.right(),
                Kind::TableLeaf => {
                    let last = node.cells.checked_sub(1);
                    let cell = last.map(|i| node.cell(i).ok_or(Untold)).transpose()?;
                    return Ok(cell.map(|cell| cell.rowid));
                }
                Kind::IndexInterior | Kind::IndexLeaf => return Err(Untold),
            };
        }
        Err(Untold)
    }

    /// The text that the small table `table`, WITHOUT ROWID and of two columns, has for `key`.
    ///
    /// # Errors
    /// [`Untold`]: the table cannot be read, or has no such text in its first pages.
    pub fn setting(&self, table: &str, key: &str) -> Result<String, Untold> {
        let view = self.view()?;
        let mut next = vec![root(&view, table)?];
        for _ in 0..MOST_PAGES {
            let page = next.pop().ok_or(Untold)?;
            let bytes = load(&view, page)?;
            let node = Node::parse(&bytes, page, view.usable()).ok_or(Untold)?;
            if !node.kind.is_index() {
                return Err(Untold);
            }
            for cell in (0..node.cells).filter_map(|i| node.cell(i)) {
                if node.kind.is_interior() {
                    next.push(cell.child);
                }
                let here = node.bytes(cell.local.clone());
                if let Some([Value::Text(name), Value::Text(value)]) = decode(here).as_deref()
                    && *name == key.as_bytes()
                {
                    let value = text(value, view.header.encoding).ok_or(Untold)?;
                    return Ok(value.into_owned());
                }
            }
            if node.kind.is_interior() {
                next.push(node.right());
            }
        }
        Err(Untold)
    }

    fn view(&self) -> Result<View<'_>, Untold> {
        let mut first = vec![0; self.pages.page_size()];
        let newest = self.versions(1).pop().ok_or(Untold)?;
        self.pages.read(newest, &mut first).map_err(|_| Untold)?;
        let header = Header::parse(&first).ok_or(Untold)?;
        if header.page_size != first.len() {
            return Err(Untold);
        }
        Ok(View::new(self, header))
    }
}

/// It cannot be told from what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be told")]
pub struct Untold;

fn root(view: &View<'_>, table: &str) -> Result<u32, Untold> {
    let objects = at_hand(view).ok_or(Untold)?;
    let mut tables = objects.iter().filter(|o| o.kind == "table");
    let found = tables.find(|o| o.name.eq_ignore_ascii_case(table));
    found.map(|o| o.root).filter(|r| *r > 0).ok_or(Untold)
}

fn load(view: &View<'_>, page: u32) -> Result<Vec<u8>, Untold> {
    let there = view.may_hold_data(page).then(|| view.newest(page));
    there.flatten().and_then(|v| view.load(v)).ok_or(Untold)
}

impl Pages for AsOf<'_> {
    fn page_size(&self) -> usize {
        self.pages.page_size()
    }

    fn highest(&self) -> u32 {
        self.pages.highest()
    }

    fn versions(&self, page: u32) -> Vec<Version> {
        let mut all = self.pages.versions(page);
        all.retain(|v| v.transaction.is_none_or(|t| t < self.transactions));
        all
    }

    fn read(&self, v: Version, buf: &mut [u8]) -> io::Result<()> {
        self.pages.read(v, buf)
    }

    fn present(&self, v: Version) -> usize {
        self.pages.present(v)
    }

    fn transaction_torn(&self, t: u32) -> bool {
        self.pages.transaction_torn(t)
    }
}
