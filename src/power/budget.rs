//! The hold-up budget: what the plan would take on this card, learned from the card itself.
//!
//! Every routine commit, checkpoint and mark is timed; nothing is assumed that was measured.
//! A checkpoint's cost has two parts: moving frames, which goes with their number, and the rest
//! (syncs, stalls), which does not. Keeping them apart means that one stall of a small
//! checkpoint is not multiplied by the frames of a large one.

use std::time::Duration;

use super::tail::Tail;

/// A kind of step whose cost is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Commit what is in flight.
    Commit,
    /// Sync another application's database with its directory, before and after its writers are
    /// stilled.
    Still,
    /// Checkpoint one database and sync it.
    Checkpoint,
    /// The same for another application's: other pages, perhaps another medium.
    CheckpointOther,
    /// Write one block of the outage record.
    Mark,
    /// Write back everything dirty (syncfs, and what a freeze does first).
    WriteBack,
}

impl StepKind {
    /// As status spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Still => "still",
            Self::Checkpoint => "checkpoint",
            Self::CheckpointOther => "checkpoint_other",
            Self::Mark => "mark",
            Self::WriteBack => "write_back",
        }
    }
}

/// What a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCost {
    /// As often more as less.
    pub expected: Duration,
    /// The tail.
    pub worst: Duration,
}

/// What other applications' databases ask of the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// How many there are.
    pub databases: u32,
    /// Blocks of 4 KiB that lie in their logs and not yet in their files.
    pub blocks: u32,
}

impl Others {
    /// So many databases with nothing in their logs.
    pub const fn empty(databases: u32) -> Self {
        Self {
            databases,
            blocks: 0,
        }
    }

    /// So many with `bytes` in their logs.
    pub fn with(databases: u32, bytes: u64) -> Self {
        Self {
            databases,
            blocks: blocks(bytes),
        }
    }
}

/// Blocks of 4 KiB, the last one counted as a whole.
pub fn blocks(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(FRAME_BYTES)).unwrap_or(u32::MAX)
}

/// Until a frame's cost was measured: 4 KiB at 4 MB/s.
const FRAME_UNKNOWN: Duration = Duration::from_millis(1);
/// Until a freeze was measured: the slowest that was seen on a quiet file system, rounded up.
const WRITE_BACK_UNKNOWN: Duration = Duration::from_millis(60);
/// Fewer frames than this tell about syncs, not about moving frames.
const MANY_FRAMES: u32 = 16;
/// The governor's limits: fewer frames than this save nothing, more than this (8 MB of WAL) win
/// nothing.
const WAL_LIMITS: (u32, u32) = (16, 2000);
const FRAME_BYTES: u64 = 4096;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// Commits.
    pub commit: Tail,
    /// Syncs and stillings of other applications' databases: a directory's sync is a commit of
    /// the file system's journal, many times a commit of ours.
    pub still: Tail,
    /// Checkpoints, without moving frames.
    pub checkpoint: Tail,
    /// Moving one frame.
    pub frame: Tail,
    /// Checkpoints of other applications' databases, without moving blocks.
    pub other: Tail,
    /// Moving one block of 4 KiB of theirs.
    pub block: Tail,
    /// Marks.
    pub mark: Tail,
    /// Freezes of a file system with little dirty.
    pub write_back: Tail,
}

impl Budget {
    /// A checkpoint of `frames` frames took this long.
    pub fn note_checkpoint(&mut self, took: Duration, frames: u32) {
        if frames >= MANY_FRAMES {
            self.frame.note(took / frames);
        }
        let moving = self.per_frame() * frames;
        self.checkpoint.note(took.saturating_sub(moving));
    }

    /// A checkpoint of another application's database moved `blocks` blocks in this time.
    pub fn note_other(&mut self, took: Duration, blocks: u32) {
        if blocks >= MANY_FRAMES {
            self.block.note(took / blocks);
        }
        let moving = self.per_block() * blocks;
        self.other.note(took.saturating_sub(moving));
    }

    /// Was every mandatory step measured at least once?
    pub fn is_calibrated(&self) -> bool {
        !(self.commit.is_empty() || self.checkpoint.is_empty() || self.mark.is_empty())
    }

