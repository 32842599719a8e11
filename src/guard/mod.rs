//! What is done about a loss of power: the guard thread, the plan, the outage record.
//!
//! Two threads beside a third that only writes marks. The **guard thread** owns the lines,
//! turns the supply's state machine and gives orders; after an edge it allocates nothing, logs
//! nothing, spawns nothing and opens no file. The **plan thread** runs the steps that may block.
//! Everything they need was made before; they talk through atomic words, futexes and one
//! eventfd. What people read (log, status, service manager) is told by others, from [`Shared`].

mod databases;
mod foreign;
mod heartbeat;
mod instance;
mod machine;
mod marker;
mod mount;
mod orders;
mod own;
mod plan;
mod realtime;
mod record;
pub mod rights;
mod runner;
mod shared;
mod unit;
mod watch;

pub use databases::{DatabaseView, GuardedDatabase};
pub use foreign::{
    ForeignDatabase, Header, Holders, Journal, header, holders, is_read_only, not_writable,
    process_in_words, writer_now,
};
pub use heartbeat::{Heartbeat, Measured, Outlived};
pub use instance::{Instance, InstanceError};
pub use machine::{KernelMachine, Machine, MachineError, SimMachine};
pub use mount::{freeze_refusal, read_only};
pub use own::{Own, Writer};
pub use plan::{Decision, Plan, Step};
pub use record::{Ended, LastOutage, OutageRecord, RecordError, StepReport, read_last};
pub use runner::{PlanOptions, PlanThread};
pub use shared::{Answer, Bell, Notices, Published, Request, Shared};
pub use unit::{Cgroups, Unit, UnitState, let_go_on};
pub use watch::{Guard, GuardOptions, Lamps, LineOpener, LineReader, LinesLost};

pub use realtime::lock_memory;
