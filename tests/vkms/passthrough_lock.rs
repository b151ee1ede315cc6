//! Passthrough and the session lock: what the connector writes into clients' memory is the lock's from `locked` on, and jobs
//! of before are over by then.

use crate::{
    clients::{
        clock,
        copy_capture::picture_of,
        session_lock::{Locker, CURTAIN},
        Client, MemoryKind, Painter,
    },
    control::capture_report,
    faults::assert_clean,
    lock::plain,
    machine::{self, Machine, SECOND},
    passthrough::{Viewer, ON},
    stage::{Setup, Stage},
};

const BEGINS: &str = "the session is being locked";
const LOCKED: &str = "the session is locked";
const RECOVERED: &str = "writeback connector recovered";
const ALL_THE_SAME: &str = "the session is locked all the same";

/// The job that a line of the log is about.
fn job(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" job=job")?;
    let digits = rest.get(1..)?.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The jobs that were overdue while the session was being locked, and those of them that were not over when that was done.
fn overdue_at_locks(log: &str) -> (Vec<u64>, Vec<u64>) {
    let (mut overdue, mut left) = (Vec::new(), Vec::new());
    let mut since: Option<Vec<u64>> = None;
    for line in log.lines() {
        if line.contains(BEGINS) {
            since = Some(Vec::new());
        }
        let Some(jobs) = &mut since else { continue };
        if line.contains("capture job overdue") {
            jobs.extend(job(line));
            overdue.extend(job(line));
        } else if line.contains("captured frame discarded") {
            jobs.retain(|have| Some(*have) != job(line));
        } else if line.contains(RECOVERED) {
            jobs.clear();
        } else if line.contains(LOCKED) {
            left.append(jobs);
            since = None;
        }
    }
    (overdue, left)
}

