//! The instructions of one operation, in order, and how to come to one of them again.
use super::hunt::At;
use super::machine::{Kind, SYSCALL_BYTES, Target};
use super::tracee::{Stop, Tracee};
use super::view::View;
use std::collections::{HashMap, HashSet};

/// An operation of more instructions than this is no single operation.
pub(super) const INSTRUCTIONS_MAX: usize = 1_000_000;
/// How many single steps may replace arrivals at a breakpoint.
const STEPS_MAX: usize = 64;
/// After so many the watchdog is told that all goes well.
const PATTED_EVERY: usize = 1000;
/// So many are tried even where a scenario wants fewer points.
pub(super) const FEW: usize = 200;

/// The process stands before this instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) rip: u64,
    /// How often it has come here since the last system call, this time included; 0 for a later
    /// round of a repeated string instruction, at which a breakpoint does not stop.
    arrival: u32,
    /// Hash of what is shared.
    pub(super) image: u64,
    /// A death here leaves something else than one at the step before: something was stored to
    /// shared memory or a robust list, or this stands behind a system call.
    pub(super) is_new_world: bool,
    /// No step before had this image.
    is_new_image: bool,
    pub(super) call: Option<Call>,
}

/// What is to be known of a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// It may make another thread, or wake one.
    Rouses,
    Other,
}

impl Call {
    fn of(number: i64) -> Call {
        match number {
            libc::SYS_futex | libc::SYS_clone | libc::SYS_clone3 => Call::Rouses,
            _ => Call::Other,
        }
    }
}

/// Every step from the first mark to the second, which is the last one.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    /// Indices of the system calls.
    calls: Vec<usize>,
    /// Of the steps it has those only that stand before or behind a system call.
    pub(super) only_calls: bool,
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

/// A trace under way.
struct Recorder {
    kinds: HashMap<u64, (Kind, Option<Target>)>,
    /// Since the last system call.
    arrivals: HashMap<u64, u32>,
    images: HashSet<u64>,
    trace: Trace,
}

impl Recorder {
    fn add(&mut self, tracee: &Tracee<'_>, rip: u64, kind: Kind, image: u64, is_new_world: bool) {
        let steps = &mut self.trace.steps;
        let is_round = kind == Kind::Repeated && steps.last().is_some_and(|s| s.rip == rip);
        let arrivals = self.arrivals.entry(rip).or_insert(0);
        *arrivals += u32::from(!is_round);
        let arrival = if is_round { 0 } else { *arrivals };
        let is_new_image = self.images.insert(image);
        let call = (kind == Kind::Syscall).then(|| Call::of(tracee.accumulator()));
        if call.is_some() {
            self.trace.calls.push(steps.len());
            self.arrivals.clear();
        }
        steps.push(Step { rip, arrival, image, is_new_world, is_new_image, call });
    }
}

impl Trace {
    /// Steps `tracee` from its first mark to its second. `image` is asked where something differs.
    ///
    /// # Errors
    /// It ended before, with this status; `None` where it takes more than `most` instructions.
    pub(super) fn record(
        tracee: &mut Tracee<'_>,
        most: usize,
        mut image: impl FnMut() -> u64,
    ) -> Result<Trace, Option<i32>> {
        let trace = Trace { steps: Vec::new(), calls: Vec::new(), only_calls: false };
        let (kinds, arrivals, images) = (HashMap::new(), HashMap::new(), HashSet::new());
        let mut recorder = Recorder { kinds, arrivals, images, trace };
        let mut view = View::new(tracee.pid());
        let (mut now, mut is_new) = (image(), true);
        while recorder.trace.steps.len() < most {
            let rip = tracee.rip();
            let look = || (Kind::of(tracee.peek(rip)), Target::of(tracee.peek_instruction(rip)));
            let (kind, target) = *recorder.kinds.entry(rip).or_insert_with(look);
            recorder.add(tracee, rip, kind, now, is_new);
            if kind == Kind::Mark {
                return Ok(recorder.trace);
            }
            if recorder.trace.steps.len().is_multiple_of(PATTED_EVERY) {
                tracee.pat();
            }
            let is_quiet = kind == Kind::Quiet || !tracee.may_store(target, &view);
            let step = recorder.trace.steps.last().expect("it was just added");
            pass(tracee, step).map_err(Some)?;
            is_new = match step.call {
                Some(_) => {
                    view.look_anew();
                    true
                }
                // Reading all that is shared is what takes the time.
                None if is_quiet && !cfg!(test) => false,
                None => {
                    let has_changed = view.has_changed();
                    assert!(!has_changed || !is_quiet, "it stored, at {rip:#x}");
                    has_changed
                }
            };
            if is_new {
                now = image();
            }
        }
        Err(None)
    }

