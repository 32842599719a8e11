//! The rows of a damaged database, newest state first.
//!
//! It promises that a row comes from the newest state that can be believed, that a row which the
//! files show to be deleted stays deleted, and that everything given up is counted. It works in
//! passes, so that of two states of a row the newer is offered first:
//!
//! 1. leaves of the log that nothing leads to, where damage explains that;
//! 2. leaves that their trees lead to;
//! 3. leaves of the database file that nothing leads to, where a tree has a hole for them;
//! 4. older states of leaves that are damaged, or that lost rows in a transaction of which
//!    pages are missing;
//! 5. for tables to which rows are only added, what lies in the gaps of pages.

mod letters;
mod older;
mod orphans;
mod place;
mod suit;

use std::collections::{BTreeMap, HashSet};

use super::super::source::{Pages, Version};
use super::leaf::{Lies, Others, SECTOR, Sifted, Slot, Trust, sift};
use super::node::{Cell, Kind, Node};
use super::record::{Value, decode};
use super::schema::Schema;
use super::table::Fit;
use super::tree::{Bounds, Claim, Claims, Stop, children};
use super::unnamed::trees;
use super::view::{Flaw, View, when};
use place::{Place, place};

/// Where a row was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In the newest state of a page that its tree leads to.
    Current,
    /// In the newest state of a page that nothing leads to any more.
    Orphaned,
    /// In an older state of a page.
    Older,
    /// In a gap of a page, where it once lay.
    Remains,
}

/// A row to keep. Values are in the order of the table's columns.
#[derive(Debug, Clone, Copy)]
pub struct Row<'r> {
    /// Which of the schema's tables it is of.
    pub table: usize,
    /// Its key; none in a WITHOUT ROWID table.
    pub rowid: Option<i64>,
    /// Its values; fewer than columns where columns were added after it was written.
    pub values: &'r [Value<'r>],
    /// Where it was found.
    pub origin: Origin,
}

/// What became of an offered row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is kept.
    Kept,
    /// A newer state of it is kept already.
    Known,
    /// Another row has a value that must be unique.
    Conflict,
    /// The table refuses it: NULL where none may be.
    Refused,
}

/// Takes the rows.
pub trait Keeper {
    /// Why it cannot go on.
    type Error;

