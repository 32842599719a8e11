//! Outages at random times in one long run; not part of the usual tests:
//! `tests/image/run --soak [N]`.
//!
//! One card, many boots. The client streams all the time. At the end everything that was ever
//! acknowledged is compared with the card.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::card::Card;
use crate::load::{Account, Load, Rate};
use crate::machine::{Job, MachineOptions};
use crate::parts::{Parts, parts};
use crate::patience::{Stopwatch, pace};
use crate::scene::{BROWNOUT, POWER_FAIL, Scene, Setting, compare_ranges, reading, saw};

const NAME: &str = "soak";
const CARD: u64 = 512 << 20;
/// Readings are paced, so that the card lasts for the whole run.
const PACE: Duration = Duration::from_millis(5);

/// What happens to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Lost, parked, back.
    BackWhileParked,
    /// Lost and back before the commit point.
    BackBeforeCommit,
    /// Chatter that adds up to a loss or does not.
    Chatter,
    /// The rail sags, then power is lost.
    BrownoutThenLoss,
    /// Lost, and dark at a random moment after it.
    Cut,
    /// Dark without an announcement.
    Unannounced,
    /// The agent is killed, in service or in the loss.
    AgentKilled,
}

const KINDS: [Kind; 7] = [
    Kind::BackWhileParked,
    Kind::BackBeforeCommit,
    Kind::Chatter,
    Kind::BrownoutThenLoss,
    Kind::Cut,
    Kind::Unannounced,
    Kind::AgentKilled,
];

/// xorshift64*: the run can be had again from its seed, as far as the machine's own timing goes.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Everything that the run adds up.
#[derive(Default)]
struct Tally {
    kinds: BTreeMap<Kind, u32>,
    /// First reading and how many were acknowledged, for each connection of the client.
    ranges: Vec<(u64, u64)>,
    quiet: Vec<f64>,
    durable: Vec<f64>,
    ended: BTreeMap<String, u32>,
    next: u64,
}

impl Tally {
    fn close(&mut self, account: &Account, first: u64) {
        assert!(account.errors.is_empty(), "{:?}", account.errors);
        self.ranges.push((first, account.acked));
        self.next = first + account.sent;
    }

    fn outage(&mut self, status: &Value) {
        let last = &status["last_outage"];
        for (times, name) in [
            (&mut self.quiet, "edge_to_quiet_ms"),
            (&mut self.durable, "edge_to_durable_ms"),
        ] {
            times.extend(last[name].as_f64());
        }
        self.told(last);
    }

    fn told(&mut self, last: &Value) {
        let word = |v: &Value| v.as_str().unwrap_or("none").to_owned();
        let words = format!("{} {}", word(&last["kind"]), word(&last["ended"]));
        *self.ended.entry(words).or_default() += 1;
    }
}

fn spread(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    match times {
        [] => "none".to_owned(),
        [.., worst] => {
            let worst = *worst;
            format!("p50 {:.1} ms, worst {worst:.1} ms", times[times.len() / 2])
        }
    }
}

/// A gateway that serves, and its streaming client.
struct Run<'a> {
    parts: &'a Parts,
    card: &'a Card,
    toml: String,
    scene: Scene,
    load: Load,
    client: Job,
    first: u64,
    agents: u32,
}

impl<'a> Run<'a> {
    fn boot(parts: &'a Parts, card: &'a Card, toml: &str, first: u64) -> Self {
        let options = MachineOptions {
            config_toml: toml,
            ..MachineOptions::default()
        };
        let scene = Scene::boot(NAME, parts, card, &options);
        scene.wait_for_service();
        let (load, client) = stream(&scene, first);
        Self {
            parts,
            card,
            toml: toml.to_owned(),
            scene,
            load,
            client,
            first,
            agents: 1,
        }
    }

    fn line(&self, lost: bool) {
        self.scene.machine.lines.set(POWER_FAIL, lost);
    }

    fn serves(&self) {
        self.scene.wait_for_service();
        let held = self.load.account().acked;
        self.load.wait_for("more acknowledgements", |a| {
            !a.is_paused() && a.acked > held + 20
        });
    }

    /// The plug is out: what was acknowledged by now counts.
    fn reboot(self, tally: &mut Tally) -> Self {
        self.scene.machine.cut_power();
        tally.close(&self.load.close(), self.first);
        drop(self.scene);
        let run = Self::boot(self.parts, self.card, &self.toml, tally.next);
        tally.told(&run.scene.status()["last_outage"]);
        run
    }

