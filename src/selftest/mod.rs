//! `vitrine selftest`: shows known pictures on each screen, captures them through the writeback connector, compares, and
//! says what of it can be trusted on this machine.
//!
//! Uses the display controller directly, so nothing else may drive it meanwhile. It knows no Wayland and no capture
//! protocol. The screens are given back as they were found.

mod crc;
mod pattern;
mod rig;

use std::{
    fmt::{self, Write},
    time::Duration,
};

use smithay::backend::allocator::gbm::GbmDevice;

use self::{
    crc::Witness,
    rig::{Rig, Run},
};
use crate::kms::{
    assign, topology::Head, topology::WritebackClass, CommitError, Device, Error, Preferences,
    Snapshot,
};

/// A colour channel may differ by so much: hardware that scans out with fewer bits rounds.
pub const TOLERANCE: u8 = 2;

/// The gaps between two jobs that are tried. The safest comes first, since a lost job spoils what comes after it.
const GAPS: [Duration; 3] = [
    Duration::from_millis(2),
    Duration::from_micros(300),
    Duration::ZERO,
];

/// What is known of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Captures are what the screen shows.
    Trustworthy {
        /// The smallest gap between jobs at which nothing was lost.
        gap: Duration,
    },
    /// There is a writeback connector, and it does not do what it should.
    Faulty(String),
    /// The screen cannot be captured through writeback.
    Impossible(String),
}

/// The result for one screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenResult {
    /// The connector's name.
    pub name: String,
    /// What it is.
    pub judgement: Judgement,
    /// What was found, line by line.
    pub details: String,
}

impl fmt::Display for ScreenResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.judgement {
            Judgement::Trustworthy { gap } => writeln!(
                f,
                "{}: trustworthy; smallest good cooling_ms = {}",
                self.name,
                millis(*gap)
            )?,
            Judgement::Faulty(why) => writeln!(f, "{}: NOT trustworthy: {why}", self.name)?,
            Judgement::Impossible(why) => writeln!(f, "{}: no writeback: {why}", self.name)?,
        }
        write!(f, "{}", self.details)
    }
}

/// Whether the machine passes: a screen is trustworthy, and none with writeback is faulty.
pub fn passes(results: &[ScreenResult]) -> bool {
    let any = |is: fn(&Judgement) -> bool| results.iter().any(|result| is(&result.judgement));
    any(|judgement| matches!(judgement, Judgement::Trustworthy { .. }))
        && !any(|judgement| matches!(judgement, Judgement::Faulty(_)))
}

/// Tests every connected screen of the device, each for about `time`.
///
/// # Errors
/// When the device cannot be read or has no memory. A screen that fails is a result.
pub fn test_device(device: &Device, card: u32, time: Duration) -> Result<Vec<ScreenResult>, Error> {
    let gbm = GbmDevice::new(device.fd().clone()).map_err(Error::io("using GBM"))?;
    let snapshot = device.snapshot(true)?;
    let assignment = assign(&snapshot, &Preferences::default());
    let mut results = Vec::new();
    for dark in &assignment.unassigned {
        results.push(impossible(&dark.name, dark.reason.clone()));
    }
    for head in &assignment.heads {
        let screen = Screen {
            device,
            gbm: &gbm,
            snapshot: &snapshot,
            head,
            card,
        };
        results.push(screen.test(time));
    }
    Ok(results)
}

fn impossible(name: &str, why: String) -> ScreenResult {
    ScreenResult {
        name: name.to_owned(),
        judgement: Judgement::Impossible(why),
        details: String::new(),
    }
}

struct Screen<'a> {
    device: &'a Device,
    gbm: &'a GbmDevice<smithay::backend::drm::DrmDeviceFd>,
    snapshot: &'a Snapshot,
    head: &'a Head,
    card: u32,
}

