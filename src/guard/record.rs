//! The outage record: what the next boot, and an auditor, can say about the last loss of power.
//!
//! A ring of 4 KiB blocks, written with zeros once, so that a mark is a single write without a
//! journal. Each block is a header (magic, length, CRC-32) and one JSON object that a person can
//! read with `strings`. Per outage: a begin mark when the plan starts, an end mark when
//! everything acknowledged is durable, a resumed mark after the thaw with the times that came
//! later. A begin without an end was cut, or unfinished where the gateway outlived it; an end after the deadline was late; an agent that
//! never wrote "stopped" and began no outage was never told. A rehearsal is recorded in the same way
//! and is no outage.

mod verdict;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Mono, Wall};
use crate::durable::{Block, BlockFile, DurableError, Medium, read_own, seal, unseal};
use crate::power::{Before, Cause};

use verdict::{charge_before, verdict};

const MAGIC: &[u8; 8] = b"HOLDUP1\n";
/// Block 0 says that a session began, block 1 that it was stopped.
const SESSION: u32 = 0;
const STOPPED: u32 = 1;
const FIRST: u32 = 2;
/// Marks per outage: begin, end, resumed.
const MARKS: u32 = 3;
/// Outages that are kept.
const KEPT: u32 = 32;

/// No record of any version is longer.
const LARGEST: u64 = 16 << 20;

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be made, read or written.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// How an outage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Everything was durable before the hold-up time was over.
    Clean,
    /// Everything was durable, after the hold-up time was over.
    Late,
    /// The gateway was gone before everything was durable and noted.
    Cut,
    /// The plan came to no good end, and the gateway outlived it: a step failed, or the agent was
    /// killed in the middle.
    Unfinished,
    /// The gateway went down without any sign of a loss.
    NeverAnnounced,
}

/// One step as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport<'a> {
    /// Which.
    pub step: Cow<'a, str>,
    /// Of which database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Cow<'a, str>>,
    /// When it began, in microseconds after the first lost edge.
    pub at_us: u64,
    /// What it took, in microseconds.
    pub took_us: u64,
    /// What was expected of it on this card, in microseconds; told of rehearsals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_us: Option<u64>,
    /// The tail of what it takes on this card, in microseconds; told of rehearsals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_us: Option<u64>,
    /// What a dropped step may have taken, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_us: Option<u64>,
    /// `done`, `dropped`, `skipped` or `failed`.
    pub outcome: Cow<'a, str>,
    /// Why, unless it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Cow<'a, str>>,
}

/// What one mark says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Mark<'a> {
    Session {
        session: u64,
        boot: Cow<'a, str>,
        gateway: Cow<'a, str>,
        pid: u32,
        wall_ms: i64,
        /// This boot began with an empty supply.
        #[serde(default)]
        drained: bool,
    },
    Stopped {
        session: u64,
        wall_ms: i64,
    },
    Begin {
        n: u64,
        session: u64,
        boot: Cow<'a, str>,
        cause: Cow<'a, str>,
        wall_ms: i64,
        lost_at_ns: u64,
        deadline_ns: u64,
    },
    End {
        n: u64,
        at_ns: u64,
        quiet_us: Option<u64>,
        durable_us: Option<u64>,
        steps: Vec<StepReport<'a>>,
    },
    Resumed {
        n: u64,
        at_ns: u64,
        parked_us: u64,
        steps: Vec<StepReport<'a>>,
    },
}

/// The last outage, for status and log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastOutage {
    /// `power_fail`, `battery_low`, `power_cut` (nothing was announced), `agent_died`, or
    /// `rehearsal` (the agent or the gateway was gone in the middle of one).
    pub kind: String,
    /// How it ended.
    pub ended: Ended,
    /// When it began, RFC 3339; empty when nobody saw.
    pub at: String,
    /// From the first lost edge until nobody wrote any more.
    pub edge_to_quiet_ms: Option<f64>,
    /// From the first lost edge until everything was durable.
    pub edge_to_durable_ms: Option<f64>,
    /// The plan's steps.
    pub steps: Vec<StepReport<'static>>,
    /// Service went on without a reboot.
    pub resumed: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct OutageRecord {
    next: u64,
    session: u64,
    boot: String,
    /// When each outage that is kept began.
    begun: Vec<Wall>,
    before: Before,
}

