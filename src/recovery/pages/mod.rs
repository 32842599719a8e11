//! Page salvage: the rows of a database that SQLite cannot read, from its pages alone.
//!
//! It promises that no bytes make it panic or run without end, that memory stays bounded, that
//! a row that was never written is not made up, and that a deleted row stays deleted where the
//! files still show that it was. It must never write to what it reads.

mod candidate;
mod header;
mod image;
mod journal;
mod kept;
mod leaf;
mod node;
mod rebuild;
mod record;
mod salvage;
mod schema;
mod strict;
mod table;
mod tree;
mod unnamed;
mod view;

pub use candidate::FromPages;
pub use header::{Encoding, Header, page_size_of};
pub use image::Image;
pub use journal::{Journal, JournalState, RolledBack};
pub use kept::{AsOf, Untold};
pub use rebuild::{Pace, Rebuilt, Rest, rebuild};
pub use record::Value;
pub use salvage::{Keeper, Offer, Origin, Row, Salvaged, Tally, salvage};
pub use schema::{Found, Object, Schema};
pub use strict::unwritten;
pub use table::{Affinity, Column, Expected, Fit, Table};
pub use view::LARGEST_ROW;

#[cfg(test)]
mod tests;