    /// Takes a row; of several states of a row the newest comes first.
    fn offer(&mut self, row: Row<'_>) -> Result<Offer, Self::Error>;

    /// Another page was read: a moment to rest.
    fn page_done(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Rows of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Kept in all.
    pub kept: u64,
    /// Of these, from pages that nothing leads to any more.
    pub orphaned: u64,
    /// Of these, from older states of pages.
    pub older: u64,
    /// Of these, from gaps in pages, where they once lay.
    pub remains: u64,
    /// Cells given up: damaged, or not to be told from damaged ones.
    pub damaged: u64,
    /// Rows of a damaged leaf's older state that are known, or may be taken, to be deleted.
    pub deleted: u64,
    /// Left out because another row has a value that must be unique.
    pub conflicts: u64,
    /// Left out because the table refuses them.
    pub refused: u64,
    /// Left out because they are larger than a row may be here.
    pub too_large: u64,
    /// Parts of the table's tree that could not be walked.
    pub holes: u64,
}

/// Pages and rows that were met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// In the order of the schema's tables.
    pub tables: Vec<Tally>,
    /// Leaves of which not every cell was sound.
    pub damaged_leaves: u64,
    /// Pages that the medium did not give.
    pub unreadable: u64,
    /// The list of free pages was not whole.
    pub freelist_torn: bool,
}

/// Offers the rows of all tables of `schema` to `keeper`.
pub fn salvage<K: Keeper>(
    pages: &dyn Pages,
    schema: &Schema,
    keeper: &mut K,
) -> Result<Salvaged, K::Error> {
    let view = View::new(pages, schema.header);
    let claims = Claims::new(&view, trees(schema));
    let schema = &letters::usual(&view, &claims, schema);
    let mut work = Work {
        out: Salvaged {
            tables: vec![Tally::default(); schema.tables.len()],
            freelist_torn: claims.freelist_torn,
            ..Salvaged::default()
        },
        torn: Vec::new(),
        hidden: 0,
        orphans: Vec::new(),
        lost: Vec::new(),
        damaged: Vec::new(),
        ranges: vec![BTreeMap::new(); schema.tables.len()],
        last: None,
        view: &view,
        schema,
        claims,
        keeper,
    };
    work.survey();
    work.orphans(|at| at > 0)?;
    for table in 0..schema.tables.len() {
        work.current(table)?;
    }
    work.orphans(|at| at == 0)?;
    work.older()?;
    work.remains()?;
    for (tally, holes) in work.out.tables.iter_mut().zip(&work.claims.holes) {
        tally.holes = *holes;
    }
    work.out.unreadable = view.unreadable.get();
    Ok(work.out)
}

/// A page that nothing leads to.
#[derive(Debug, Clone, Copy)]
struct Orphan {
    version: Version,
    /// An interior page that nothing leads to either names it.
    named: bool,
    /// Its header is lost.
    headless: bool,
}

/// What a leaf said, kept for the next question about it.
struct Asked {
    stop: Stop,
    sifted: Sifted,
}

struct Work<'w, 'a, K> {
    view: &'w View<'a>,
    schema: &'w Schema,
    claims: Claims,
    keeper: &'w mut K,
    out: Salvaged,
    /// Transactions of the log that are not whole, as times.
    torn: Vec<u64>,
    /// The last of these of which it is not known which pages are missing; 0 is none.
    hidden: u64,
    orphans: Vec<Orphan>,
    /// Pages that nothing leads to and whose newest state is no leaf, but an older one may be.
    lost: Vec<u32>,
    /// Leaves of which not every cell was sound, with their table.
    damaged: Vec<(u32, usize, Bounds)>,
    /// Keys that orphaned leaves cover, by table.
    ranges: Vec<BTreeMap<i64, i64>>,
    last: Option<Asked>,
}

fn trust(v: Version) -> Trust {
    match (v.proven, v.transaction) {
        (true, _) => Trust::Proven,
        (false, None) => Trust::Unsaid,
        (false, Some(_)) => Trust::Refuted,
    }
}

impl<K: Keeper> Work<'_, '_, K> {
    /// One look at every page: which transactions there are, which pages nothing leads to.
    fn survey(&mut self) {
        let mut last = None;
        let mut named = HashSet::new();
        let (mut shown, mut nameless) = (HashSet::new(), HashSet::new());
        let zero = self.view.pages.versions(0);
        for version in zero {
            last = last.max(version.transaction);
            nameless.insert(when(version));
            self.orphans.push(Orphan {
                version,
                named: false,
                headless: false,
            });
        }
        for page in 1..=self.view.pages.highest() {
            let versions = self.view.pages.versions(page);
            last = last.max(versions.iter().filter_map(|v| v.transaction).max());
            let refuted = versions.iter().filter(|v| trust(**v) == Trust::Refuted);
            shown.extend(refuted.map(|v| when(*v)));
            let Some(version) = versions.last().copied() else {
                continue;
            };
            if let Claim::Tree(tree) = self.claims.of(page)
                && version.transaction.is_some()
                && self.is_anothers(usize::from(tree), version)
            {
                self.claims.release(page, usize::from(tree));
            }
            if page == 1 || self.claims.of(page) != Claim::None || !self.view.may_hold_data(page) {
                continue;
            }
            let Some(bytes) = self.view.load(version) else {
                self.lost.push(page);
                continue;
            };
            let node = Node::parse(&bytes, page, self.view.usable());
            match node.map(|n| (n, n.kind)) {
                Some((node, Kind::TableInterior)) => {
                    let below = children(&node, Bounds::default());
                    named.extend(below.into_iter().flatten().map(|(c, _)| c));
                }
                Some((_, Kind::IndexInterior)) if self.has_wide() => self.orphans.push(Orphan {
                    version,
                    named: true,
                    headless: false,
                }),
                Some((_, Kind::IndexLeaf)) if !self.has_wide() => {}
                Some((node, Kind::TableLeaf | Kind::IndexLeaf)) if node.cells > 0 => {
                    self.orphans.push(Orphan {
                        version,
                        named: false,
                        headless: false,
                    });
                }
                _ => {
                    let blank = bytes.iter().all(|b| *b == 0);
                    if !blank {
                        self.orphans.push(Orphan {
                            version,
                            named: false,
                            headless: true,
                        });
                    }
                    if versions.len() > 1 {
                        self.lost.push(page);
                    }
                }
            }
        }
        for o in &mut self.orphans {
            o.named |= named.contains(&o.version.page);
        }
        self.orphans.sort_by_key(|o| {
            (
                std::cmp::Reverse(when(o.version)),
                o.headless,
                !o.named,
                o.version.page,
            )
        });
        let torn = |t: &u32| self.view.pages.transaction_torn(*t);
        self.torn = (0..=last.unwrap_or(0))
            .filter(|t| last.is_some() && torn(t))
            .map(|t| u64::from(t) + 1)
            .collect();
        let hidden = |t: &&u64| nameless.contains(*t) || !shown.contains(*t);
        self.hidden = self.torn.iter().filter(hidden).max().copied().unwrap_or(0);
    }

