//! A table of participants whose creator dies is made again by its successor; one that was said to
//! be made can be attached to. Either way every seat can be taken, and taken once.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_testkit::killpoint::{End, Notes, Run, Scenario};
use std::sync::Arc;

const SLOTS: u32 = 3;
const MADE: usize = 0;

struct Create;

impl Scenario for Create {
    type World = Arc<Mapping>;
    type Doomed = ();

    fn name(&self) -> String {
        "participants, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_core::participants::Table::create"]
    }

    fn world(&self) -> Arc<Mapping> {
        shared(Table::bytes_for(SLOTS)).1
    }

    fn prepare(&self, _: &Arc<Mapping>, _: &Notes) {}

    fn operate(&self, mapping: &Arc<Mapping>, (): &mut (), notes: &Notes) {
        create(mapping);
        notes.set(MADE, 1);
    }

    fn image(&self, mapping: &Arc<Mapping>) -> Vec<u8> {
        words_from(mapping, 0)
    }

    fn check(&self, mapping: Arc<Mapping>, notes: &Notes, _: End) -> Result<(), String> {
        let table = match notes.get(MADE) {
            1 => Table::attach(&mapping, 0).map_err(|error| format!("cannot attach: {error}"))?,
            _ => create(&mapping),
        };
        if !table.snapshot().is_empty() {
            return Err(format!("in a new table there are {:?}", table.snapshot()));
        }
        let joined: Result<Vec<_>, _> = (0..SLOTS).map(|_| table.join()).collect();
        let _joined = joined.map_err(|error| format!("not every seat is usable: {error}"))?;
        if table.join().is_ok() { Err("there is a seat too many".into()) } else { Ok(()) }
    }
}

fn create(mapping: &Arc<Mapping>) -> Table {
    // SAFETY: nobody has published the table, or uses it.
    unsafe { Table::create(mapping, 0, SLOTS) }.unwrap()
}

#[test]
fn its_creator_may_die_anywhere() {
    Run::new(&Create).kill().passes();
}
