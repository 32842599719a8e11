//! The archive as a stream of bytes: `tar`, in `zstd`, in `age`.
//!
//! It promises flat memory whatever the size. It must never trust a byte of an archive: anybody
//! can encrypt to a recipient, so even one that opens may be hostile.

mod error;
mod reader;
mod tape;
#[cfg(test)]
mod tests;
mod writer;

pub use error::ArchiveError;
pub use reader::{Entry, EntryKind, Limits, Reader};
pub use writer::{ArchiveWriter, Attributes, Written};
