//! Who owns which page: trees walked from their roots, the freelist, and the holes that damage
//! left in them.
//!
//! It promises that a page belongs to one tree at most, that a free page belongs to none, and
//! that a walk ends whatever the pages say. An interior page that is not wholly sound is a hole:
//! what its cells say is a hint, not a bound.

use std::collections::HashMap;

use super::super::source::Version;
use super::header::word;
use super::node::{Kind, Node};
use super::view::{View, when};

const DEEPEST: usize = 32;

/// Keys of a table's subtree: above `above`, up to `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    pub(super) above: Option<i64>,
    pub(super) upto: Option<i64>,
}

impl Bounds {
    pub(super) fn hold(self, key: i64) -> bool {
        self.above.is_none_or(|a| key > a) && self.upto.is_none_or(|u| key <= u)
    }
}

/// What a page is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nothing leads to it.
    None,
    /// On the freelist.
    Free,
    /// Of the tree with this number.
    Tree(u16),
}

/// A b-tree of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: Option<u32>,
    /// An index's, or that of a WITHOUT ROWID table.
    pub(super) index: bool,
}

/// The owner of each page, and which trees have holes.
#[derive(Debug)]
pub(super) struct Claims {
    /// 0 none, 1 free, else a tree's number and 2.
    owner: Vec<u16>,
    pub(super) trees: Vec<Tree>,
    /// Pages of a tree that could not be walked.
    pub(super) holes: Vec<u64>,
    /// Children that damaged interior pages still name, by tree.
    pub(super) hints: HashMap<u32, u16>,
    /// The freelist's chain ended early.
    pub(super) freelist_torn: bool,
}

/// A leaf, or a page of an index tree that holds rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub(super) page: u32,
    pub(super) version: Version,
    pub(super) bounds: Bounds,
    /// The time of the page that led here; none for a root.
    pub(super) parent: Option<u64>,
}

impl Claims {
    pub(super) fn new(view: &View<'_>, trees: Vec<Tree>) -> Self {
        let pages = view.pages.highest() as usize;
        let mut claims = Self {
            owner: vec![0; pages + 1],
            holes: vec![0; trees.len()],
            trees,
            hints: HashMap::new(),
            freelist_torn: false,
        };
        claims.free_pages(view);
        for tree in 0..claims.trees.len() {
            claims.walk(view, tree);
        }
        claims
    }

    /// Claims of nothing.
    pub(super) fn empty() -> Self {
        Self {
            owner: Vec::new(),
            trees: Vec::new(),
            holes: Vec::new(),
            hints: HashMap::new(),
            freelist_torn: false,
        }
    }

    pub(super) fn of(&self, page: u32) -> Claim {
        match self.owner.get(page as usize) {
            None | Some(0) => Claim::None,
            Some(1) => Claim::Free,
            Some(n) => Claim::Tree(n - 2),
        }
    }

    pub(super) fn take(&mut self, page: u32, tree: usize) {
        if let (Some(owner), Ok(tree)) = (self.owner.get_mut(page as usize), u16::try_from(tree)) {
            *owner = tree.saturating_add(2);
        }
    }

    /// What leads to `page` is out of date: it is nobody's, and its tree has a hole there.
    pub(super) fn release(&mut self, page: u32, tree: usize) {
        if let (Some(owner), Some(holes)) =
            (self.owner.get_mut(page as usize), self.holes.get_mut(tree))
        {
            *owner = 0;
            *holes += 1;
        }
    }

    /// A page that was written after its trunk page is in use again: that trunk is out of date.
    fn free_pages(&mut self, view: &View<'_>) {
        let mut trunk = view.header.freelist;
        let most = view.usable() / 4 - 2;
        while trunk != 0 {
            let fresh = trunk > 1 && view.may_hold_data(trunk) && self.of(trunk) == Claim::None;
            let page = fresh
                .then(|| view.newest(trunk))
                .flatten()
                .filter(|v| v.proven || v.transaction.is_none())
                .and_then(|v| Some((v, view.load(v)?)));
            let Some((v, bytes)) = page else {
                self.freelist_torn = true;
                return;
            };
            let count = word(&bytes, 4) as usize;
            if count > most {
                self.freelist_torn = true;
                return;
            }
            self.set_free(trunk);
            for i in 0..count {
                let page = word(&bytes, 8 + i * 4);
                if page < 2 || !view.may_hold_data(page) {
                    self.freelist_torn = true;
                } else if view.newest(page).is_none_or(|p| when(p) <= when(v)) {
                    self.set_free(page);
                }
            }
            trunk = word(&bytes, 0);
        }
    }