    /// As [`record`](Trace::record), but from system call to system call, which is far quicker.
    ///
    /// # Errors
    /// It ended before, with this status.
    pub(super) fn record_calls(
        tracee: &mut Tracee<'_>,
        mut image: impl FnMut() -> u64,
    ) -> Result<Trace, i32> {
        let mut trace = Trace { steps: Vec::new(), calls: Vec::new(), only_calls: true };
        let mut images = HashSet::new();
        let mut add = |trace: &mut Trace, rip: u64, call: Option<Call>| {
            let image = image();
            let is_new_image = images.insert(image);
            let (arrival, is_new_world) = (1, true);
            trace.steps.push(Step { rip, arrival, image, is_new_world, is_new_image, call });
        };
        add(&mut trace, tracee.rip(), None);
        while let Some(number) = tracee.resume_to_call()? {
            let behind = tracee.rip();
            trace.calls.push(trace.steps.len());
            let call = Call::of(number);
            add(&mut trace, behind - SYSCALL_BYTES, Some(call));
            if let Stop::Ended(status) = tracee.finish_call() {
                return Err(status);
            }
            if call == Call::Rouses {
                tracee.wait_for_others();
            }
            add(&mut trace, behind, None);
        }
        add(&mut trace, tracee.rip(), None);
        Ok(trace)
    }

