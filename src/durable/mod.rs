//! The only place that syncs, renames over, or freezes.
//!
//! It promises that what it calls done is on the medium. After a failed sync the kernel may
//! have marked the lost pages clean, so a second sync would lie: the first failure latches and
//! every later call of the same [`Medium`] fails with it. It must never report a success that
//! it did not see.

mod block;
mod bulk;
mod discard;
mod gate;
mod hot_copy;
mod medium;
mod own_file;
mod reserve;
mod sealed;
mod stride;

pub use block::BlockFile;
pub use bulk::{Bulk, PIECE, enter, was_told_to_stop};
pub use discard::discard;
pub use gate::{Closer, Gate, Pass};
pub use hot_copy::{CopyError, CopyHow, CopyOrder, Copying, Heed, HotCopy, Receipt, Target};
pub use medium::{DurableError, Medium, freeze, thaw};
pub use own_file::{open_own, read_own, read_own_if_there, write_own};
pub use reserve::Reserve;
pub use sealed::{Block, seal, unseal};
pub use stride::Stride;
