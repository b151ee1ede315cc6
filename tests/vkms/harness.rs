//! The test machine keeps its own promises.

use crate::machine::{self, Machine};

#[test]
fn a_machine_boots_and_has_a_card() {
    machine::boot(Machine::default(), |guest| {
        println!("hello from {:?}", guest.card());
        assert!(guest.card().exists(), "{:?} is not there", guest.card());
    });
}
