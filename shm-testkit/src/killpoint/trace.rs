//! The instructions of one operation, in order, and how to come to one of them again.
use super::hunt::At;
use super::machine::Kind;
use super::tracee::{Stop, Tracee};
use std::collections::{HashMap, HashSet};

/// An operation of more instructions than this is no single operation.
pub(super) const INSTRUCTIONS_MAX: usize = 1_000_000;
/// How many single steps may replace arrivals at a breakpoint.
const STEPS_MAX: usize = 64;

/// The process stands before this instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) rip: u64,
    /// How often it has come here, this time included; 0 for a later round of a repeated string
    /// instruction, at which a breakpoint does not stop.
    arrival: u32,
    /// Hash of what is shared.
    pub(super) image: u64,
    /// No step before had this image.
    pub(super) is_new_image: bool,
    is_syscall: bool,
}

/// Every step from the first mark to the second, which is the last one.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
}

/// Whether the child came where it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reached {
    Here,
    /// It took another way, to its second mark for instance.
    Missed,
    /// It ended on its way, with this status.
    Ended(i32),
}

impl Trace {
    /// Steps `tracee` from its first mark to its second. `image` is asked at each step.
    ///
    /// # Errors
    /// It ended before, with this status; `None` where it takes more than `most` instructions.
    pub(super) fn record(
        tracee: &mut Tracee<'_>,
        most: usize,
        mut image: impl FnMut() -> u64,
    ) -> Result<Trace, Option<i32>> {
        let mut kinds: HashMap<u64, (Kind, u32)> = HashMap::new();
        let (mut steps, mut seen): (Vec<Step>, _) = (Vec::new(), HashSet::new());
        while steps.len() < most {
            let rip = tracee.rip();
            let (kind, arrivals) =
                kinds.entry(rip).or_insert_with(|| (Kind::of(tracee.peek(rip)), 0));
            let is_round = *kind == Kind::Repeated && steps.last().is_some_and(|s| s.rip == rip);
            if !is_round {
                *arrivals += 1;
            }
            let image = image();
            steps.push(Step {
                rip,
                arrival: if is_round { 0 } else { *arrivals },
                image,
                is_new_image: seen.insert(image),
                is_syscall: *kind == Kind::Syscall,
            });
            if *kind == Kind::Mark {
                return Ok(Trace { steps });
            }
            if let Stop::Ended(status) = tracee.step() {
                return Err(Some(status));
            }
        }
        Err(None)
    }

    /// Where step `index` is.
    pub(super) fn at(&self, index: usize) -> At {
        (index, self.steps[index].rip)
    }

    /// Indices of the steps where an image is seen for the first time.
    pub(super) fn new_images(&self) -> Vec<usize> {
        (0..self.steps.len()).filter(|index| self.steps[*index].is_new_image).collect()
    }

    pub(super) fn images(&self) -> usize {
        self.steps.iter().filter(|step| step.is_new_image).count()
    }

    /// The steps to try: all, where there are at most `wanted`. Otherwise those around a change of
    /// what is shared and around a system call, and of the others as many as are wanted, evenly
    /// spread.
    pub(super) fn choose(&self, wanted: usize) -> Vec<usize> {
        let count = self.steps.len();
        if count <= wanted {
            return (0..count).collect();
        }
        let changed = |i: usize| i > 0 && self.steps[i].image != self.steps[i - 1].image;
        let matters = |i: usize| changed(i) || self.steps[i].is_syscall;
        let near = |i: usize| (i.saturating_sub(1)..(i + 2).min(count)).any(matters);
        let mut chosen: Vec<bool> =
            (0..count).map(|i| i == 0 || i == count - 1 || near(i)).collect();
        let sample = wanted.saturating_sub(chosen.iter().filter(|is| **is).count());
        for nth in 0..sample {
            chosen[nth * count / sample] = true;
        }
        (0..count).filter(|index| chosen[*index]).collect()
    }

    /// Brings a child that stands at its first mark to step `index`.
    pub(super) fn reach(&self, tracee: &mut Tracee<'_>, index: usize, only_step: bool) -> Reached {
        let anchor = if only_step { 0 } else { self.anchor(index) };
        match tracee.run_to(self.steps[anchor].rip, self.arrivals(anchor)) {
            Err(status) => return Reached::Ended(status),
            Ok(false) => return Reached::Missed,
            Ok(true) => {}
        }
        for index in anchor..index {
            if tracee.rip() != self.steps[index].rip
                || Kind::of(tracee.peek(tracee.rip())) == Kind::Mark
            {
                return Reached::Missed;
            }
            if let Stop::Ended(status) = tracee.step() {
                return Reached::Ended(status);
            }
        }
        if tracee.rip() == self.steps[index].rip { Reached::Here } else { Reached::Missed }
    }

    /// The step, at most a few before `index`, from which it is the least trouble to go there: an
    /// arrival at a breakpoint costs two stops, a single step one.
    fn anchor(&self, index: usize) -> usize {
        let near = index.saturating_sub(STEPS_MAX)..=index;
        let anchors = near.filter(|at| self.steps[*at].arrival > 0).chain([0]);
        anchors
            .min_by_key(|at| 2 * self.arrivals(*at) as usize + (index - at))
            .expect("the first step is one")
    }

    /// Arrivals still to come, from where the child begins.
    fn arrivals(&self, index: usize) -> u32 {
        let step = self.steps[index];
        // It stands at the first step already.
        step.arrival - u32::from(step.rip == self.steps[0].rip)
    }
}

/// At most `most` of them, at least one, from the first to the last.
pub(super) fn spread(all: Vec<usize>, most: usize) -> Vec<usize> {
    let (count, most) = (all.len(), most.max(1));
    if count <= most {
        return all;
    }
    (0..most).map(|nth| all[nth * (count - 1) / (most - 1).max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `images` stand for themselves; the address is that of an endless row of instructions.
    fn trace(images: &[u64]) -> Trace {
        let mut seen = HashSet::new();
        let step = |(index, image): (usize, &u64)| Step {
            rip: 0x1000 + index as u64,
            arrival: 1,
            image: *image,
            is_new_image: seen.insert(*image),
            is_syscall: false,
        };
        Trace { steps: images.iter().enumerate().map(step).collect() }
    }

    #[test]
    fn a_sample_has_every_change_and_its_neighbours() {
        let mut images = [0; 100];
        images[40..].fill(1);
        images[70..].fill(2);
        let chosen = trace(&images).choose(20);
        for must in [0, 39, 40, 41, 69, 70, 71, 99] {
            assert!(chosen.contains(&must), "{must} in {chosen:?}");
        }
        assert!((17..=20).contains(&chosen.len()), "{chosen:?}");
        assert_eq!(trace(&images).choose(100).len(), 100);
        assert_eq!(trace(&images).new_images(), [0, 40, 70]);
    }

    #[test]
    fn a_few_are_spread_from_the_first_to_the_last() {
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(spread(all.clone(), 4), [0, 3, 6, 9]);
        assert_eq!(spread(all.clone(), 1), [0]);
        assert_eq!(spread(all.clone(), 10), all);
    }

    #[test]
    fn what_is_executed_often_is_reached_from_what_is_not() {
        let mut trace = trace(&[0; 90]);
        for step in &mut trace.steps[10..] {
            step.arrival = 30;
        }
        assert_eq!(trace.anchor(9), 9);
        assert_eq!(trace.anchor(30), 9);
        trace.steps[30].arrival = 0;
        assert_eq!(trace.anchor(30), 9, "no breakpoint stops in the middle of a string");
        assert_eq!(trace.anchor(89), 89, "too far from any other");
    }
}