impl OutageRecord {
    /// Opens or makes the record at `path`, tells how the last session's last outage ended, and
    /// notes that a new session begins.
    pub fn open(
        medium: &Medium,
        path: &Path,
        gateway: &str,
        boot: &str,
        now: Wall,
    ) -> Result<(Self, BlockFile, Option<LastOutage>), RecordError> {
        let file = BlockFile::open(medium, path, FIRST + KEPT * MARKS)?;
        let (mut marks, mut damaged) = (Vec::new(), 0);
        for index in 0..file.blocks() {
            let block = file.read(index)?;
            match decode(&block) {
                Some(mark) => marks.push(mark),
                // A mark that was cut, or damage.
                None if block.iter().any(|b| *b != 0) => damaged += 1,
                None => {}
            }
        }
        if damaged > 0 {
            log::warn!(
                "{}: {damaged} of {} marks cannot be read; what they told of earlier outages is lost",
                path.display(),
                file.blocks()
            );
        }
        let last = verdict(&marks, boot);
        let before = charge_before(&marks, boot);
        let session = marks
            .iter()
            .filter_map(|m| match m {
                Mark::Session { session, .. } => Some(*session),
                Mark::Stopped { .. }
                | Mark::Begin { .. }
                | Mark::End { .. }
                | Mark::Resumed { .. } => None,
            })
            .max()
            .unwrap_or(0)
            .saturating_add(1);
        let next = marks
            .iter()
            .filter_map(outage_of)
            .max()
            .map_or(1, |n| n.saturating_add(1));
        let record = Self {
            next,
            session,
            boot: boot.to_owned(),
            begun: marks.iter().filter_map(began).collect(),
            before,
        };
        let mark = Mark::Session {
            session,
            boot: boot.into(),
            gateway: gateway.into(),
            pid: std::process::id(),
            wall_ms: now.as_millis(),
            drained: before == Before::Drained,
        };
        let mut block = [0; BlockFile::BLOCK];
        encode(&mark, &mut block);
        file.write(medium, SESSION, &block)?;
        Ok((record, file, last))
    }

    /// How long ago the outages of earlier sessions began that are younger than `within`. One
    /// that lies in the future began just now: this boot's clock was not set yet.
    pub(super) fn recent(&self, now: Wall, within: Duration) -> impl Iterator<Item = Duration> {
        let ago = move |began: &Wall| {
            let ms = now.as_millis().saturating_sub(began.as_millis());
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        };
        self.begun.iter().map(ago).filter(move |ago| *ago < within)
    }

    /// This boot.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    /// What the sessions before this one left of the supply's charge.
    pub fn charge_before(&self) -> Before {
        self.before
    }

    /// Fills `block` with the begin mark of a new outage; answers where it goes.
    pub(super) fn begin(
        &mut self,
        block: &mut Block,
        cause: &str,
        wall: Wall,
        lost_at: Mono,
        deadline: Mono,
    ) -> u32 {
        let n = self.next;
        self.next = n.saturating_add(1);
        let mark = Mark::Begin {
            n,
            session: self.session,
            boot: self.boot.as_str().into(),
            cause: cause.into(),
            wall_ms: wall.as_millis(),
            lost_at_ns: lost_at.as_nanos(),
            deadline_ns: deadline.as_nanos(),
        };
        encode(&mark, block);
        place(n, 0)
    }