    /// The cost of moving `frames` frames (blocks, where they are others', or written back) in a
    /// step.
    pub fn cost(&self, kind: StepKind, frames: u32) -> StepCost {
        let each = match kind {
            StepKind::CheckpointOther => self.per_block(),
            StepKind::Commit
            | StepKind::Still
            | StepKind::Checkpoint
            | StepKind::Mark
            | StepKind::WriteBack => self.per_frame(),
        };
        let moving = each.saturating_mul(frames);
        // Commits are the most frequent measurement: a card that turned slow shows there first,
        // and no step that syncs is faster than a commit is now.
        let now = |tail: &Tail| tail.median().max(tail.lately()).max(self.commit.lately());
        let (fixed, expected) = match kind {
            StepKind::Commit => (self.commit.worst(), now(&self.commit)),
            // No outage and no rehearsal has shown it yet: more than one sync.
            StepKind::Still if self.still.is_empty() => {
                return self.cost(StepKind::Checkpoint, frames);
            }
            StepKind::Still => (self.still.worst(), now(&self.still)),
            StepKind::CheckpointOther if !self.other.is_empty() => {
                (self.other.worst(), now(&self.other))
            }
            StepKind::Checkpoint | StepKind::CheckpointOther => {
                (self.checkpoint.worst(), now(&self.checkpoint))
            }
            StepKind::Mark => (self.mark.worst(), self.mark.median()),
            StepKind::WriteBack if self.write_back.is_empty() => {
                (WRITE_BACK_UNKNOWN, WRITE_BACK_UNKNOWN)
            }
            StepKind::WriteBack => (self.write_back.worst(), self.write_back.median()),
        };
        StepCost {
            expected: expected.saturating_add(moving),
            worst: fixed.saturating_add(moving.saturating_mul(2)),
        }
    }

    /// The cost of writing back `bytes` of dirty pages.
    pub fn write_back_cost(&self, bytes: u64) -> StepCost {
        let blocks = u32::try_from(bytes / FRAME_BYTES).unwrap_or(u32::MAX / 4);
        self.cost(StepKind::WriteBack, blocks)
    }

    /// What the steps before the end mark take with `frames` in the WAL and what others ask, and
    /// which of them takes most.
    pub fn predict(&self, frames: u32, others: Others) -> (Duration, StepKind, Duration) {
        // One moves what all of them have, each of the others pays for its syncs.
        let moves = self.cost(StepKind::CheckpointOther, others.blocks).worst;
        let syncs = self.cost(StepKind::CheckpointOther, 0).worst;
        let theirs = match others.databases.checked_sub(1) {
            Some(further) => moves.saturating_add(syncs * further),
            None => Duration::ZERO,
        };
        let sum = [
            (StepKind::Commit, self.cost(StepKind::Commit, 0).worst),
            // Synced first, stilled then.
            (
                StepKind::Still,
                self.cost(StepKind::Still, 0).worst * others.databases * 2,
            ),
            (
                StepKind::Checkpoint,
                self.cost(StepKind::Checkpoint, frames).worst,
            ),
            (StepKind::CheckpointOther, theirs),
            (StepKind::Mark, self.cost(StepKind::Mark, 0).worst),
        ];
        let total = sum
            .iter()
            .fold(Duration::ZERO, |all, (_, d)| all.saturating_add(*d));
        let (step, takes) = sum.into_iter().max_by_key(|(_, d)| *d).unwrap_or(sum[0]);
        (total, step, takes)
    }

    /// The governor: how many frames the WAL may hold so that the plan fits `allowed`. What lies
    /// in others' logs does not count: a smaller log of ours would not make it less.
    pub fn wal_limit(&self, allowed: Duration, guarded: u32) -> u32 {
        let (fixed, ..) = self.predict(0, Others::empty(guarded));
        let left = allowed.saturating_sub(fixed).as_nanos();
        let each = (self.per_frame() * 2).as_nanos().max(1);
        let frames = u32::try_from(left / each).unwrap_or(u32::MAX);
        frames.clamp(WAL_LIMITS.0, WAL_LIMITS.1)
    }

    fn per_block(&self) -> Duration {
        match (self.block.is_empty(), self.frame.is_empty()) {
            (false, _) => self.block.median(),
            // Our own frames have pages of 1 KiB at least: never more than four for a block.
            (true, false) => self.frame.median() * 4,
            (true, true) => FRAME_UNKNOWN,
        }
    }