    fn set_free(&mut self, page: u32) {
        if let Some(owner) = self.owner.get_mut(page as usize) {
            *owner = 1;
        }
    }

    fn walk(&mut self, view: &View<'_>, tree: usize) {
        let Some(root) = self.trees[tree].root else {
            self.holes[tree] += 1;
            return;
        };
        let mut stack = vec![(root, Bounds::default(), 0, None)];
        while let Some((page, bounds, depth, parent)) = stack.pop() {
            let took = self.enter(view, tree, page, bounds, depth, parent, &mut stack);
            if !took {
                self.holes[tree] += 1;
            }
        }
    }

    /// Takes `page` for the tree and puts its children on the stack; false leaves a hole.
    #[expect(clippy::too_many_arguments, reason = "the walk's own state")]
    fn enter(
        &mut self,
        view: &View<'_>,
        tree: usize,
        page: u32,
        bounds: Bounds,
        depth: usize,
        parent: Option<Version>,
        stack: &mut Vec<(u32, Bounds, usize, Option<Version>)>,
    ) -> bool {
        let free = view.may_hold_data(page) && self.of(page) == Claim::None;
        if depth >= DEEPEST || !free {
            return false;
        }
        let Some(v) = view.newest(page) else {
            return false;
        };
        // The transaction that hung it in is damaged, and no state of it is as new: what lies
        // there is what the page held for somebody else before.
        if let Some(t) = parent.and_then(|p: Version| p.transaction)
            && view.pages.transaction_torn(t)
            && when(v) <= u64::from(t)
            && !was_child(view, parent, page)
        {
            return false;
        }
        let Some(bytes) = view.load(v) else {
            return false;
        };
        let Some(node) = Node::parse(&bytes, page, view.usable()) else {
            // A leaf whose header is lost: its parent says whose it is.
            let leaf = parent.is_some() && !self.trees[tree].index;
            if leaf {
                self.take(page, tree);
            }
            return leaf;
        };
        if node.kind.is_index() != self.trees[tree].index {
            return false;
        }
        if !node.kind.is_interior() {
            if !v.proven && node.kind == Kind::TableLeaf && strays(&node, bounds) {
                return false;
            }
            self.take(page, tree);
            return true;
        }
        let Some(children) = children(&node, bounds) else {
            self.hint(view, tree, page);
            return false;
        };
        self.take(page, tree);
        stack.extend(
            children
                .into_iter()
                .map(|(child, bounds)| (child, bounds, depth + 1, Some(v))),
        );
        true
    }

    /// What any state of a damaged interior page says of its children.
    fn hint(&mut self, view: &View<'_>, tree: usize, page: u32) {
        const MOST: usize = 1 << 20;
        for v in view.pages.versions(page) {
            let Some(bytes) = view.load(v) else { continue };
            let Some(node) = Node::parse(&bytes, page, view.usable()) else {
                continue;
            };
            if !node.kind.is_interior() {
                continue;
            }
            let named = (0..node.cells)
                .filter_map(|i| Some(node.cell(i)?.child))
                .chain([node.right()]);
            for child in named.filter(|c| view.may_hold_data(*c)) {
                if let (true, Ok(tree)) = (self.hints.len() < MOST, u16::try_from(tree)) {
                    self.hints.insert(child, tree);
                }
            }
        }
    }