impl Screen<'_> {
    fn test(&self, time: Duration) -> ScreenResult {
        let name = &self.head.name;
        let connector = match (&self.head.writeback, self.device.writeback()) {
            (_, Err(why)) => return impossible(name, why.to_owned()),
            (WritebackClass::Clone(connector), Ok(())) => *connector,
            (WritebackClass::WritebackOnly { reason }, Ok(())) => {
                return impossible(name, format!("only on a CRTC of its own: {reason}"))
            }
            (WritebackClass::None { reason }, Ok(())) => return impossible(name, reason.clone()),
        };
        let mode = self.snapshot.connector(self.head.connector);
        let Some(mode) = mode.and_then(|connector| connector.preferred_mode()) else {
            return impossible(name, "the screen has no mode".to_owned());
        };
        let (mut rig, attached) = match Rig::start(self.device, self.gbm, self.head, mode) {
            Ok(started) => started,
            Err(Error::Commit(CommitError::NotMaster)) => {
                let why = "another process drives the display; end it first";
                return impossible(name, why.to_owned());
            }
            Err(error) => return impossible(name, format!("the mode cannot be set: {error}")),
        };
        if let Err(why) = attached {
            return impossible(
                name,
                format!("the driver refuses it beside the screen: {why}"),
            );
        }
        let mut details = String::new();
        let (width, height) = mode.size();
        // Writing to a String does not fail.
        let _ = writeln!(
            details,
            "  class: clone (screen and writeback on one CRTC), mode {width}x{height}@{}",
            mode.vrefresh()
        );
        let formats = self.formats(&rig, connector);
        let _ = writeln!(details, "  formats: {formats}");
        let judgement = self
            .measure(&mut rig, time, &mut details)
            .unwrap_or_else(|error| Judgement::Faulty(format!("a commit was refused: {error}")));
        ScreenResult {
            name: name.clone(),
            judgement,
            details,
        }
    }

    fn formats(&self, rig: &Rig, connector: drm::control::connector::Handle) -> String {
        let formats = self.snapshot.connector(connector);
        let formats = formats.map(|connector| connector.formats.as_slice());
        let words = formats.unwrap_or_default().iter().map(|format| {
            let agrees = match rig.try_format(*format) {
                Some(true) => "",
                Some(false) => " (refused beside the screen)",
                None => " (not tried)",
            };
            format!("{format}{agrees}")
        });
        words.collect::<Vec<_>>().join(", ")
    }

    fn measure(
        &self,
        rig: &mut Rig,
        time: Duration,
        details: &mut String,
    ) -> Result<Judgement, CommitError> {
        let share = time / 4;
        // First every pixel of every frame, as slow as that is.
        let exact = rig.run(Duration::from_millis(2), share, 1)?;
        let _ = writeln!(
            details,
            "  pixels: {} frames compared in full, {} wrong, greatest difference {} of 255",
            exact.captured, exact.wrong, exact.difference
        );
        let witness = self.ask_crtc(rig);
        let _ = match &witness {
            Witness::Agrees => writeln!(details, "  CRC of the CRTC: agrees with the picture"),
            Witness::Differs => writeln!(details, "  CRC of the CRTC: DIFFERS from the picture"),
            Witness::Absent(why) => writeln!(details, "  CRC of the CRTC: not compared: {why}"),
        };
        let mut runs = Vec::new();
        // What a lost job left behind spoils all that follows.
        let gaps = GAPS.into_iter().filter(|_| exact.is_good(TOLERANCE));
        for gap in gaps {
            let run = rig.run(gap, share, 64)?;
            let _ = writeln!(
                details,
                "  gap {} ms: {:.1} captured frames per second, {} of {} flips; {} lost, {} wrong",
                millis(gap),
                run.rate(),
                run.captured,
                run.flips,
                run.lost,
                run.wrong
            );
            let good = run.is_good(TOLERANCE);
            runs.push(run);
            if !good {
                break;
            }
        }
        Ok(judge(&exact, &witness, &runs))
    }

    fn ask_crtc(&self, rig: &Rig) -> Witness {
        let crtcs = &self.snapshot.crtcs;
        match crtcs.iter().position(|crtc| crtc.id == self.head.crtc) {
            Some(crtc) => crc::ask(&self.device.driver(), self.card, crtc, &rig.truth()),
            None => Witness::Absent("the CRTC is gone".to_owned()),
        }
    }
}

