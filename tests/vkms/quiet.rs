//! Measures of speed on a host that others use as well. What somebody else's work disturbs is measured again; what Vitrine
//! does wrong on a host that nobody disturbs is a failure.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// How often something is measured.
const ATTEMPTS: usize = 3;

/// So much of a CPU has the machine on a host that has nothing else to do; the rest is the kernel's own.
const QUIET: f64 = 0.8;

/// The part of a CPU that the machine is given when it wants all of one. To be asked when nothing in the machine is at work.
pub fn share() -> f64 {
    const SLICES: usize = 400;
    let slices: Vec<Duration> = (0..SLICES).map(|_| slice()).collect();
    // The quickest one was not disturbed; much less than a slice of the host's scheduler, so that there is one.
    let undisturbed = slices.iter().min().copied().unwrap_or_default() * SLICES as u32;
    undisturbed.as_secs_f64() / slices.iter().sum::<Duration>().as_secs_f64()
}

/// Work of a few tenths of a millisecond.
fn slice() -> Duration {
    let started = Instant::now();
    let mut number = 1u64;
    for _ in 0..20_000 {
        number = black_box(
            number
                .wrapping_mul(6_364_136_223_846_793_005)
                .rotate_left(7),
        );
    }
    started.elapsed()
}

/// Measures until that is good. `false` if it never was, on a host that was busy all the while: then the measure says nothing.
///
/// # Panics
/// If it is bad while nobody disturbs it: twice, as the disturbance may have been in the middle.
#[track_caller]
pub fn measured(what: &str, mut measure: impl FnMut() -> bool) -> bool {
    let mut bad = 0;
    for _ in 0..ATTEMPTS {
        let before = share();
        if measure() {
            return true;
        }
        let shares = (before, share());
        println!("{what}, with these shares of a CPU before and after: {shares:?}");
        bad += u32::from(shares.0.min(shares.1) > QUIET);
    }
    assert!(bad < 2, "{what}, {bad} times on a quiet host");
    println!("the host was too busy to tell more");
    false
}

#[test]
fn the_share_of_a_cpu_is_told() {
    use crate::machine::{self, Machine};
    machine::boot(Machine::default().services(false), |guest| {
        let alone = share();
        // In the machine, but as good as elsewhere.
        let _busy = [guest.busy_loop(), guest.busy_loop()];
        std::thread::sleep(Duration::from_millis(200));
        let shared = share();
        println!("{alone} alone, {shared} of three");
        assert!((0.0..=1.0).contains(&alone));
        assert!(shared < 0.6, "{alone} alone, {shared} of three");
    });
}