    /// Fills `block` with the end mark of the outage that was begun last.
    pub(super) fn end(
        &self,
        block: &mut Block,
        at: Mono,
        quiet_us: Option<u64>,
        durable_us: Option<u64>,
        steps: Vec<StepReport<'_>>,
    ) -> u32 {
        let n = self.next - 1;
        encode(
            &Mark::End {
                n,
                at_ns: at.as_nanos(),
                quiet_us,
                durable_us,
                steps,
            },
            block,
        );
        place(n, 1)
    }

    /// Fills `block` with the resumed mark of the outage that was begun last.
    pub(super) fn resumed(
        &self,
        block: &mut Block,
        at: Mono,
        parked_us: u64,
        steps: Vec<StepReport<'_>>,
    ) -> u32 {
        let n = self.next - 1;
        encode(
            &Mark::Resumed {
                n,
                at_ns: at.as_nanos(),
                parked_us,
                steps,
            },
            block,
        );
        place(n, 2)
    }

    /// Fills `block` with the place of the stopped mark, not stopped: a write that costs what a
    /// mark costs and says nothing new.
    pub(super) fn not_stopped(&self, block: &mut Block, now: Wall) -> u32 {
        encode(
            &Mark::Stopped {
                session: 0,
                wall_ms: now.as_millis(),
            },
            block,
        );
        STOPPED
    }

    /// Fills `block` with the mark of an orderly end.
    pub(super) fn stopped(&self, block: &mut Block, now: Wall) -> u32 {
        encode(
            &Mark::Stopped {
                session: self.session,
                wall_ms: now.as_millis(),
            },
            block,
        );
        STOPPED
    }
}

/// Reads the last outage without opening the record for writing, for `holdup status` when no
/// agent runs. `None`: no record, or nothing in it.
pub fn read_last(path: &Path, boot: &str) -> std::io::Result<Option<LastOutage>> {
    let bytes = match read_own(path, LARGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let marks: Vec<_> = bytes
        .as_chunks::<{ BlockFile::BLOCK }>()
        .0
        .iter()
        .filter_map(decode)
        .collect();
    Ok(verdict(&marks, boot))
}

fn place(n: u64, mark: u32) -> u32 {
    FIRST + (n % u64::from(KEPT)) as u32 * MARKS + mark
}

fn outage_of(mark: &Mark<'_>) -> Option<u64> {
    match mark {
        Mark::Begin { n, .. } | Mark::End { n, .. } | Mark::Resumed { n, .. } => Some(*n),
        Mark::Session { .. } | Mark::Stopped { .. } => None,
    }
}

fn began(mark: &Mark<'_>) -> Option<Wall> {
    match mark {
        // A rehearsal is no outage.
        Mark::Begin { cause, wall_ms, .. } if *cause != Cause::Rehearsal.name() => {
            Some(Wall::from_millis(*wall_ms))
        }
        Mark::Begin { .. }
        | Mark::Session { .. }
        | Mark::Stopped { .. }
        | Mark::End { .. }
        | Mark::Resumed { .. } => None,
    }
}

/// Microseconds as milliseconds.
pub(super) fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl fmt::Display for StepReport<'_> {
    /// `checkpoint edge_store.db done in 15.3 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if let Some(database) = &self.database {
            write!(f, " {database}")?;
        }
        write!(f, " {}", self.outcome)?;
        match &*self.outcome {
            "skipped" => {}
            "dropped" => write!(
                f,
                ", could take {:.1} ms",
                millis(self.needs_us.unwrap_or_default())
            )?,
            _ => write!(f, " in {:.1} ms", millis(self.took_us))?,
        }
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl StepReport<'_> {
    /// When it began, in milliseconds after the first lost edge.
    pub fn at_ms(&self) -> f64 {
        millis(self.at_us)
    }

    /// The same, owning its texts.
    pub fn to_owned_report(&self) -> StepReport<'static> {
        let own = |s: &Cow<'_, str>| Cow::Owned(s.clone().into_owned());
        StepReport {
            step: own(&self.step),
            database: self.database.as_ref().map(own),
            at_us: self.at_us,
            took_us: self.took_us,
            expected_us: self.expected_us,
            worst_us: self.worst_us,
            needs_us: self.needs_us,
            outcome: own(&self.outcome),
            why: self.why.as_ref().map(own),
        }
    }
}

