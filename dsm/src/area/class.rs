//! The sizes of blocks, and how a span of each is laid out.
/// PostgreSQL's, which divide 64 KiB well, without the smallest, and with three above.
const SIZES: [u32; CLASSES] = [
    16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768,
    896, 1024, 1280, 1560, 1816, 2048, 2616, 3120, 3640, 4096, 5456, 6552, 7280, 8192, 10920,
    13104, 16384,
];
pub(super) const CLASSES: usize = 38;
const SIZE_MAX: usize = 16384;

/// What a page holds outside models.
pub(super) const PAGE: u32 = 8192;
/// No block begins at a multiple of more than this by promise: all that every mapping promises.
pub(super) const ALIGN_MAX: u64 = 4096;
/// A span of small blocks has at least so many, where pages are of the usual size.
const BLOCKS: u32 = 64;
/// A span has so many pages at most.
const SPAN_PAGES_MAX: u32 = 8;
/// Bits of the reciprocal behind the point.
const POINT: u32 = 40;

/// The smallest class that holds so many units of 8 bytes.
static CLASS_OF: [u8; SIZE_MAX / 8 + 1] = {
    let (mut table, mut units, mut class) = ([0; SIZE_MAX / 8 + 1], 1, 0);
    while units < table.len() {
        if units * 8 > SIZES[class] as usize {
            class += 1;
        }
        table[units] = class as u8;
        units += 1;
    }
    table
};

/// A span of one class: `pages` pages with `count` blocks of `size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) size: u32,
    pub(super) count: u32,
    pub(super) pages: u32,
    /// Each block begins at a multiple of it.
    pub(super) align: u32,
    reciprocal: u64,
}

impl Shape {
    const fn new(size: u32, page: u32) -> Shape {
        let blocks = BLOCKS * page / PAGE;
        let mut pages = (if blocks == 0 { 1 } else { blocks } * size).div_ceil(page);
        if pages > SPAN_PAGES_MAX {
            pages = SPAN_PAGES_MAX;
        }
        let odd = size | page | ALIGN_MAX as u32;
        let align = odd & odd.wrapping_neg();
        let reciprocal = (1u64 << POINT).div_ceil(size as u64);
        Shape { size, count: pages * page / size, pages, align, reciprocal }
    }

    /// Words of a bit each block.
    #[inline]
    pub(super) const fn words(&self) -> usize {
        self.count.div_ceil(u64::BITS) as usize
    }

    /// The bits of a word that stand for blocks.
    #[inline]
    pub(super) const fn valid(&self, word: usize) -> u64 {
        let left = self.count - word as u32 * u64::BITS;
        if left >= u64::BITS { u64::MAX } else { (1 << left) - 1 }
    }

    /// Bytes from the beginning of the span to a block.
    #[inline]
    pub(super) const fn offset(&self, index: u32) -> u64 {
        index as u64 * self.size as u64
    }

    /// Which block begins at this offset, if one does.
    #[inline]
    pub(super) fn index(&self, rel: u64) -> Option<u32> {
        if rel < u64::from(SPAN_PAGES_MAX * PAGE) { self.index_inside(rel) } else { None }
    }

    /// The same, of an offset inside the span.
    #[inline]
    pub(super) fn index_inside(&self, rel: u64) -> Option<u32> {
        // Exact: rel < 2^16, and the reciprocal is less than one unit too large.
        let index = ((rel * self.reciprocal) >> POINT) as u32;
        let begins = u64::from(index) * u64::from(self.size) == rel;
        (begins && index < self.count).then_some(index)
    }
}

/// The classes of an area whose pages have so many bytes.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    shapes: [Shape; CLASSES],
    used: usize,
    largest: u64,
}

impl Classes {
    pub(super) fn new(page: u32) -> Classes {
        let shapes = SIZES.map(|size| Shape::new(size, page));
        let used = SIZES.iter().take_while(|size| **size <= 2 * page).count();
        Classes { shapes, used, largest: u64::from(SIZES[used - 1]) }
    }

    /// The class for so many bytes, where pages are large enough; of no bytes there is none.
    #[inline]
    pub(super) fn usual(size: u64) -> Option<usize> {
        let less = size.wrapping_sub(1);
        CLASS_OF.get((less / 8 + 1) as usize).map(|class| *class as usize)
    }

    /// The class for so many bytes; `None` where they need pages of their own.
    #[inline]
    pub(super) fn of_size(&self, size: u64) -> Option<usize> {
        Classes::usual(size).filter(|_| size <= self.largest)
    }

    /// The same for blocks at multiples of `align`.
    #[inline]
    pub(super) fn of_layout(&self, size: u64, align: u64) -> Option<usize> {
        let from = self.of_size(size)?;
        (from..self.used).find(|class| u64::from(self.shapes[*class].align) >= align)
    }

    pub(super) fn shapes(&self) -> &[Shape] {
        &self.shapes[..self.used]
    }

    #[inline]
    pub(super) fn shape(&self, class: usize) -> Option<&Shape> {
        self.shapes[..self.used].get(class)
    }
}

#[cfg(all(test, not(shm_loom)))]
mod tests {
    use super::super::shared::WORDS;
    use super::*;

    #[test]
    fn a_class_is_the_smallest_that_holds_the_size() {
        let classes = Classes::new(8192);
        for size in 1..=SIZE_MAX as u64 {
            let class = classes.of_size(size).unwrap();
            assert!(u64::from(SIZES[class]) >= size);
            assert!(class == 0 || u64::from(SIZES[class - 1]) < size);
        }
        assert_eq!(classes.of_size(SIZE_MAX as u64 + 1), None);
    }

    #[test]
    fn every_block_is_found_by_its_offset_and_no_other() {
        for page in [64, 128, 256, 1024, 8192] {
            let classes = Classes::new(page);
            for shape in &classes.shapes[..classes.used] {
                assert!(shape.count >= 1 && shape.words() <= WORDS, "{shape:?}");
                assert!(shape.offset(shape.count) <= u64::from(shape.pages * page), "{shape:?}");
                for index in 0..shape.count {
                    let at = shape.offset(index);
                    assert_eq!(shape.index(at), Some(index), "{shape:?}");
                    assert_eq!((shape.index(at + 1), at % u64::from(shape.align)), (None, 0));
                }
                assert_eq!(shape.index(shape.offset(shape.count)), None);
                let bits: u32 = (0..shape.words()).map(|w| shape.valid(w).count_ones()).sum();
                assert_eq!(bits, shape.count);
            }
        }
    }

    #[test]
    fn little_of_a_span_is_lost() {
        let classes = Classes::new(8192);
        for shape in &classes.shapes {
            let used = u64::from(shape.count * shape.size);
            assert!(used * 100 >= u64::from(shape.pages) * 8192 * 90, "{shape:?}");
        }
    }

    #[test]
    fn an_alignment_is_kept_or_needs_pages() {
        let classes = Classes::new(8192);
        let class = classes.of_layout(24, 32).unwrap();
        assert_eq!(SIZES[class], 32);
        assert_eq!(classes.of_layout(100, 128).map(|class| SIZES[class]), Some(128));
        assert_eq!(classes.of_layout(8, 4096).map(|class| SIZES[class]), Some(4096));
        assert_eq!(classes.of_layout(8, 1 << 20), None);
    }
}
