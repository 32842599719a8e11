//! The only place that syncs, renames over, or freezes.
//!
//! It promises that what it calls done is on the medium. After a failed sync the kernel may
//! have marked the lost pages clean, so a second sync would lie: the first failure latches and
//! every later call of the same [`Medium`] fails with it. It must never report a success that
//! it did not see.

mod block;
mod gate;
mod medium;
mod own_file;
mod reserve;

pub use block::BlockFile;
pub use gate::{Closer, Gate, Pass};
pub use medium::{DurableError, Medium, freeze, thaw};
pub use own_file::{open_own, read_own, write_own};
pub use reserve::Reserve;