/// Writes `mark` into `block`. One that does not fit (many databases with long names) loses the
/// steps that went well, then the last of the others, never its times.
fn encode(mark: &Mark<'_>, block: &mut Block) {
    if seal(MAGIC, mark, block) {
        return;
    }
    let mut short = mark.clone();
    if let Mark::End { steps, .. } | Mark::Resumed { steps, .. } = &mut short {
        steps.retain(|s| s.outcome != "done");
    }
    while !seal(MAGIC, &short, block) {
        let (Mark::End { steps, .. } | Mark::Resumed { steps, .. }) = &mut short else {
            return;
        };
        if steps.pop().is_none() {
            return;
        }
    }
}

fn decode(block: &Block) -> Option<Mark<'static>> {
    unseal(MAGIC, block)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        home: tempfile::TempDir,
        medium: Medium,
    }

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("temp dir");
            let medium = Medium::open(home.path()).expect("medium");
            Self { home, medium }
        }

        fn boot(&self, boot: &str) -> (OutageRecord, BlockFile, Option<LastOutage>) {
            let path = self.home.path().join("outage.rec");
            OutageRecord::open(&self.medium, &path, "g1", boot, Wall::from_millis(0)).expect("open")
        }

        fn begin(&self, r: &mut OutageRecord, f: &BlockFile) {
            let mut b = [0; BlockFile::BLOCK];
            let at = r.begin(
                &mut b,
                "power_fail",
                Wall::from_millis(1_767_225_600_000),
                Mono::from_nanos(10),
                Mono::from_nanos(1000),
            );
            f.write(&self.medium, at, &b).expect("write");
        }

        fn rehearse(&self, r: &mut OutageRecord, f: &BlockFile) {
            let mut b = [0; BlockFile::BLOCK];
            let (from, to) = (Mono::from_nanos(2000), Mono::from_nanos(3000));
            let at = r.begin(&mut b, "rehearsal", Wall::from_millis(0), from, to);
            f.write(&self.medium, at, &b).expect("write");
        }

        fn resumed(&self, r: &OutageRecord, f: &BlockFile) {
            let mut b = [0; BlockFile::BLOCK];
            let at = r.resumed(&mut b, Mono::from_nanos(5000), 4, Vec::new());
            f.write(&self.medium, at, &b).expect("write");
        }

        fn stopped(&self, r: &OutageRecord, f: &BlockFile) {
            let mut b = [0; BlockFile::BLOCK];
            let at = r.stopped(&mut b, Wall::from_millis(1));
            f.write(&self.medium, at, &b).expect("write");
        }

        fn end(&self, r: &OutageRecord, f: &BlockFile, at_ns: u64) {
            let mut b = [0; BlockFile::BLOCK];
            let step = StepReport {
                step: "commit".into(),
                database: Some("edge_store.db".into()),
                at_us: 1,
                took_us: 2,
                expected_us: None,
                worst_us: None,
                needs_us: None,
                outcome: "done".into(),
                why: None,
            };
            let at = r.end(
                &mut b,
                Mono::from_nanos(at_ns),
                Some(1500),
                Some(2500),
                vec![step],
            );
            f.write(&self.medium, at, &b).expect("write");
        }
    }

    #[test]
    fn the_next_boot_says_clean_late_or_cut() {
        for (end, ended) in [
            (Some(900), Ended::Clean),
            (Some(1100), Ended::Late),
            (None, Ended::Cut),
        ] {
            let w = World::new();
            let (mut r, f, first) = w.boot("a");
            assert_eq!(first, None);
            w.begin(&mut r, &f);
            if let Some(ns) = end {
                w.end(&r, &f, ns);
            }
            let last = w.boot("b").2.expect("an outage");
            assert_eq!((last.kind.as_str(), last.ended), ("power_fail", ended));
            assert_eq!(last.edge_to_durable_ms, end.map(|_| 2.5));
        }
    }

    #[test]
    fn an_outage_that_the_gateway_outlived_was_not_cut() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        let path = w.home.path().join("outage.rec");
        let ended = |boot: &str| read_last(&path, boot).expect("read").map(|o| o.ended);
        assert_eq!(ended("b"), Some(Ended::Cut));
        assert_eq!(ended("a"), Some(Ended::Unfinished), "the agent was killed");
        w.resumed(&r, &f);
        w.stopped(&r, &f);
        assert_eq!(
            ended("b"),
            Some(Ended::Unfinished),
            "the end mark failed, service went on"
        );
    }

    #[test]
    fn marks_that_nobody_can_have_written_are_read_without_harm() {
        let w = World::new();
        let (_, f, _) = w.boot("a");
        let n = u64::MAX;
        let begin = Mark::Begin {
            n,
            session: n,
            boot: "a".into(),
            cause: "power_fail".into(),
            wall_ms: i64::MIN,
            lost_at_ns: n,
            deadline_ns: 0,
        };
        let session = Mark::Session {
            session: n,
            boot: "a".into(),
            gateway: "g".into(),
            pid: 1,
            wall_ms: i64::MAX,
            drained: false,
        };
        for (mark, at) in [(begin, place(n, 0)), (session, SESSION)] {
            let mut b = [0; BlockFile::BLOCK];
            encode(&mark, &mut b);
            f.write(&w.medium, at, &b).expect("write");
        }
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        drop(w.boot("b"));
    }

    #[test]
    fn a_gateway_that_was_gone_without_a_sign_is_told_apart_from_a_dead_agent() {
        let w = World::new();
        drop(w.boot("a"));
        let last = w.boot("b").2.expect("gone");
        assert_eq!(
            (last.kind.as_str(), last.ended),
            ("power_cut", Ended::NeverAnnounced)
        );
        let last = w.boot("b").2.expect("died");
        assert_eq!(
            (last.kind.as_str(), last.ended),
            ("agent_died", Ended::NeverAnnounced)
        );
    }

    #[test]
    fn an_outage_that_was_resumed_is_not_the_end_of_a_session() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        let mut b = [0; BlockFile::BLOCK];
        let at = r.resumed(&mut b, Mono::from_nanos(5000), 4, Vec::new());
        f.write(&w.medium, at, &b).expect("write");
        assert_eq!(w.boot("b").2.expect("gone").ended, Ended::NeverAnnounced);
    }

    #[test]
    fn gone_in_the_middle_of_a_rehearsal_is_no_cut_and_a_finished_one_is_no_outage() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        w.resumed(&r, &f);
        w.rehearse(&mut r, &f);
        let last = w.boot("b").2.expect("gone");
        assert_eq!(
            (last.kind.as_str(), last.ended),
            ("rehearsal", Ended::NeverAnnounced)
        );

        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        w.resumed(&r, &f);
        w.rehearse(&mut r, &f);
        w.resumed(&r, &f);
        w.stopped(&r, &f);
        let last = w.boot("b").2.expect("the outage");
        assert_eq!(
            (last.kind.as_str(), last.ended),
            ("power_fail", Ended::Clean)
        );
    }

    #[test]
    fn the_supply_is_empty_after_a_loss_that_nobody_outlived_until_the_next_boot() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        assert_eq!(r.charge_before(), Before::Full);
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        assert_eq!(
            w.boot("a").0.charge_before(),
            Before::LostSince(Mono::from_nanos(10)),
            "the agent died, the gateway did not"
        );

        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        let (r, f, _) = w.boot("b");
        assert_eq!(r.charge_before(), Before::Drained);
        w.stopped(&r, &f);
        assert_eq!(
            w.boot("b").0.charge_before(),
            Before::Drained,
            "a restart of the agent charges nothing"
        );
        assert_eq!(w.boot("c").0.charge_before(), Before::Full);
    }

    #[test]
    fn a_loss_that_was_resumed_and_a_rehearsal_leave_the_charge_alone() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        w.resumed(&r, &f);
        w.rehearse(&mut r, &f);
        assert_eq!(w.boot("b").0.charge_before(), Before::Full);
    }

    #[test]
    fn a_record_of_an_older_version_has_sessions_without_a_charge() {
        let old = r#"{"kind":"session","session":3,"boot":"a","gateway":"g","pid":1,"wall_ms":5}"#;
        let mark: Mark<'_> = serde_json::from_str(old).expect("read");
        assert!(matches!(mark, Mark::Session { drained: false, .. }));
    }

    #[test]
    fn a_stopped_session_remembers_its_last_outage() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        w.begin(&mut r, &f);
        w.end(&r, &f, 900);
        let mut b = [0; BlockFile::BLOCK];
        let at = r.stopped(&mut b, Wall::from_millis(1));
        f.write(&w.medium, at, &b).expect("write");
        assert_eq!(w.boot("b").2.expect("outage").ended, Ended::Clean);
    }

    #[test]
    fn the_ring_keeps_the_newest_and_a_torn_mark_is_no_mark() {
        let w = World::new();
        let (mut r, f, _) = w.boot("a");
        for k in 0..100 {
            w.begin(&mut r, &f);
            w.end(&r, &f, if k == 99 { 2000 } else { 900 });
        }
        assert_eq!(
            w.boot("b").2.expect("outage").ended,
            Ended::Late,
            "of outage 100"
        );
        let mut b = f.read(place(100, 1)).expect("read");
        assert!(matches!(decode(&b), Some(Mark::End { n: 100, .. })));
        b[40] ^= 1;
        assert!(decode(&b).is_none());
    }

    #[test]
    fn a_mark_with_too_many_steps_keeps_its_times() {
        let step = || StepReport {
            step: "checkpoint".into(),
            database: Some("x".repeat(200).into()),
            at_us: 1,
            took_us: 2,
            expected_us: None,
            worst_us: None,
            needs_us: None,
            outcome: "done".into(),
            why: None,
        };
        let mut b = [0; BlockFile::BLOCK];
        encode(
            &Mark::End {
                n: 1,
                at_ns: 7,
                quiet_us: Some(3),
                durable_us: Some(4),
                steps: (0..40).map(|_| step()).collect(),
            },
            &mut b,
        );
        let Some(Mark::End { at_ns, steps, .. }) = decode(&b) else {
            panic!("no mark")
        };
        assert_eq!((at_ns, steps.len()), (7, 0));
    }

    #[test]
    fn a_mark_without_room_for_every_step_keeps_those_that_did_not_go_well() {
        let step = |k: usize| StepReport {
            step: "still".into(),
            database: Some(format!("{k}{}", "x".repeat(100)).into()),
            at_us: 1,
            took_us: 2,
            expected_us: None,
            worst_us: None,
            needs_us: None,
            outcome: if k.is_multiple_of(8) {
                "failed"
            } else {
                "done"
            }
            .into(),
            why: None,
        };
        let end = |most| {
            let mut b = [0; BlockFile::BLOCK];
            let mark = Mark::End {
                n: 1,
                at_ns: 7,
                quiet_us: Some(3),
                durable_us: Some(4),
                steps: (0..most).map(step).collect(),
            };
            encode(&mark, &mut b);
            match decode(&b) {
                Some(Mark::End { steps, .. }) => steps,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(end(16).len(), 16);
        let short = end(64);
        assert_eq!(short.len(), 8);
        assert!(short.iter().all(|s| s.outcome == "failed"));
        let shorter = end(640);
        assert!(shorter.len() > 8, "{}", shorter.len());
        assert!(
            shorter[0]
                .database
                .as_deref()
                .is_some_and(|d| d.starts_with("0x"))
        );
    }
}
