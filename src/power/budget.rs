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

    /// Was every mandatory step measured at least once?
    pub fn is_calibrated(&self) -> bool {
        !(self.commit.is_empty() || self.checkpoint.is_empty() || self.mark.is_empty())
    }

    /// The cost of moving `frames` frames (or write back as many blocks) in a step.
    pub fn cost(&self, kind: StepKind, frames: u32) -> StepCost {
        let moving = self.per_frame() * frames;
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
            StepKind::Checkpoint => (self.checkpoint.worst(), now(&self.checkpoint)),
            StepKind::Mark => (self.mark.worst(), self.mark.median()),
            StepKind::WriteBack if self.write_back.is_empty() => {
                (WRITE_BACK_UNKNOWN, WRITE_BACK_UNKNOWN)
            }
            StepKind::WriteBack => (self.write_back.worst(), self.write_back.median()),
        };
        StepCost {
            expected: expected + moving,
            worst: fixed + moving * 2,
        }
    }

    /// The cost of writing back `bytes` of dirty pages.
    pub fn write_back_cost(&self, bytes: u64) -> StepCost {
        let blocks = u32::try_from(bytes / FRAME_BYTES).unwrap_or(u32::MAX / 4);
        self.cost(StepKind::WriteBack, blocks)
    }

    /// What the mandatory steps take with `frames` in the WAL and `guarded` other databases,
    /// and which of them takes most.
    pub fn predict(&self, frames: u32, guarded: u32) -> (Duration, StepKind, Duration) {
        let sum = [
            (StepKind::Commit, self.cost(StepKind::Commit, 0).worst),
            // Synced first, stilled then.
            (
                StepKind::Still,
                self.cost(StepKind::Still, 0).worst * guarded * 2,
            ),
            (
                StepKind::Checkpoint,
                self.cost(StepKind::Checkpoint, frames).worst
                    + self.cost(StepKind::Checkpoint, 0).worst * guarded,
            ),
            (StepKind::Mark, self.cost(StepKind::Mark, 0).worst),
        ];
        let total = sum.iter().map(|(_, d)| *d).sum();
        let (step, takes) = sum.into_iter().max_by_key(|(_, d)| *d).unwrap_or(sum[0]);
        (total, step, takes)
    }

    /// The governor: how many frames the WAL may hold so that the plan fits `allowed`.
    pub fn wal_limit(&self, allowed: Duration, guarded: u32) -> u32 {
        let (fixed, ..) = self.predict(0, guarded);
        let left = allowed.saturating_sub(fixed).as_nanos();
        let each = (self.per_frame() * 2).as_nanos().max(1);
        let frames = u32::try_from(left / each).unwrap_or(u32::MAX);
        frames.clamp(WAL_LIMITS.0, WAL_LIMITS.1)
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
        assert!(b.predict(1000, 0).0 > b.predict(0, 0).0 + Duration::from_millis(200));
    }

    #[test]
    fn the_governor_keeps_the_plan_inside_its_share() {
        let b = learned(5, 400);
        let allowed = Duration::from_millis(500);
        let frames = b.wal_limit(allowed, 0);
        assert!(b.predict(frames, 0).0 <= allowed, "{frames} frames");
        assert!(frames > 100, "{frames}");
        assert!(b.wal_limit(Duration::from_millis(100), 0) < frames);
    }

    #[test]
    fn each_guarded_database_counts_with_what_its_syncs_took() {
        let mut b = learned(5, 200);
        let (before, ..) = b.predict(0, 0);
        b.still.note(Duration::from_millis(324));
        assert_eq!(b.predict(0, 0).0, before, "nobody else's database");
        let (total, step, _) = b.predict(0, 2);
        assert!(
            total >= before + Duration::from_millis(4 * 324),
            "{total:?}"
        );
        assert_eq!(step, StepKind::Still);
        let unknown = learned(5, 200);
        assert!(unknown.predict(0, 1).0 > unknown.predict(0, 0).0);
    }

    #[test]
    fn a_stall_of_a_small_checkpoint_is_not_multiplied() {
        let mut b = learned(5, 200);
        b.note_checkpoint(Duration::from_secs(4), 3);
        let (total, step, _) = b.predict(500, 0);
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
        assert_eq!(b.predict(0, 0).1, StepKind::Commit);
    }
}
