//! What led to a finding, for people.
use std::fmt;
use std::panic::Location;

/// One step of a schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) op: &'static str,
    /// How far into the memory, or which process.
    pub(super) at: usize,
    pub(super) from: Option<&'static Location<'static>>,
    pub(super) value: u64,
    /// The value is a lie.
    pub(super) lie: bool,
    /// It is no step.
    pub(super) quiet: bool,
}

impl Event {
    /// Something that happens to a process.
    pub(super) fn fate(op: &'static str) -> Event {
        Event { op, at: 0, from: None, value: 0, lie: false, quiet: false }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { op, at, from, value, lie, .. } = *self;
        let Some(from) = from else { return write!(f, "{op}") };
        match op {
            "sleep" => write!(f, "sleep")?,
            "wake" => write!(f, "wake")?,
            "is it dead" => write!(f, "asks whether {at} is dead: {value}")?,
            _ => write!(f, "{op} at {at:#x}: {value:#x}")?,
        }
        if lie {
            write!(f, ", which is a lie")?;
        }
        write!(f, "  ({}:{})", from.file(), from.line())
    }
}

/// A schedule, step by step, as it is printed.
pub(super) fn schedule(events: impl Iterator<Item = (String, Event)>) -> String {
    let mut text = String::new();
    for (number, (who, event)) in events.enumerate() {
        text.push_str(&format!("\n    {:>4}  {who}: {event}", number + 1));
    }
    text
}