    /// Calls `each` for all pages of a tree that hold rows, in the order of their keys.
    pub(super) fn leaves<E>(
        &self,
        view: &View<'_>,
        tree: usize,
        mut each: impl FnMut(Stop) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(root) = self.trees[tree].root else {
            return Ok(());
        };
        let mut stack = vec![(root, Bounds::default(), 0, None)];
        while let Some((page, bounds, depth, parent)) = stack.pop() {
            let ours = Claim::Tree(u16::try_from(tree).unwrap_or(u16::MAX));
            if depth >= DEEPEST || self.of(page) != ours {
                continue;
            }
            let Some((version, bytes)) = view.newest(page).and_then(|v| Some((v, view.load(v)?)))
            else {
                continue;
            };
            let stop = Stop {
                page,
                version,
                bounds,
                parent,
            };
            match Node::parse(&bytes, page, view.usable()) {
                Some(node) if node.kind.is_interior() => {
                    if node.kind.is_index() {
                        each(stop)?;
                    }
                    let below = children(&node, bounds).unwrap_or_default();
                    let led = Some(when(version));
                    stack.extend(below.into_iter().rev().map(|(c, b)| (c, b, depth + 1, led)));
                }
                _ => each(stop)?,
            }
        }
        Ok(())
    }

    /// The leaf that must hold `key` if any does; none where damage hides it.
    pub(super) fn find(&self, view: &View<'_>, tree: usize, key: i64) -> Option<Stop> {
        let ours = Claim::Tree(u16::try_from(tree).ok()?);
        let mut page = self.trees[tree].root?;
        let mut bounds = Bounds::default();
        let mut parent = None;
        for _ in 0..DEEPEST {
            if self.of(page) != ours {
                return None;
            }
            let version = view.newest(page)?;
            let bytes = view.load(version)?;
            let node = Node::parse(&bytes, page, view.usable());
            let Some(node) = node.filter(|n| n.kind.is_interior()) else {
                return Some(Stop {
                    page,
                    version,
                    bounds,
                    parent,
                });
            };
            parent = Some(when(version));
            (page, bounds) = children(&node, bounds)?
                .into_iter()
                .find(|(_, b)| b.hold(key))?;
        }
        None
    }
}

/// Did the state of the parent before this one name `page` too?
fn was_child(view: &View<'_>, parent: Option<Version>, page: u32) -> bool {
    let Some(parent) = parent else { return true };
    let before = when(parent).checked_sub(1);
    let Some(bytes) = before
        .and_then(|at| view.as_of(parent.page, at))
        .and_then(|v| view.load(v))
    else {
        // Nothing tells; its own content will have to fit.
        return true;
    };
    Node::parse(&bytes, parent.page, view.usable()).is_some_and(|node| {
        node.kind.is_interior()
            && (node.right() == page
                || (0..node.cells).any(|i| node.cell(i).is_some_and(|c| c.child == page)))
    })
}

/// Keys outside what the parent says: the link, or the parent's key, is damaged.
fn strays(node: &Node<'_>, bounds: Bounds) -> bool {
    let (mut inside, mut outside) = (0, 0);
    let cells = (0..node.cells).filter_map(|i| node.cell(i));
    // What was overwritten with zeros has no payload.
    for cell in cells.filter(|c| c.payload > 0) {
        if bounds.hold(cell.rowid) {
            inside += 1;
        } else {
            outside += 1;
        }
    }
    outside > inside
}

/// The children of an interior page with their bounds; none unless all of it is sound.
/// One that lies behind the end of the file is a hole of its own.
pub(super) fn children(node: &Node<'_>, bounds: Bounds) -> Option<Vec<(u32, Bounds)>> {
    let mut below = Vec::with_capacity(node.cells + 1);
    let mut above = bounds.above;
    for i in 0..node.cells {
        let cell = node.cell(i)?;
        let mut own = Bounds::default();
        if node.kind == Kind::TableInterior {
            own = Bounds {
                above,
                upto: Some(cell.rowid),
            };
            if above.is_some_and(|a| cell.rowid <= a) || bounds.upto.is_some_and(|u| cell.rowid > u)
            {
                return None;
            }
            above = Some(cell.rowid);
        }
        below.push((cell.child, own));
    }
    let last = Bounds {
        above,
        upto: bounds.upto,
    };
    below.push((node.right(), last));
    below.iter().all(|(c, _)| *c > 1).then_some(below)
}
