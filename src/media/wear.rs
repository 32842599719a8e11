//! The share of its life that a medium says it has used.

use serde::{Deserialize, Serialize};

/// Percent of the rated life used: at least `low`, at most `high`. Past 100 means past the rating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wear {
    /// At least.
    pub low: u16,
    /// At most.
    pub high: u16,
}

impl Wear {
    /// A percentage that the device counts.
    pub const fn percent(used: u8) -> Self {
        Self {
            low: used as u16,
            high: used as u16 + 1,
        }
    }

    /// JEDEC's steps of ten percent, from 1.
    pub const fn steps(step: u8) -> Self {
        Self {
            low: step.saturating_sub(1) as u16 * 10,
            high: step as u16 * 10,
        }
    }
}