/// What the runs say. The first is of full comparisons; the others are in the order of [`GAPS`].
fn judge(exact: &Run, witness: &Witness, runs: &[Run]) -> Judgement {
    if exact.captured == 0 {
        return Judgement::Faulty("no frame came back".to_owned());
    }
    if exact.wrong > 0 {
        return Judgement::Faulty(format!(
            "{} of {} frames are not what was drawn",
            exact.wrong, exact.captured
        ));
    }
    if *witness == Witness::Differs {
        return Judgement::Faulty("the CRTC showed something else than what was drawn".to_owned());
    }
    if let Some(wrong) = runs.iter().find(|run| run.wrong > 0) {
        return Judgement::Faulty(format!("stale frames at a gap of {} ms", millis(wrong.gap)));
    }
    if exact.lost > 0 {
        return lossy();
    }
    match runs.iter().take_while(|run| run.is_good(TOLERANCE)).last() {
        Some(best) => Judgement::Trustworthy { gap: best.gap },
        None => lossy(),
    }
}

fn lossy() -> Judgement {
    let [safest, ..] = GAPS;
    Judgement::Faulty(format!(
        "jobs get lost even with a gap of {} ms; raise cooling_ms",
        millis(safest)
    ))
}

fn millis(gap: Duration) -> f64 {
    gap.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gap: Duration, captured: u64, wrong: u64, lost: u64) -> Run {
        Run {
            gap,
            captured,
            wrong,
            lost,
            ..Run::default()
        }
    }

    #[test]
    fn the_smallest_gap_that_lost_nothing_is_named() {
        let good = run(GAPS[0], 10, 0, 0);
        let runs = [good, run(GAPS[1], 10, 0, 0), run(GAPS[2], 3, 0, 1)];
        let judgement = judge(&good, &Witness::Agrees, &runs);
        assert_eq!(judgement, Judgement::Trustworthy { gap: GAPS[1] });
    }

    #[test]
    fn one_wrong_frame_or_witness_is_enough_against_it() {
        let good = run(GAPS[0], 10, 0, 0);
        let absent = Witness::Absent(String::new());
        for (exact, witness, runs) in [
            (run(GAPS[0], 0, 0, 0), &absent, vec![good]),
            (run(GAPS[0], 10, 1, 0), &absent, vec![good]),
            (run(GAPS[0], 10, 0, 1), &absent, vec![good]),
            (good, &Witness::Differs, vec![good]),
            (good, &absent, vec![good, run(GAPS[1], 10, 1, 0)]),
            (good, &absent, vec![run(GAPS[0], 10, 0, 1)]),
            (good, &absent, vec![run(GAPS[0], 0, 0, 0)]),
        ] {
            let judgement = judge(&exact, witness, &runs);
            assert!(matches!(judgement, Judgement::Faulty(_)), "{judgement:?}");
        }
    }

    #[test]
    fn a_machine_passes_with_one_good_screen_and_no_faulty_one() {
        let result = |judgement: Judgement| ScreenResult {
            name: String::new(),
            judgement,
            details: String::new(),
        };
        let good = result(Judgement::Trustworthy { gap: GAPS[0] });
        let none = result(Judgement::Impossible(String::new()));
        let faulty = result(Judgement::Faulty(String::new()));
        assert!(!passes(&[]) && !passes(std::slice::from_ref(&none)));
        assert!(passes(&[good.clone(), none]));
        assert!(!passes(&[good, faulty]));
    }
}
