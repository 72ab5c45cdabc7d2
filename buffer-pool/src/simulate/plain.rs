//! Plain models: what others do, exactly, in private memory.
use super::{Outcome, Trace};
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// Least recently used, exactly.
pub fn lru(trace: &Trace, frames: u32) -> Outcome {
    // A ring of pages in the order of their last use, around one more that stands for its end.
    let end = trace.distinct();
    let mut links =
        Links { newer: vec![NONE; end as usize + 1], older: vec![NONE; end as usize + 1] };
    links.newer[end as usize] = end;
    links.older[end as usize] = end;
    let mut inside = 0;
    Outcome::of(trace.accesses(), |page| {
        let hit = links.newer[page as usize] != NONE;
        if hit {
            links.remove(page);
        } else if inside == frames {
            links.remove(links.newer[end as usize]);
        } else {
            inside += 1;
        }
        links.insert_newest(page, end);
        hit
    })
}

struct Links {
    newer: Vec<u32>,
    older: Vec<u32>,
}

impl Links {
    fn remove(&mut self, page: u32) {
        let (newer, older) = (self.newer[page as usize], self.older[page as usize]);
        self.newer[older as usize] = newer;
        self.older[newer as usize] = older;
        self.newer[page as usize] = NONE;
    }

    fn insert_newest(&mut self, page: u32, end: u32) {
        let newest = self.older[end as usize];
        self.older[page as usize] = newest;
        self.newer[page as usize] = end;
        self.newer[newest as usize] = page;
        self.older[end as usize] = page;
    }
}

/// PostgreSQL's clock sweep, exactly, with nothing pinned. Says each victim's frame to `evicted`.
pub fn clock5(trace: &Trace, frames: u32, mut evicted: impl FnMut(u32)) -> Outcome {
    let mut frame_of = vec![NONE; trace.distinct() as usize];
    let mut pool: Vec<(u32, u8)> = Vec::new();
    let mut hand = 0;
    Outcome::of(trace.accesses(), |page| {
        let frame = frame_of[page as usize];
        if frame != NONE {
            let uses = &mut pool[frame as usize].1;
            *uses = (*uses + 1).min(5);
            return true;
        }
        if pool.len() < frames as usize {
            frame_of[page as usize] = pool.len() as u32;
            pool.push((page, 1));
            return false;
        }
        while pool[hand].1 > 0 {
            pool[hand].1 -= 1;
            hand = (hand + 1) % pool.len();
        }
        frame_of[pool[hand].0 as usize] = NONE;
        frame_of[page as usize] = hand as u32;
        pool[hand] = (page, 1);
        evicted(hand as u32);
        hand = (hand + 1) % pool.len();
        false
    })
}

/// Belady's optimum: the victim is the page that is used again last. Every page that is read comes
/// into the pool, as in a pool of pages it must.
pub fn optimum(trace: &Trace, frames: u32) -> Outcome {
    let next_uses = next_uses(trace);
    // When each page in the pool is used next.
    let mut due: Vec<Option<u32>> = vec![None; trace.distinct() as usize];
    // The same by time; entries that `due` does not confirm are old.
    let mut last = BinaryHeap::new();
    let (mut inside, mut now) = (0, 0);
    Outcome::of(trace.accesses(), |page| {
        let next = next_uses[now];
        now += 1;
        let hit = due[page as usize].is_some();
        if !hit && inside == frames {
            while let Some((when, victim)) = last.pop() {
                if due[victim as usize] == Some(when) {
                    due[victim as usize] = None;
                    break;
                }
            }
        } else if !hit {
            inside += 1;
        }
        due[page as usize] = Some(next);
        last.push((next, page));
        hit
    })
}

/// Per access, when its page is used next; never is the greatest number.
fn next_uses(trace: &Trace) -> Vec<u32> {
    let mut next = vec![u32::MAX; trace.distinct() as usize];
    let mut uses: Vec<u32> = Vec::with_capacity(trace.accesses().len());
    for (at, page) in trace.accesses().iter().enumerate().rev() {
        uses.push(next[*page as usize]);
        next[*page as usize] = at as u32;
    }
    uses.reverse();
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(accesses: &[u32]) -> Trace {
        Trace::new(accesses.to_vec())
    }

    #[test]
    fn the_least_recently_used_goes() {
        // 0 is used again, so 1 goes for 2; then 0 for 1.
        let trace = trace(&[0, 1, 0, 2, 0, 1, 2, 0]);
        assert_eq!(lru(&trace, 2).hits, 2);
        assert_eq!(lru(&trace, 1).hits, 0);
        assert_eq!(lru(&trace, 3).hits, 5);
    }

    #[test]
    fn the_clock_takes_the_first_at_zero() {
        let trace = trace(&[0, 1, 0, 2, 3, 0]);
        let mut victims = Vec::new();
        // 0 stands at 2, 1 at 1: a pass leaves 1 at zero, the next one takes it, not 0.
        let outcome = clock5(&trace, 2, |frame| victims.push(frame));
        assert_eq!((victims, outcome.hits), (vec![1, 0, 1], 1));
    }

    #[test]
    fn the_optimum_knows_the_future() {
        let trace = trace(&[0, 1, 2, 0, 1, 3, 0, 1, 4, 0, 1]);
        assert_eq!(lru(&trace, 3).hits, 6);
        assert_eq!(optimum(&trace, 2).hits, 3);
        assert_eq!(optimum(&trace, 3).hits, 6);
        assert_eq!(optimum(&trace, 5).hits, 6);
    }

    /// By trying every victim at every miss.
    #[test]
    fn the_optimum_is_the_best_of_all_choices() {
        fn best(accesses: &[u32], pool: &[u32], frames: usize) -> u64 {
            let Some((page, rest)) = accesses.split_first() else { return 0 };
            if pool.contains(page) {
                return 1 + best(rest, pool, frames);
            }
            if pool.len() < frames {
                return best(rest, &[pool, &[*page]].concat(), frames);
            }
            let without = |at: usize| [&pool[..at], &[*page], &pool[at + 1..]].concat();
            (0..pool.len()).map(|at| best(rest, &without(at), frames)).max().unwrap_or(0)
        }
        let mut random = super::super::generate::Random::new(1);
        for _ in 0..200 {
            let accesses: Vec<u32> = (0..12).map(|_| random.below(5) as u32).collect();
            let trace = Trace::new(accesses);
            for frames in 1..4 {
                let plain = best(trace.accesses(), &[], frames as usize);
                assert_eq!(optimum(&trace, frames).hits, plain, "{trace:?}, {frames}");
            }
        }
    }
}
