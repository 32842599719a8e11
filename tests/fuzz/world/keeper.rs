//! Takes salvaged rows, and none with a value that no page holds.

use std::collections::HashMap;

use holdup::recovery::Pages;
use holdup::recovery::pages::{Expected, Keeper, Offer, Row, Salvaged, Schema, Value, salvage};

use super::Haystack;

/// Rows that may be offered for each page: each is met in a few passes, in each state of its page.
const ROWS: usize = 100_000;

/// See the module's text.
#[derive(Debug)]
pub struct Strict<'s> {
    schema: &'s Schema,
    pages: Haystack,
    /// By table and key, how often it was kept.
    kept: HashMap<(usize, i64), u32>,
    offered: usize,
}

impl Strict<'_> {
    /// Salvages the rows of `pages`.
    pub fn salvage(pages: &dyn Pages, known: &[Expected<'_>]) -> Salvaged {
        let schema = Schema::read(pages, known);
        let mut haystack = Haystack::default();
        let mut page = vec![0; pages.page_size()];
        for number in 0..=pages.highest().min(4096) {
            for v in pages.versions(number) {
                if pages.read(v, &mut page).is_ok() {
                    haystack.add(&page);
                }
            }
        }
        let mut keeper = Strict {
            schema: &schema,
            pages: haystack,
            kept: HashMap::new(),
            offered: 0,
        };
        let salvaged = salvage(pages, &schema, &mut keeper).expect("takes all");
        let kept: u64 = salvaged.tables.iter().map(|t| t.kept).sum();
        assert_eq!(salvaged.tables.len(), schema.tables.len());
        assert!(kept <= keeper.offered as u64, "counts what it kept");
        salvaged
    }
}

/// As SQLite stores it.
fn stored(n: i64) -> Vec<u8> {
    let wide = n.to_be_bytes();
    let m = if n < 0 { !n } else { n };
    let len = [1, 2, 3, 4, 6, 8]
        .into_iter()
        .find(|len| m >> (len * 8 - 1) == 0 || *len == 8);
    wide[8 - len.expect("8 is enough")..].to_vec()
}

impl Keeper for Strict<'_> {
    type Error = std::convert::Infallible;

    fn offer(&mut self, row: Row<'_>) -> Result<Offer, Self::Error> {
        self.offered += 1;
        assert!(self.offered <= ROWS, "rows without end");
        let table = &self.schema.tables[row.table];
        assert!(
            row.values.len() <= table.columns.len(),
            "more values than columns"
        );
        assert_eq!(row.rowid.is_none(), table.without_rowid);
        let usable = self.schema.header.usable();
        for value in row.values {
            let given = match value {
                Value::Null | Value::Integer(0 | 1) => true,
                Value::Integer(n) => self.pages.gives(&stored(*n), usable),
                Value::Real(x) => self.pages.gives(&x.to_be_bytes(), usable),
                Value::Text(b) | Value::Blob(b) => self.pages.gives(b, usable),
            };
            assert!(given, "{value:?} is in no page: made up");
        }
        let Some(rowid) = row.rowid else {
            return Ok(Offer::Kept);
        };
        let times = self.kept.entry((row.table, rowid)).or_default();
        *times += 1;
        Ok(if *times == 1 {
            Offer::Kept
        } else {
            Offer::Known
        })
    }
}
