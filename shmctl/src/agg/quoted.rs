//! Records in any CSV, by `csv-core`, read through a window.

use super::scan::{Fault, RECORD_BYTES_MAX};
use super::window::Window;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

/// Reads one record after the other.
pub(crate) struct QuotedReader {
    reader: Reader,
    /// The cells of the last record without their quotes, one behind the other.
    output: Vec<u8>,
    ends: Vec<usize>,
    written: usize,
    ended: usize,
}

impl QuotedReader {
    /// A reader for the start of a file, where it skips a byte order mark.
    pub(crate) fn new(delimiter: u8) -> QuotedReader {
        let reader = ReaderBuilder::new().delimiter(delimiter).build();
        QuotedReader { reader, output: vec![0; 1024], ends: vec![0; 64], written: 0, ended: 0 }
    }

    /// Makes ready to read from the start of a record that is not the first.
    pub(crate) fn start_within_file(&mut self) {
        self.reader.reset();
        // A blank line is nothing, but shows the reader that a mark here is none.
        self.reader.read_record(b"\n", &mut self.output, &mut self.ends);
    }

    /// Reads a record, if there is another one, consuming it from the window.
    pub(crate) fn read(&mut self, window: &mut Window<'_>, end: u64) -> Result<bool, Fault> {
        let start = window.offset();
        (self.written, self.ended) = (0, 0);
        loop {
            if window.bytes().is_empty() && !window.is_last() {
                window.fill(end)?;
            }
            // Without input, `csv-core` takes it that the file has ended; so it has.
            let (result, read, written, ended) = self.reader.read_record(
                window.bytes(),
                &mut self.output[self.written..],
                &mut self.ends[self.ended..],
            );
            window.consume(read);
            self.written += written;
            self.ended += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => grow(&mut self.output, start)?,
                ReadRecordResult::OutputEndsFull => grow(&mut self.ends, start)?,
                ReadRecordResult::Record => return Ok(true),
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.output[..self.written]
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(self.ends());
        starts.zip(self.ends()).map(|(start, end)| &self.output[*start..*end])
    }

    pub(crate) fn ends(&self) -> &[usize] {
        &self.ends[..self.ended]
    }
}

fn grow<T: Clone + Default>(room: &mut Vec<T>, record: u64) -> Result<(), Fault> {
    if room.len() >= RECORD_BYTES_MAX {
        return Err(Fault::too_long(record));
    }
    room.resize(2 * room.len(), T::default());
    Ok(())
}
