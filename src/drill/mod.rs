//! Drills: the gateway's worst days, rehearsed with its own binary in a home that cannot be the
//! live one, and an evidence report of what came back.
//!
//! It promises that nothing of the live gateway is opened, written or asked for: of its settings
//! only limits are taken over, never recipients, targets or scripts. It must never call a drill
//! passed in which a row is missing that nobody told of.

mod archive;
mod census;
mod child;
mod damage;
mod error;
mod evidence;
mod gateway;
mod history;
mod home;
mod idle;
mod page;
mod run;
mod scenario;
mod text;

pub use census::{Census, Difference, Range};
pub use child::{CHILD, heed};
pub use error::DrillError;
pub use evidence::{
    BackupUsed, EVIDENCE_FORMAT, Evidence, Outcome, Phase, PhaseName, Rows, Verdict,
};
pub use history::{KEPT, LastDrill, held, keep, last};
pub use home::{Home, HomeError, Live};
pub use idle::be_idle;
pub use page::html;
pub use run::{Limits, Options, Say, Stop, run};
pub use scenario::Scenario;
pub use text::text;
