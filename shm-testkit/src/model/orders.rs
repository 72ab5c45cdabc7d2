//! A proof that each ordering in the code under test matters.
use super::run::{failure, in_short};
use crate::depth::is_deep;
use core::cell::RefCell;
use core::panic::Location;
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;

/// One ordering argument in the code under test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Site {
    file: &'static str,
    line: u32,
    column: u32,
    /// 0, or 1 for the failure ordering of a compare-and-swap.
    argument: u8,
}

impl Site {
    /// What it is called in a list: function, and text of its line.
    fn place(self) -> String {
        let which = if self.argument == 1 { "failure of " } else { "" };
        let here = std::env::current_dir().unwrap_or_default();
        let mut files = here.ancestors().map(|folder| folder.join(self.file));
        let text = files.find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().take(self.line as usize).collect();
        let function = lines.iter().rev().find_map(|line| {
            let (_, rest) = line.trim_start().split_once("fn ")?;
            rest.split(['(', '<']).next()
        });
        let line = lines.last().map_or("", |line| line.trim());
        format!("{which}{}: {line}", function.unwrap_or("?"))
    }
}

#[derive(Default)]
struct Sites {
    /// Sites met, and the name of the ordering written there.
    met: BTreeMap<Site, &'static str>,
    weakened: Option<(Site, Option<Ordering>)>,
}

// loom runs all threads of a model on the calling one, so this belongs to one test.
thread_local! {
    static SITES: RefCell<Option<Sites>> = const { RefCell::new(None) };
}

fn name(order: Ordering) -> &'static str {
    match order {
        Ordering::Relaxed => "Relaxed",
        Ordering::Acquire => "Acquire",
        Ordering::Release => "Release",
        Ordering::AcqRel => "AcqRel",
        _ => "SeqCst",
    }
}

/// The weaker orderings to try in place of one; `None` takes a fence away.
fn weaker(order: &str, fence: bool) -> Vec<Option<Ordering>> {
    match (order, fence) {
        ("AcqRel", _) => vec![Some(Ordering::Acquire), Some(Ordering::Release)],
        ("SeqCst", true) => vec![Some(Ordering::AcqRel), None],
        (_, true) => vec![None],
        (_, false) => vec![Some(Ordering::Relaxed)],
    }
}

const FENCE: u8 = 2;

fn look_up(site: Site, order: Ordering) -> Option<Ordering> {
    SITES.with_borrow_mut(|sites| {
        let Some(sites) = sites.as_mut() else { return Some(order) };
        if order != Ordering::Relaxed {
            sites.met.insert(site, name(order));
        }
        match sites.weakened {
            Some((weak, instead)) if weak == site => instead,
            _ => Some(order),
        }
    })
}

pub(super) fn order(at: &'static Location<'static>, argument: u8, order: Ordering) -> Ordering {
    let site = Site { file: at.file(), line: at.line(), column: at.column(), argument };
    look_up(site, order).unwrap_or(Ordering::Relaxed)
}

pub(super) fn fence_order(at: &'static Location<'static>, order: Ordering) -> Option<Ordering> {
    let site = Site { file: at.file(), line: at.line(), column: at.column(), argument: FENCE };
    look_up(site, order)
}

/// Runs `model` once as written; then, for each ordering met in a file whose path contains one of
/// `files`, once with that ordering weakened, and expects a failure each time.
///
/// `model` calls [`check`](super::check) or [`every_death`](super::every_death). An `AcqRel` is
/// tried as `Acquire` and as `Release`, a fence is taken away, a `SeqCst` one also tried as
/// `AcqRel`, anything else becomes `Relaxed`. Any failure counts, as the model passes as written;
/// it is printed. Returns the number of weakenings found.
///
/// # Panics
/// Where the model fails as written, where no site was met, and where a weakening goes unnoticed.
pub fn every_ordering_matters(files: &[&str], model: impl Fn()) -> usize {
    every_ordering_matters_but(files, &[], model)
}

/// The same, but for the sites that `but` names, which `model` is known not to need, for a reason
/// that stands beside: as `function: what its line begins with`, and the failure ordering of a
/// compare-and-swap as `failure of function: …`.
///
/// # Panics
/// As the other; also where `but` names no site, and, if `SHM_DEEP` is set, where it names one
/// whose weakening is noticed.
pub fn every_ordering_matters_but(files: &[&str], but: &[&str], model: impl Fn()) -> usize {
    SITES.set(Some(Sites::default()));
    model();
    let met = SITES.take().map(|s| s.met).unwrap_or_default();
    let met: Vec<_> =
        met.into_iter().filter(|(s, _)| files.iter().any(|f| s.file.contains(f))).collect();
    assert!(!met.is_empty(), "no ordering site met in {files:?}");
    let (mut found, mut wrong, mut left_out) = (0, Vec::new(), but.to_vec());
    for (site, order) in met {
        let place = site.place();
        let is_left_out = but.iter().any(|name| place.starts_with(name));
        left_out.retain(|name| !place.starts_with(name));
        if is_left_out && !is_deep() {
            continue;
        }
        for instead in weaker(order, site.argument == FENCE) {
            SITES.set(Some(Sites { met: BTreeMap::new(), weakened: Some((site, instead)) }));
            let noticed = failure(&model);
            SITES.set(None);
            let to = instead.map_or("nothing", name);
            let Site { file, line, column, .. } = site;
            let change = format!("{file}:{line}:{column} {order} -> {to} ({place})");
            match noticed {
                Some(why) if !is_left_out => {
                    found += 1;
                    println!("{change}: {}", in_short(&why));
                }
                Some(_) => wrong.push(format!("noticed, and left out: {change}")),
                None if !is_left_out => wrong.push(change),
                None => {}
            }
        }
    }
    println!("orderings weakened and found out: {found}");
    assert!(wrong.is_empty(), "no run noticed:\n  {}", wrong.join("\n  "));
    assert!(left_out.is_empty(), "left out, and not there: {left_out:?}");
    found
}