    fn per_frame(&self) -> Duration {
        if self.frame.is_empty() {
            FRAME_UNKNOWN
        } else {
            self.frame.median()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Others = Others::empty(0);

    fn learned(commit_ms: u64, frame_us: u64) -> Budget {
        let mut b = Budget::default();
        for _ in 0..100 {
            b.commit.note(Duration::from_millis(commit_ms));
            b.mark.note(Duration::from_millis(commit_ms));
            b.note_checkpoint(
                Duration::from_millis(2 * commit_ms) + Duration::from_micros(frame_us * 100),
                100,
            );
        }
        b
    }

    #[test]
    fn the_prediction_grows_with_what_is_dirty() {
        let b = learned(10, 200);
        assert!(b.predict(1000, NOBODY).0 > b.predict(0, NOBODY).0 + Duration::from_millis(200));
    }

    #[test]
    fn the_governor_keeps_the_plan_inside_its_share() {
        let b = learned(5, 400);
        let allowed = Duration::from_millis(500);
        let frames = b.wal_limit(allowed, 0);
        assert!(b.predict(frames, NOBODY).0 <= allowed, "{frames} frames");
        assert!(frames > 100, "{frames}");
        assert!(b.wal_limit(Duration::from_millis(100), 0) < frames);
    }

    #[test]
    fn each_guarded_database_counts_with_what_its_syncs_took() {
        let mut b = learned(5, 200);
        let (before, ..) = b.predict(0, NOBODY);
        b.still.note(Duration::from_millis(324));
        assert_eq!(b.predict(0, NOBODY).0, before, "nobody else's database");
        let (total, step, _) = b.predict(0, Others::empty(2));
        assert!(
            total >= before + Duration::from_millis(4 * 324),
            "{total:?}"
        );
        assert_eq!(step, StepKind::Still);
        let unknown = learned(5, 200);
        assert!(unknown.predict(0, Others::empty(1)).0 > unknown.predict(0, NOBODY).0);
    }

    #[test]
    fn a_stall_of_a_small_checkpoint_is_not_multiplied() {
        let mut b = learned(5, 200);
        b.note_checkpoint(Duration::from_secs(4), 3);
        let (total, step, _) = b.predict(500, NOBODY);
        assert!(
            total > Duration::from_secs(4) && total < Duration::from_secs(5),
            "{total:?}"
        );
        assert_eq!(step, StepKind::Checkpoint);
    }

    #[test]
    fn a_checkpoint_is_expected_to_be_slow_on_a_card_whose_commits_turned_slow() {
        let mut b = learned(5, 200);
        (0..8).for_each(|_| b.commit.note(Duration::from_secs(2)));
        assert!(b.cost(StepKind::Checkpoint, 0).expected > Duration::from_secs(1));
    }

    #[test]
    fn a_slow_card_is_named_by_its_slowest_step() {
        let mut b = learned(5, 200);
        b.commit.note(Duration::from_secs(3));
        assert_eq!(b.predict(0, NOBODY).1, StepKind::Commit);
    }

    #[test]
    fn what_lies_in_other_peoples_logs_counts_before_it_was_ever_moved_and_as_it_was_then() {
        let mut b = learned(5, 200);
        let (before, ..) = b.predict(0, Others::empty(2));
        let (with, step, _) = b.predict(0, Others::with(2, 1000 * FRAME_BYTES));
        assert!(
            with >= before + Duration::from_millis(200),
            "{before:?}, {with:?}"
        );
        assert_eq!(step, StepKind::CheckpointOther);
        assert_eq!(
            b.predict(0, Others::empty(2)).0,
            before,
            "our own log is empty"
        );
        // On a slower medium than ours.
        b.note_other(Duration::from_secs(20), 1000);
        let (slow, ..) = b.predict(0, Others::with(2, 1000 * FRAME_BYTES));
        assert!(slow >= Duration::from_secs(20), "{slow:?}");
        let cost = b.cost(StepKind::CheckpointOther, 1000);
        assert!(cost.expected >= Duration::from_secs(20), "{cost:?}");
        assert!(b.cost(StepKind::Checkpoint, 1000).expected < Duration::from_secs(1));
        let most = b.predict(u32::MAX, Others::with(u32::MAX, u64::MAX)).0;
        assert!(most > slow, "any numbers");
    }
}
