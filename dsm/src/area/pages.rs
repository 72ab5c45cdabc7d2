//! Runs of pages: taken one by one, the head first; given back the other way round.
use super::Inner;
use super::shared::{Kind, Owner, Page};
use shm_core::sync::Ordering;

impl Inner {
    /// A page's word, for who knows of it by other means, or believes nothing.
    #[inline]
    pub(super) fn page(&self, page: usize) -> Page {
        Page(self.words[page].load(Ordering::Relaxed))
    }

    /// The page with which the span or run begins that has a part here, and its word.
    #[inline]
    pub(super) fn head_of(&self, page: usize) -> Option<(usize, Page)> {
        let word = self.page(page);
        if word.kind() != Kind::Tail {
            return Some((page, word));
        }
        let head = page.checked_sub(word.distance() as usize)?;
        let word = self.page(head);
        (word.kind() != Kind::Tail).then_some((head, word))
    }

    /// How many pages the run has that begins here.
    pub(super) fn run_len(&self, head: usize) -> usize {
        let is_tail = |d: &usize| self.page(head + d) == Page::tail(*d as u64);
        1 + (1..self.words.len() - head).take_while(is_tail).count()
    }

    /// Takes `count` pages in a row, looking from `from` on: the first. They are `owner`'s until it
    /// says what they are.
    ///
    /// # If a process dies here
    /// Its reaper finds the head in its name, and the tails behind it.
    pub(super) fn take_pages(&self, owner: Owner, count: usize, from: usize) -> Option<usize> {
        let pages = self.words.len();
        let (mut at, mut left) = (if from < pages { from } else { 0 }, pages + from.min(pages));
        while count <= pages && left > 0 {
            if at + count > pages {
                left = left.saturating_sub(pages - at);
                at = 0;
                continue;
            }
            let is_free = |d: &usize| self.page(at + d) == Page::FREE;
            let free = (0..count).take_while(is_free).count();
            let taken = if free == count { self.claim(owner, at, count) } else { free };
            if taken == count {
                return Some(at);
            }
            left = left.saturating_sub(taken + 1);
            at += taken + 1;
        }
        None
    }

    /// Claims what looked free: how many pages were. Fewer than `count` are given back.
    fn claim(&self, owner: Owner, head: usize, count: usize) -> usize {
        for d in 0..count {
            let word = if d == 0 { Page::taken(owner) } else { Page::tail(d as u64) };
            // Pairs with the Release in `free_page`: its last user is done.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            if self.words[head + d].compare_exchange(Page::FREE.0, word.0, ok, err).is_err() {
                self.free_first(head, d);
                return d;
            }
        }
        count
    }

    /// Frees the run that begins here, whose head is the caller's.
    ///
    /// # If a process dies here
    /// The head is still in its name, and has fewer tails.
    pub(super) fn free_run_of(&self, head: usize) {
        self.free_first(head, self.run_len(head));
    }

    fn free_first(&self, head: usize, count: usize) {
        for d in (0..count).rev() {
            self.free_page(head + d);
        }
    }

    fn free_page(&self, page: usize) {
        // Pairs with the Acquire in `claim`: we are done with it.
        self.words[page].store(Page::FREE.0, Ordering::Release);
    }

    /// Says what a page is that is the caller's. Who learns of it learns it by what the caller
    /// links.
    pub(super) fn set_page(&self, page: usize, word: Page) {
        self.words[page].store(word.0, Ordering::Relaxed);
    }

    /// Changes a page's word that others may change too.
    pub(super) fn change_page(&self, page: usize, from: Page, to: Page) -> bool {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        self.words[page].compare_exchange(from.0, to.0, ok, err).is_ok()
    }
}