#[test]
fn locked_is_said_when_jobs_of_before_into_clients_memory_are_over_however_late_they_are() {
    machine::boot(Machine::default(), |guest| {
        // Each job takes longer than the display waits for it, and not so long that it is lost.
        let setup = Setup::default().with(ON).faults("fence:1..10000=late150");
        let stage = setup.start(guest);
        let (mut app, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        let mut locker = stage.client();
        for round in 0..6 {
            let shown = painter.present(&mut app, round * 2 + 1).unwrap();
            viewer.see(&painter, shown, "before the lock");
            let kept = viewer.turn % 2;
            let before = picture_of(&viewer.buffers[kept]);
            let pending = viewer.ask();
            painter.present(&mut app, round * 2 + 2).unwrap();
            let lock = Locker::lock(&mut locker).unwrap();
            let frame = viewer.wait(pending);
            // On a slow machine the job was over before the lock.
            if frame.picture != painter.expected() {
                frame.picture.assert_same(&plain(CURTAIN), "while locked");
            }
            std::thread::sleep(SECOND / 4);
            picture_of(viewer.buffer()).assert_same(&frame.picture, "after ready");
            picture_of(&viewer.buffers[kept]).assert_same(&before, "not named");
            lock.unlock(&mut locker).unwrap();
        }
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        let (overdue, left) = overdue_at_locks(&log);
        println!("overdue {overdue:?}; {summary:?}");
        assert!(!overdue.is_empty(), "no job was in flight at a lock");
        assert!(left.is_empty(), "{left:?} under way at `locked`");
        assert!(!log.contains(ALL_THE_SAME));
        assert!(summary.get("passthrough") >= 1);
        assert_eq!(summary.get("lost"), 0);
        assert_clean(&guest.dmesg());
    });
}

/// Captures until a job into the viewer's memory is lost, and dies with it.
fn loses_a_job(stage: &Stage<'_>, (app, painter): (&mut Client, &mut Painter), first: u32) {
    let lost = || stage.vitrine.log().matches("capture job overdue").count();
    let before = lost();
    let mut viewer = Viewer::new(stage, MemoryKind::Udmabuf);
    for n in first..first + 40 {
        let pending = viewer.ask();
        painter.present(app, n).unwrap();
        viewer.client.dispatch_for(SECOND / 10).unwrap();
        if !pending.has_ended() {
            viewer.die(pending);
            let end = clock::now() + SECOND * 3;
            while clock::now() < end {
                if lost() > before {
                    return;
                }
                std::thread::sleep(SECOND / 50);
            }
            // It was late only, since the machine is slow.
            viewer = Viewer::new(stage, MemoryKind::Udmabuf);
        }
    }
    panic!("no job was lost");
}

/// Nobody waits for a frame that would be worth a probe, and what was lost may still be written.
#[test]
fn a_lost_job_is_known_to_be_left_behind_before_locked_is_said() {
    machine::boot(Machine::default(), |guest| {
        let faults = "fence:4=never,fence:34=never,fence:64=never";
        // Before the lock has waited for as long as it does.
        let setup = Setup::default().with(ON).faults(faults).hasty();
        let stage = setup.start(guest);
        let (mut app, mut painter) = stage.painter();
        let mut locker = stage.client();
        let recovered = || stage.vitrine.log().matches(RECOVERED).count();
        let mut proven = 0;
        for round in 0..3 {
            loses_a_job(&stage, (&mut app, &mut painter), round * 100);
            let before = recovered();
            let lock = Locker::lock(&mut locker).unwrap();
            // A slow machine may not make it in the time that a lock waits.
            proven += recovered() - before;
            let mut late = Viewer::new(&stage, MemoryKind::Heap);
            late.capture().picture.assert_same(&plain(CURTAIN), "late");
            lock.unlock(&mut locker).unwrap();
            for n in 0..12 {
                let shown = painter.present(&mut app, round * 100 + 50 + n).unwrap();
                late.see(&painter, shown, "after the lock");
            }
        }
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        println!("{proven} proven; {summary:?}");
        assert!(proven >= 1);
        assert!(log.matches(ALL_THE_SAME).count() <= 3 - proven);
        assert_eq!(summary.get("lost"), 3);
        assert!(summary.get("passthrough") >= 10);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_stream_into_a_clients_memory_shows_the_lock_while_it_is_there_and_passes_through_all_the_time()
{
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let (mut app, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        let mut locker = stage.client();
        let covered = locker.output(None).unwrap();
        let passed = || capture_report(guest).passthrough;
        for round in 1..=3 {
            let first = passed();
            for n in 0..6 {
                let shown = painter.present(&mut app, round * 100 + n).unwrap();
                viewer.see(&painter, shown, "before the lock");
            }
            let before = passed();
            // A request waits while it is being locked, and the application goes on.
            let pending = viewer.ask();
            let lock = Locker::ask(&mut locker).unwrap();
            painter.paint(&mut app, round * 100 + 50).unwrap();
            lock.wait(&mut locker).unwrap();
            assert!(lock.record().locked);
            let frame = viewer.wait(pending);
            if frame.picture != painter.expected() {
                frame.picture.assert_same(&plain(CURTAIN), "at `locked`");
                // Nothing changes: the next frame is that of the lock's surface.
            } else {
                let frame = viewer.capture();
                frame.picture.assert_same(&plain(CURTAIN), "after `locked`");
            }
            let mut surface = lock.cover(&mut locker, &covered, round * 100 + 60).unwrap();
            for n in round * 100 + 60..round * 100 + 66 {
                if n > round * 100 + 60 {
                    surface.show(&mut locker, n).unwrap();
                }
                painter.paint(&mut app, n + 20).unwrap();
                let frame = viewer.capture();
                frame
                    .picture
                    .assert_same(&surface.expected(n), "the lock's surface");
            }
            let locked = passed();
            lock.unlock(&mut locker).unwrap();
            let shown = painter.present(&mut app, round * 100 + 99).unwrap();
            viewer.see(&painter, shown, "after the lock");
            println!(
                "round {round}: {} and {} passed",
                before - first,
                locked - before
            );
            assert!(before - first >= 3 && locked - before >= 4);
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("imports"), 2, "the buffers stay known");
        assert_eq!(summary.get("modesets"), 1);
        assert_clean(&guest.dmesg());
    });
}