    /// How many instructions it takes from its first mark to its second.
    ///
    /// # Errors
    /// As [`record`](Trace::record).
    pub(super) fn count(tracee: &mut Tracee<'_>, most: usize) -> Result<usize, Option<i32>> {
        for count in 1..=most {
            if Kind::of(tracee.peek(tracee.rip())) == Kind::Mark {
                return Ok(count);
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

    /// Indices of the steps at which a death leaves something else than at the one before.
    pub(super) fn worlds(&self) -> Vec<usize> {
        (0..self.steps.len()).filter(|index| self.steps[*index].is_new_world).collect()
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn images(&self) -> usize {
        self.steps.iter().filter(|step| step.is_new_image).count()
    }

    /// The steps to try: all, where they are `few` or at most as `wanted`. Otherwise those at which
    /// a death leaves something new, all of them if they are few, and so many others, evenly
    /// spread, that it is as many as wanted.
    pub(super) fn choose(&self, wanted: usize, few: usize) -> Vec<usize> {
        let count = self.steps.len();
        if self.only_calls {
            return spread((0..count).collect(), wanted);
        }
        if count <= wanted.max(few) {
            return (0..count).collect();
        }
        let worlds = self.worlds();
        let rest = wanted.saturating_sub(worlds.len() + 1);
        let mut chosen = vec![false; count];
        for index in spread(worlds, wanted.max(few)) {
            chosen[index] = true;
        }
        chosen[count - 1] = true;
        for nth in 0..rest {
            chosen[nth * count / rest] = true;
        }
        (0..count).filter(|index| chosen[*index]).collect()
    }

    /// Brings a child that stands at its first mark to step `index`.
    pub(super) fn reach(&self, tracee: &mut Tracee<'_>, index: usize, only_step: bool) -> Reached {
        let reached = if only_step { Ok(0) } else { self.leap(tracee, index) };
        let from = match reached {
            Ok(from) => from,
            Err(reached) => return reached,
        };
        for step in &self.steps[from..index] {
            if tracee.rip() != step.rip || Kind::of(tracee.peek(step.rip)) == Kind::Mark {
                return Reached::Missed;
            }
            if let Err(status) = pass(tracee, step) {
                return Reached::Ended(status);
            }
        }
        if tracee.rip() == self.steps[index].rip { Reached::Here } else { Reached::Missed }
    }

    /// Runs to a step at or a little before `index`; which one.
    ///
    /// By way of the system calls that rouse other threads, after which it waits until these sleep
    /// again, as in the trace, where all went slowly. And by way of the last system call before: so
    /// what is counted of arrivals is counted from there, and a text of another length that was
    /// looked through before does not matter.
    fn leap(&self, tracee: &mut Tracee<'_>, index: usize) -> Result<usize, Reached> {
        let before = &self.calls[..self.calls.partition_point(|call| *call < index)];
        let rouses = |call: usize| self.steps[call].call == Some(Call::Rouses);
        let mut passed = 0;
        for (nth, call) in before.iter().enumerate() {
            if nth + 1 < before.len() && !rouses(*call) {
                continue;
            }
            let step = &self.steps[*call];
            let same = |call: &&usize| self.steps[**call].rip == step.rip;
            let arrivals = before[passed..=nth].iter().filter(same).count();
            run(tracee, step.rip, arrivals as u32)?;
            pass(tracee, step).map_err(Reached::Ended)?;
            passed = nth + 1;
        }
        let from = before.last().map_or(0, |call| call + 1);
        let anchor = if self.only_calls { index } else { self.anchor(from, index) };
        let (start, step) = (&self.steps[from], &self.steps[anchor]);
        run(tracee, step.rip, step.arrival - u32::from(step.rip == start.rip))?;
        Ok(anchor)
    }

    /// The step, at most a few before `index`, from which it is the least trouble to go there: an
    /// arrival at a breakpoint costs two stops, a single step one.
    fn anchor(&self, from: usize, index: usize) -> usize {
        let near = index.saturating_sub(STEPS_MAX).max(from)..=index;
        let anchors = near.filter(|at| self.steps[*at].arrival > 0).chain([from]);
        let arrivals = |at: usize| self.steps[at].arrival as usize;
        anchors
            .min_by_key(|at| if *at == from { index - at } else { 2 * arrivals(*at) + index - at })
            .expect("the first step is one")
    }
}

/// Executes `step`, before which the child stands.
///
/// # Errors
/// With this status it ended.
fn pass(tracee: &mut Tracee<'_>, step: &Step) -> Result<(), i32> {
    if let Stop::Ended(status) = tracee.step() {
        return Err(status);
    }
    if step.call == Some(Call::Rouses) {
        tracee.wait_for_others();
    }
    Ok(())
}

fn run(tracee: &mut Tracee<'_>, rip: u64, arrivals: u32) -> Result<(), Reached> {
    match tracee.run_to(rip, arrivals) {
        Err(status) => Err(Reached::Ended(status)),
        Ok(false) => Err(Reached::Missed),
        Ok(true) => Ok(()),
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
            is_new_world: index == 0 || images[index - 1] != *image,
            is_new_image: seen.insert(*image),
            call: None,
        };
        Trace {
            steps: images.iter().enumerate().map(step).collect(),
            calls: Vec::new(),
            only_calls: false,
        }
    }

    #[test]
    fn a_sample_has_every_world_and_some_others() {
        let mut images = [0; 1000];
        images[400..].fill(1);
        images[700..].fill(0);
        let chosen = trace(&images).choose(250, FEW);
        for must in [0, 400, 700, 999] {
            assert!(chosen.contains(&must), "{must} in {chosen:?}");
        }
        assert!((247..=250).contains(&chosen.len()), "{chosen:?}");
        assert_eq!((trace(&images).worlds(), trace(&images).images()), (vec![0, 400, 700], 2));
        assert_eq!(trace(&images).choose(2, FEW), [0, 400, 700, 999]);
        let many: Vec<u64> = (0..1000).collect();
        assert_eq!(trace(&many).choose(2, FEW).len(), FEW);
        assert_eq!(trace(&many[..FEW]).choose(2, FEW).len(), FEW);
        assert_eq!(trace(&many).choose(1000, FEW).len(), 1000);
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
        assert_eq!(trace.anchor(0, 9), 9);
        assert_eq!(trace.anchor(0, 30), 9);
        trace.steps[30].arrival = 0;
        assert_eq!(trace.anchor(0, 30), 9, "no breakpoint stops in the middle of a string");
        assert_eq!(trace.anchor(0, 89), 89, "too far from any other");
        assert_eq!(trace.anchor(60, 80), 60, "it stands there already");
    }
}