    fn has_wide(&self) -> bool {
        self.schema.tables.iter().any(|t| t.without_rowid)
    }

    /// Leaves that the table's tree leads to.
    fn current(&mut self, table: usize) -> Result<(), K::Error> {
        let claims = std::mem::replace(&mut self.claims, Claims::empty());
        let view = self.view;
        let done = claims.leaves(view, table, |stop| {
            self.keeper.page_done()?;
            if self.schema.tables[table].without_rowid {
                self.wide(table, stop.version, Origin::Current)
            } else {
                self.leaf(table, stop)
            }
        });
        self.claims = claims;
        done
    }

    fn leaf(&mut self, table: usize, stop: Stop) -> Result<(), K::Error> {
        let Some(bytes) = self.view.load(stop.version) else {
            self.damaged.push((stop.page, table, stop.bounds));
            self.out.damaged_leaves += 1;
            return Ok(());
        };
        let sifted = self.sift(table, stop.version, &bytes);
        if !sifted.whole {
            self.damaged.push((stop.page, table, stop.bounds));
            self.out.damaged_leaves += 1;
        }
        let tally = &mut self.out.tables[table];
        tally.too_large += sifted.too_large;
        tally.damaged += bad(&sifted);
        let inside = |k| !sifted.carved || stop.bounds.hold(k);
        self.emit(
            table,
            stop.version,
            &bytes,
            &sifted,
            Origin::Current,
            inside,
        )
    }

    /// Takes a state of a leaf apart, with its other states as witnesses where it needs any.
    fn sift(&self, table: usize, v: Version, bytes: &[u8]) -> Sifted {
        let shape = &self.schema.tables[table];
        let lies = Lies {
            at: when(v),
            trust: trust(v),
            // What media lose at once are sectors of the file.
            shift: usize::try_from(v.at % SECTOR as u64).unwrap_or(0),
            present: self.view.pages.present(v),
        };
        let first = sift(self.view, shape, bytes, v.page, lies, &Others::default());
        if first.whole || trust(v) == Trust::Proven {
            return first;
        }
        let mut others = Others::default();
        // The newest states are the most alike.
        const MOST: usize = 16;
        let versions = self.view.pages.versions(v.page);
        for other in versions.into_iter().rev().filter(|o| *o != v).take(MOST) {
            if trust(other) == Trust::Refuted {
                continue;
            }
            if let Some(page) = self.view.load(other)
                && let Some(node) = Node::parse(&page, v.page, self.view.usable())
            {
                others.add(&node, other.proven);
            }
        }
        sift(self.view, shape, bytes, v.page, lies, &others)
    }

    fn emit(
        &mut self,
        table: usize,
        v: Version,
        bytes: &[u8],
        sifted: &Sifted,
        origin: Origin,
        wanted: impl Fn(i64) -> bool,
    ) -> Result<(), K::Error> {
        let node = Node::parse(bytes, v.page, self.view.usable())
            .filter(|n| n.kind == Kind::TableLeaf)
            .unwrap_or_else(|| Node::headless(bytes, v.page, self.view.usable()));
        for slot in &sifted.slots {
            if let Slot::Good(cell) = slot
                && wanted(cell.rowid)
            {
                self.offer(table, &node, cell, when(v), Some(cell.rowid), origin)?;
            }
        }
        Ok(())
    }

    fn offer(
        &mut self,
        table: usize,
        node: &Node<'_>,
        cell: &Cell,
        at: u64,
        rowid: Option<i64>,
        origin: Origin,
    ) -> Result<(), K::Error> {
        let payload = match self.view.payload(node, cell, at) {
            Ok(payload) => payload,
            Err(Flaw::TooLarge) => {
                self.out.tables[table].too_large += 1;
                return Ok(());
            }
            Err(Flaw::Chain) => {
                self.out.tables[table].damaged += 1;
                return Ok(());
            }
        };
        let shape = &self.schema.tables[table];
        let values = decode(&payload).filter(|v| v.len() <= shape.columns.len());
        let Some(values) = values else {
            self.out.tables[table].damaged += 1;
            return Ok(());
        };
        let row = Row {
            table,
            rowid,
            values: &values,
            origin,
        };
        let tally = &mut self.out.tables[table];
        match self.keeper.offer(row)? {
            Offer::Kept => {
                tally.kept += 1;
                match origin {
                    Origin::Current => {}
                    Origin::Orphaned => tally.orphaned += 1,
                    Origin::Older => tally.older += 1,
                    Origin::Remains => tally.remains += 1,
                }
            }
            Offer::Known => {}
            Offer::Conflict => tally.conflicts += 1,
            Offer::Refused => tally.refused += 1,
        }
        Ok(())
    }