    /// The agent is dead and the gateway is not: the next one, and a new client.
    fn restart_agent(self, tally: &mut Tally) -> Self {
        let Self {
            mut scene,
            load,
            client,
            ..
        } = self;
        scene.machine.kill(&scene.agent);
        tally.close(&load.close(), self.first);
        // A port opens once at a time.
        scene.machine.kill(&client);
        scene.agent = scene.machine.spawn(
            &format!("agent{}", self.agents + 1),
            &format!("holdup run --config {}", crate::machine::CONFIG),
        );
        // Lost or not: the line tells the new agent.
        scene.machine.lines.set(POWER_FAIL, false);
        scene.wait_for_service();
        let first = tally.next;
        let (load, client) = stream(&scene, first);
        Self {
            scene,
            load,
            client,
            first,
            agents: self.agents + 1,
            ..self
        }
    }

    fn outage(self, kind: Kind, dice: &mut Dice, tally: &mut Tally) -> Self {
        self.serves();
        pace(dice.ms(0, 1500));
        match kind {
            Kind::BackWhileParked | Kind::BrownoutThenLoss => {
                if kind == Kind::BrownoutThenLoss {
                    self.scene.machine.lines.set(BROWNOUT, true);
                    pace(dice.ms(0, 300));
                }
                self.line(true);
                let parked = self.scene.wait_for_supply("Parked");
                tally.outage(&parked);
                pace(dice.ms(0, 1000));
                self.line(false);
                self.scene.machine.lines.set(BROWNOUT, false);
                self
            }
            Kind::BackBeforeCommit => {
                self.line(true);
                pace(dice.ms(1, 60));
                self.line(false);
                self
            }
            Kind::Chatter => {
                let (period, lost) = (dice.ms(10, 60), dice.ms(2, 8));
                let time = dice.ms(200, 2500);
                let lines = &self.scene.machine.lines;
                let chatter = lines.chatter(POWER_FAIL, period, lost, time);
                chatter.join().expect("chatter");
                self
            }
            Kind::Cut => {
                self.line(true);
                pace(dice.ms(0, 600));
                self.reboot(tally)
            }
            Kind::Unannounced => self.reboot(tally),
            Kind::AgentKilled => {
                if dice.below(2) == 0 {
                    self.line(true);
                    pace(dice.ms(0, 600));
                }
                self.restart_agent(tally)
            }
        }
    }
}

fn stream(scene: &Scene, first: u64) -> (Load, Job) {
    Load::start(&scene.machine, "feed0", Rate::Every(PACE), move |n| {
        reading(first + n)
    })
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |t| {
        t.parse().unwrap_or_else(|e| panic!("{name} = {t:?}: {e}"))
    })
}

#[test]
#[ignore = "takes hours; tests/image/run --soak [N]"]
fn soak() {
    let Some(parts) = parts() else { return };
    let outages = setting("HOLDUP_SOAK_OUTAGES", 200);
    let seed = setting(
        "HOLDUP_SOAK_SEED",
        u64::from(std::process::id()) * 2_654_435_761 + 1,
    );
    let mut dice = Dice(seed.max(1));
    let card = Card::create(CARD);
    let toml = Setting {
        power: "recharge_s = 0",
        ..Setting::default()
    }
    .toml();
    let watch = Stopwatch::start();
    saw(NAME, &format!("{outages} outages, HOLDUP_SOAK_SEED={seed}"));
    let mut tally = Tally::default();
    let mut run = Run::boot(parts, &card, &toml, 0);
    for n in 1..=outages {
        let kind = KINDS[dice.below(KINDS.len() as u64) as usize];
        *tally.kinds.entry(kind).or_default() += 1;
        run = run.outage(kind, &mut dice, &mut tally);
        saw(
            NAME,
            &format!(
                "{n} of {outages}: {kind:?}, {} acknowledged, {:.0} s",
                tally.ranges.iter().map(|(_, acked)| acked).sum::<u64>() + run.load.account().acked,
                watch.elapsed().as_secs_f64()
            ),
        );
    }
    run.serves();
    let account = run.load.finish();
    run.scene.machine.power_off();
    tally.close(&account, run.first);
    let (acked, missing, twice) = compare_ranges(&card, &tally.ranges);
    saw(
        NAME,
        &format!(
            "N={outages} seed={seed} kinds={:?} next boots and parks said={:?} acknowledged={acked} \
             missing={} twice={} quiet: {} durable: {} in {:.0} s",
            tally.kinds,
            tally.ended,
            missing.len(),
            twice.len(),
            spread(&mut tally.quiet),
            spread(&mut tally.durable),
            watch.elapsed().as_secs_f64()
        ),
    );
    assert!(
        missing.is_empty(),
        "acknowledged and not stored: {missing:?}"
    );
    assert!(twice.is_empty(), "stored twice: {twice:?}");
}
