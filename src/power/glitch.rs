//! The glitch filter: lost time, summed over a sliding window.
//!
//! A sum, not a run: a line that chatters commits as surely as one that stays lost, because no
//! good edge takes back what was lost. The kernel's debounce re-arms at each edge and would wait
//! for as long as the chatter lasts.

use std::time::Duration;

use heapless::Deque;

use crate::clock::Mono;

/// Windows are this many times the glitch time.
const WINDOW: u32 = 10;

/// Losses remembered apart; with more, the two oldest are joined, which only adds lost time.
const KEPT: usize = 32;

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct GlitchFilter {
    glitch: Duration,
    past: Deque<(Mono, Mono), KEPT>,
    open: Option<Mono>,
}

impl GlitchFilter {
    /// A filter for losses of `glitch` and more.
    pub(super) fn new(glitch: Duration) -> Self {
        Self {
            glitch,
            past: Deque::new(),
            open: None,
        }
    }

    /// Changes the glitch time; what was lost stays counted.
    pub(super) fn set_glitch(&mut self, glitch: Duration) {
        self.glitch = glitch;
    }

    /// Power was lost at `at`.
    pub(super) fn lost(&mut self, at: Mono) {
        if self.open.is_none() {
            self.open = Some(at);
        }
    }

    /// Power was back at `at`.
    pub(super) fn back(&mut self, at: Mono) {
        let Some(start) = self.open.take() else {
            return;
        };
        if self.past.is_full()
            && let (Some(a), Some(b)) = (self.past.pop_front(), self.past.pop_front())
        {
            // Room was just made for one of the two.
            self.past.push_front((a.0, b.1)).ok();
        }
        self.past.push_back((start, at.max(start))).ok();
    }

    /// Lost time inside the window that ends at `now`.
    pub(super) fn lost_time(&self, now: Mono) -> Duration {
        let from = now - self.glitch * WINDOW;
        let past: Duration = self
            .past
            .iter()
            .map(|(a, b)| b.min(&now).since(*a.max(&from)))
            .sum();
        past + self.open.map_or(Duration::ZERO, |a| now.since(a.max(from)))
    }

    /// The first lost edge still inside the window that ends at `now`.
    pub(super) fn first_lost(&self, now: Mono) -> Option<Mono> {
        let from = now - self.glitch * WINDOW;
        self.past
            .iter()
            .find(|(_, b)| *b > from)
            .map(|(a, _)| *a)
            .or(self.open)
    }

    /// Has the loss passed the commit point?
    pub(super) fn is_real(&self, now: Mono) -> bool {
        self.lost_time(now) >= self.glitch && self.first_lost(now).is_some()
    }

    /// When the commit point comes if power stays lost; `None` while it is not lost.
    ///
    /// Early rather than late: what slides out of the window meanwhile is found when asked again.
    pub(super) fn commit_point(&self, now: Mono) -> Option<Mono> {
        self.open?;
        Some(now + self.glitch.saturating_sub(self.lost_time(now)))
    }

    /// Forgets all losses, also an open one.
    pub(super) fn clear(&mut self) {
        self.past.clear();
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Mono = Mono::from_nanos(1_000_000_000_000);

    fn at(ms: u64) -> Mono {
        T0 + Duration::from_millis(ms)
    }

    #[test]
    fn a_loss_shorter_than_the_glitch_time_is_not_real() {
        let mut f = GlitchFilter::new(Duration::from_millis(30));
        f.lost(at(0));
        assert_eq!(f.commit_point(at(0)), Some(at(30)));
        f.back(at(29));
        assert!(!f.is_real(at(29)));
        assert!(!f.is_real(at(1000)));
    }

    #[test]
    fn chatter_cannot_postpone_the_commit_point() {
        let mut f = GlitchFilter::new(Duration::from_millis(30));
        // 5 ms lost, 5 ms good: the sum is 30 ms in the sixth loss.
        for k in 0..6 {
            assert!(!f.is_real(at(k * 10)), "too early in loss {k}");
            f.lost(at(k * 10));
            f.back(at(k * 10 + 5));
        }
        assert!(f.is_real(at(55)));
        assert_eq!(f.first_lost(at(55)), Some(T0));
    }

    #[test]
    fn flickers_far_apart_never_add_up() {
        let mut f = GlitchFilter::new(Duration::from_millis(30));
        for k in 0..200 {
            f.lost(at(k * 400));
            f.back(at(k * 400 + 20));
            assert!(!f.is_real(at(k * 400 + 20)));
        }
    }

    #[test]
    fn a_burst_of_more_losses_than_are_kept_counts_no_less() {
        let mut f = GlitchFilter::new(Duration::from_millis(300));
        for k in 0..100 {
            f.lost(at(k * 8));
            f.back(at(k * 8 + 4));
        }
        assert!(f.is_real(at(800)), "{:?}", f.lost_time(at(800)));
    }
}