    /// Is a row that some state of a page holds still to be kept? `gone` is the time, if there is
    /// one, at which it left its page in a transaction that is not whole.
    fn judge(&mut self, table: usize, key: i64, from: Version, gone: Option<u64>) -> bool {
        if self.covered(table, key, key) {
            return false;
        }
        let Some(stop) = self.claims.find(self.view, table, key) else {
            return true;
        };
        let since = gone.unwrap_or_else(|| when(from));
        // A state of this leaf may be among those of which nothing is known.
        let may_be_older = self.hidden > when(stop.version);
        if when(stop.version) < since && (may_be_older || gone.is_none()) {
            return true;
        }
        let hidden = self.hidden;
        let Some(asked) = self.ask(table, stop) else {
            return true;
        };
        match place(&asked.sifted, key) {
            Place::Present | Place::Between => false,
            // The leaf beside it may be among the pages of which nothing is known, and so may be
            // the page that would lead there: a row moves only with its parent's bounds.
            Place::Edge => gone.is_none_or(|gone| {
                let bounds_known = asked.stop.parent.is_some_and(|p| p >= gone);
                hidden >= gone && asked.stop.page == from.page && !bounds_known
            }),
            Place::Doubtful => true,
        }
    }

    /// Takes a leaf apart, or remembers how it was done before.
    fn ask(&mut self, table: usize, stop: Stop) -> Option<&Asked> {
        if self
            .last
            .as_ref()
            .is_none_or(|l| l.stop.version != stop.version)
        {
            let bytes = self.view.load(stop.version)?;
            let sifted = self.sift(table, stop.version, &bytes);
            self.last = Some(Asked { stop, sifted });
        }
        self.last.as_ref()
    }

    /// Is the leaf that would hold `key`, or the place in it, lost?
    fn is_lost(&mut self, table: usize, key: i64) -> bool {
        let Some(stop) = self.claims.find(self.view, table, key) else {
            return true;
        };
        self.ask(table, stop)
            .is_none_or(|asked| place(&asked.sifted, key) == Place::Doubtful)
    }

    /// Rows of a page of a WITHOUT ROWID table.
    fn wide(&mut self, table: usize, v: Version, origin: Origin) -> Result<(), K::Error> {
        let Some(bytes) = self.view.load(v) else {
            self.out.damaged_leaves += 1;
            return Ok(());
        };
        let Some(node) = Node::parse(&bytes, v.page, self.view.usable()) else {
            return Ok(());
        };
        let orderly = node.is_orderly();
        let mut others: Vec<Vec<u8>> = Vec::new();
        if !v.proven {
            let versions = self.view.pages.versions(v.page);
            let others_of = versions.into_iter().rev().filter(|o| o.proven).take(4);
            others.extend(others_of.filter_map(|o| self.view.load(o)));
        }
        let held = |cell: &Cell| {
            let bytes = node.bytes(cell.place.clone());
            others
                .iter()
                .any(|page| page.windows(bytes.len().max(1)).any(|w| w == bytes))
        };
        let shape = &self.schema.tables[table];
        let present = self.view.pages.present(v);
        let mut failed = 0;
        for i in 0..node.cells {
            let there = node.cell(i).filter(|cell| cell.place.end <= present);
            let cell = there.filter(|cell| {
                let fit = self
                    .view
                    .payload(&node, cell, when(v))
                    .ok()
                    .and_then(|p| Some(shape.fit(&decode(&p)?, self.view.header.encoding)))
                    .unwrap_or(Fit::Never);
                match trust(v) {
                    Trust::Proven => true,
                    Trust::Unsaid if orderly => fit != Fit::Never,
                    Trust::Unsaid => fit == Fit::Good,
                    Trust::Refuted => fit != Fit::Never && held(cell),
                }
            });
            match cell {
                Some(cell) => self.offer(table, &node, &cell, when(v), None, origin)?,
                None => failed += 1,
            }
        }
        if failed > 0 {
            self.out.tables[table].damaged += failed;
            self.out.damaged_leaves += 1;
        }
        Ok(())
    }
}

fn bad(sifted: &Sifted) -> u64 {
    sifted.slots.iter().filter(|s| s.key().is_none()).count() as u64
}
