//! What others are told of power, in the words of apcupsd: a few states instead of every notice.
//!
//! It promises that each word is told once a change and in order, that a flicker tells nothing,
//! and that what was missed is made up for by the state. Scripts and clients hear the same.

use heapless::Vec;

use super::{Notice, State};

/// A word for scripts and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Mains are lost, for certain: the commit point.
    OnBattery,
    /// Mains are back.
    OffBattery,
    /// The rail sags, load is shed.
    Brownout,
    /// Everything is durable, nothing is written.
    Parked,
    /// Service as usual again, after parking or a brownout.
    Resumed,
    /// The medium got worse, or is another one. Told to scripts alone.
    Media,
}

impl Word {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OnBattery,
        Self::OffBattery,
        Self::Brownout,
        Self::Parked,
        Self::Resumed,
        Self::Media,
    ];

    /// As scripts are named and clients are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnBattery => "onbattery",
            Self::OffBattery => "offbattery",
            Self::Brownout => "brownout",
            Self::Parked => "parked",
            Self::Resumed => "resumed",
            Self::Media => "media",
        }
    }
}

/// What there is to tell, in order.
pub type Words = Vec<Word, 4>;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Announcer {
    lost: bool,
    parked: bool,
    sagging: bool,
}

impl Announcer {
    /// What a notice tells.
    pub fn notice(&mut self, notice: Notice) -> Words {
        match notice {
            Notice::Failing => self.lost(),
            Notice::OnBattery => {
                // Lost again while thawing: service goes on, from the battery.
                if std::mem::take(&mut self.parked) {
                    self.lost = false;
                }
                self.lost()
            }
            Notice::OffBattery => self.back(),
            // While mains are lost a sagging rail is no news.
            Notice::Brownout if !self.lost => {
                self.sagging = true;
                one(Word::Brownout)
            }
            Notice::BrownoutEnded => {
                let told = std::mem::take(&mut self.sagging);
                words(&[(told && !self.lost, Word::Resumed)])
            }
            Notice::Parked => {
                let again = std::mem::replace(&mut self.parked, true);
                words(&[(!again, Word::Parked)])
            }
            Notice::Resumed => self.resumed(),
            // Back before a second loss was certain: what was parked serves again.
            Notice::Flicker { .. } if self.parked => self.resumed(),
            Notice::Flicker { .. }
            | Notice::Brownout
            | Notice::LineStuck
            | Notice::LineUnstuck
            | Notice::LinesMissing
            | Notice::LinesFound
            | Notice::StayingParked
            | Notice::GoingOff
            // A rehearsal is no loss of power.
            | Notice::Refused
            | Notice::Rehearsing
            | Notice::Rehearsed
            | Notice::RehearsalOvertaken
            | Notice::MeasureArmed
            | Notice::MeasureDisarmed
            | Notice::MeasureTimedOut => Words::new(),
        }
    }

    /// What `state` tells, where notices were missed.
    pub fn catch_up(&mut self, state: State) -> Words {
        match state {
            State::Good | State::Brownout if self.parked => self.resumed(),
            State::Good | State::Brownout => self.back(),
            State::OnBattery { .. } => self.notice(Notice::OnBattery),
            State::Failing { .. } => self.lost(),
            State::Parked { .. } => {
                let mut told = self.lost();
                told.extend(self.notice(Notice::Parked));
                told
            }
            State::Starting
            | State::Suspect { .. }
            | State::Resuming { .. }
            | State::Rehearsing { .. }
            | State::Stopping
            | State::Off => Words::new(),
        }
    }

    fn lost(&mut self) -> Words {
        let before = std::mem::replace(&mut self.lost, true);
        words(&[(!before, Word::OnBattery)])
    }

    fn back(&mut self) -> Words {
        let before = std::mem::take(&mut self.lost);
        words(&[(before, Word::OffBattery)])
    }

    fn resumed(&mut self) -> Words {
        let stood = std::mem::take(&mut self.parked) || self.lost;
        let mut told = self.back();
        told.extend(words(&[(stood, Word::Resumed)]));
        told
    }
}

fn one(word: Word) -> Words {
    words(&[(true, word)])
}

fn words(told: &[(bool, Word)]) -> Words {
    told.iter().filter(|(t, _)| *t).map(|(_, w)| *w).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use std::time::Duration;

    fn told(notices: &[Notice]) -> std::vec::Vec<&'static str> {
        let mut announcer = Announcer::default();
        let all = notices.iter().flat_map(|n| announcer.notice(*n));
        all.map(Word::name).collect()
    }

    const FLICKER: Notice = Notice::Flicker {
        lost: Duration::from_millis(3),
    };

    #[test]
    fn an_outage_behind_a_capacitor_is_told_in_four_words() {
        let words = told(&[Notice::Failing, Notice::Parked, Notice::Resumed]);
        assert_eq!(words, ["onbattery", "parked", "offbattery", "resumed"]);
    }

    #[test]
    fn a_ride_and_what_follows_it_are_told_once() {
        let words = told(&[Notice::OnBattery, Notice::OffBattery]);
        assert_eq!(words, ["onbattery", "offbattery"]);
        let words = told(&[Notice::OnBattery, Notice::Failing, Notice::Parked]);
        assert_eq!(words, ["onbattery", "parked"]);
    }

    #[test]
    fn a_flicker_tells_nothing() {
        assert!(told(&[FLICKER, FLICKER]).is_empty());
    }

    #[test]
    fn a_brownout_ends_with_resumed_and_is_no_news_while_mains_are_lost() {
        let words = told(&[Notice::Brownout, Notice::BrownoutEnded]);
        assert_eq!(words, ["brownout", "resumed"]);
        let words = told(&[Notice::Failing, Notice::Brownout, Notice::BrownoutEnded]);
        assert_eq!(words, ["onbattery"]);
    }

    #[test]
    fn lost_again_while_thawing_is_one_outage() {
        let words = told(&[
            Notice::Failing,
            Notice::Parked,
            Notice::Failing,
            Notice::Parked,
            Notice::Resumed,
        ]);
        assert_eq!(words, ["onbattery", "parked", "offbattery", "resumed"]);
        let words = told(&[Notice::Failing, Notice::Parked, FLICKER]);
        assert_eq!(words, ["onbattery", "parked", "offbattery", "resumed"]);
        let words = told(&[Notice::OnBattery, Notice::Parked, Notice::OnBattery]);
        assert_eq!(words, ["onbattery", "parked", "onbattery"]);
    }

    #[test]
    fn what_was_missed_is_made_up_for_by_the_state_and_not_told_twice() {
        let mut announcer = Announcer::default();
        let at = Mono::default();
        let parked = State::Parked {
            since: at,
            parked_at: at,
        };
        assert_eq!(announcer.catch_up(parked), [Word::OnBattery, Word::Parked]);
        assert!(announcer.catch_up(parked).is_empty());
        let good = announcer.catch_up(State::Good);
        assert_eq!(good, [Word::OffBattery, Word::Resumed]);
        assert!(announcer.catch_up(State::Good).is_empty());
        assert!(announcer.notice(Notice::Resumed).is_empty());
    }
}
