//! The kms room alone, driven against vkms: no compositor, no Wayland.

use std::{fs::OpenOptions, os::fd::OwnedFd, sync::Arc, time::Duration};

use drm::control::Mode;
use drm_fourcc::DrmFourcc;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use smithay::{
    backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd},
    utils::DeviceFd,
};
use vitrine::{
    kms::{
        assign,
        pipeline::{Flip, State},
        writeback::Action,
        writeback::Trust,
        Access, ArmKind, Assignment, CommitError, Device, FaultPlan, Fence, FrameState, JobId,
        Pacing, Pipeline, PlaneUpdate, Preferences, ProbeReport, RingBuffer, Verdict, WritebackFb,
    },
    time::Time,
};

use crate::{
    leaving::Card,
    machine::{self, vkms_crc, Guest, Kernel, Machine, Output, SECOND},
};

const FOURCC: DrmFourcc = DrmFourcc::Xrgb8888;
const SIZE: (u32, u32) = (640, 480);

/// A buffer that the test paints and a pipeline shows.
pub struct Picture {
    buffer: RingBuffer,
    pub bytes: Vec<u8>,
}

impl Picture {
    fn new(gbm: &GbmDevice<DrmDeviceFd>, size: (u32, u32), fourcc: DrmFourcc) -> Self {
        let buffer = RingBuffer::allocate(gbm, size.0, size.1, fourcc, Access::ReadWrite).unwrap();
        let bytes = vec![0; buffer.len()];
        Self { buffer, bytes }
    }

    pub fn paint(&mut self, seed: usize) {
        for (n, pixel) in self.bytes.chunks_exact_mut(4).enumerate() {
            let n = n + seed * 977;
            pixel.copy_from_slice(&[n as u8, (n >> 8) as u8, (n / 3 + seed) as u8, 0xff]);
        }
        self.upload();
    }

    fn upload(&mut self) {
        // Another mapping than the one under test.
        let fd = self.buffer.export().unwrap();
        // SAFETY: a fresh mapping of exactly the buffer's length.
        unsafe {
            use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
            let (len, protection) = (self.bytes.len(), ProtFlags::READ | ProtFlags::WRITE);
            let map = mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                &fd,
                0,
            )
            .unwrap();
            std::ptr::copy_nonoverlapping(self.bytes.as_ptr(), map.cast(), len);
            munmap(map, len).unwrap();
        }
    }

    pub fn frame(&self) -> FrameState {
        FrameState::primary(PlaneUpdate::whole(
            self.buffer.framebuffer().clone(),
            (0, 0),
        ))
    }
}

/// One screen, its picture and its ring.
pub struct Screen {
    pub pipeline: Pipeline,
    pub picture: Picture,
    pub slots: Vec<Arc<RingBuffer>>,
    waiting: Vec<(JobId, Fence)>,
    next_job: u64,
    actions: Vec<Action>,
    flips: u64,
}

pub struct Bench {
    pub device: Device,
    gbm: GbmDevice<DrmDeviceFd>,
    assignment: Assignment,
}

impl Bench {
    pub fn open(guest: &Guest, plan: &str) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(guest.card())
            .unwrap();
        let fd = DrmDeviceFd::new(DeviceFd::from(OwnedFd::from(file)));
        let device = Device::new(fd, plan.parse::<FaultPlan>().unwrap()).unwrap();
        let gbm = GbmDevice::new(device.fd().clone()).unwrap();
        let assignment = assign(&device.snapshot(true).unwrap(), &Preferences::default());
        Self {
            device,
            gbm,
            assignment,
        }
    }

    fn mode(&self, n: usize) -> Mode {
        let snapshot = self.device.snapshot(false).unwrap();
        let connector = snapshot
            .connector(self.assignment.heads[n].connector)
            .unwrap();
        *connector
            .modes
            .iter()
            .find(|mode| mode.size() == (640, 480))
            .unwrap()
    }

    pub fn screen(&self, n: usize) -> Screen {
        let mut pipeline =
            Pipeline::for_head(&self.device, &self.assignment.heads[n], &[]).unwrap();
        let mut picture = Picture::new(&self.gbm, SIZE, FOURCC);
        picture.paint(n);
        // A busy host may need long for a picture, and that is no lost job.
        let mut writeback = *pipeline.writeback().config();
        writeback.watchdog = SECOND * 2;
        pipeline.configure_writeback(writeback);
        let report = pipeline
            .modeset(self.mode(n), &picture.frame(), Time::now())
            .unwrap();
        println!("{}: {report:?}", pipeline.name());
        let slot =
            || RingBuffer::allocate(&self.gbm, SIZE.0, SIZE.1, FOURCC, Access::ReadOnly).unwrap();
        let slots = (0..4).map(|_| Arc::new(slot())).collect();
        Screen {
            pipeline,
            picture,
            slots,
            waiting: Vec::new(),
            next_job: 0,
            actions: Vec::new(),
            flips: 0,
        }
    }

    /// Waits a little for anything, and hands it to the screens. Verdicts with the screen's number.
    pub fn dispatch(&self, screens: &mut [Screen]) -> Vec<(usize, Verdict)> {
        let mut fds = vec![PollFd::new(&self.device, PollFlags::IN)];
        for screen in screens.iter() {
            fds.extend(
                screen
                    .waiting
                    .iter()
                    .map(|(_, fence)| PollFd::new(fence, PollFlags::IN)),
            );
        }
        let millisecond = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        poll(&mut fds, Some(&millisecond)).unwrap();
        drop(fds);
        let mut verdicts = Vec::new();
        for event in self.device.events().unwrap() {
            let vitrine::kms::KmsEvent::Flip { crtc, time, .. } = event;
            let n = screens
                .iter()
                .position(|s| s.pipeline.crtc() == crtc)
                .unwrap();
            let (flip, verdict) = screens[n].pipeline.flipped(time, Time::now());
            // That of a commit that was under way when the screen went dark is late.
            let dark = screens[n].pipeline.state() == State::Asleep;
            assert!(flip == Flip::Done || (dark && flip == Flip::Stale));
            screens[n].flips += 1;
            verdicts.extend(verdict.map(|verdict| (n, verdict)));
        }
        for (n, screen) in screens.iter_mut().enumerate() {
            let jobs: Vec<JobId> = screen.waiting.iter().map(|(job, _)| *job).collect();
            for job in jobs {
                let verdict = screen.pipeline.fence_ready(job, Time::now());
                verdicts.extend(verdict.map(|verdict| (n, verdict)));
            }
            for action in screen.pipeline.tick(Time::now()) {
                match action {
                    Action::Verdict(verdict) => verdicts.push((n, verdict)),
                    Action::Forget(job) => screen.waiting.retain(|(other, _)| *other != job),
                    _ => screen.actions.push(action),
                }
            }
        }
        for (n, verdict) in &verdicts {
            let (Verdict::Publish { job, .. } | Verdict::Discard(job, _) | Verdict::Probe(job)) =
                verdict;
            screens[*n].waiting.retain(|(other, _)| other != job);
        }
        verdicts
    }

    /// Commits as soon as the pacing allows. The job's number, if the kind of job may be armed now.
    pub fn commit(
        &self,
        screen: &mut Screen,
        frame: &FrameState,
    ) -> Option<Option<(JobId, ArmKind)>> {
        let now = Time::now();
        if screen.pipeline.may_commit(now) != Pacing::Go {
            return None;
        }
        let job = JobId(screen.next_job);
        let kind = screen.pipeline.may_arm(now).ok();
        let writeback = kind.map(|kind| match kind {
            ArmKind::Normal => {
                let slot = &screen.slots[screen.next_job as usize % screen.slots.len()];
                WritebackFb {
                    job,
                    fb: slot.framebuffer().clone(),
                }
            }
            ArmKind::Kick | ArmKind::Canary => {
                screen.pipeline.probe_fb(&self.gbm, FOURCC, job).unwrap()
            }
        });
        let committed = match screen.pipeline.commit(frame, writeback, now) {
            Ok(committed) => committed,
            Err(CommitError::Busy) => return None,
            Err(error) => panic!("{error}"),
        };
        if let Some(fence) = committed.out_fence {
            screen.next_job += 1;
            screen.waiting.push((job, fence));
            return Some(kind.map(|kind| (job, kind)));
        }
        Some(None)
    }
}

fn assert_slot(screen: &Screen, job: JobId, expected: &[u8]) {
    let slot = &screen.slots[job.0 as usize % screen.slots.len()];
    slot.read(&mut |bytes| {
        assert_eq!(bytes.len(), expected.len());
        if bytes == expected {
            return;
        }
        let differs = bytes
            .chunks_exact(4)
            .zip(expected.chunks_exact(4))
            .position(|(a, b)| a[..3] != b[..3]);
        assert_eq!(differs, None, "{job}: pixel differs");
    })
    .unwrap();
}

/// Captures `count` frames of each screen, with another picture each time; every published slot holds what was shown.
pub fn capture(bench: &Bench, screens: &mut [Screen], count: u64) {
    let mut published = vec![0u64; screens.len()];
    let mut painted: Vec<Option<JobId>> = vec![None; screens.len()];
    let mut seed = 0;
    machine::wait_until("the frames", SECOND * 90, || {
        for (n, screen) in screens.iter_mut().enumerate() {
            if published[n] >= count || painted[n].is_some() {
                continue;
            }
            if screen.pipeline.may_commit(Time::now()) != Pacing::Go
                || screen.pipeline.may_arm(Time::now()).is_err()
            {
                continue;
            }
            seed += 1;
            screen.picture.paint(seed);
            let frame = screen.picture.frame();
            painted[n] = bench.commit(screen, &frame).flatten().map(|(job, _)| job);
        }
        for (n, verdict) in bench.dispatch(screens) {
            if let Verdict::Publish { job, presented } = verdict {
                assert!(presented <= Time::now());
                assert_slot(&screens[n], job, &screens[n].picture.bytes);
                published[n] += 1;
            }
            painted[n] = None;
        }
        published.iter().all(|n| *n >= count)
    });
}

#[test]
fn a_hundred_frames_are_captured_after_one_modeset() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0)];
        let report = ProbeReport::new(&bench.device, &Preferences::default()).unwrap();
        println!("{report}");
        capture(&bench, &mut screens, 100);
        let stats = bench.device.stats().of(screens[0].pipeline.crtc());
        println!("{stats:?} {:?}", screens[0].pipeline.writeback().stats());
        assert_eq!(stats.modesets, 1);
        assert_eq!(stats.jobs, 100);
        assert_eq!(stats.flips, stats.commits - 1);
        assert_eq!(screens[0].pipeline.writeback().trust(), Trust::Trusted);
    });
}

#[test]
fn the_probe_says_clone_and_that_test_only_agrees() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let text = ProbeReport::new(&bench.device, &Preferences::default())
            .unwrap()
            .to_string();
        println!("{text}");
        for part in [
            "driver vkms",
            "Virtual-1: connected",
            "clone, Writeback-1",
            "TEST_ONLY agrees",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(text.contains("XR24"));
    });
}

#[test]
fn two_screens_are_captured_at_once() {
    let machine = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(machine.services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0), bench.screen(1)];
        capture(&bench, &mut screens, 30);
        for screen in &screens {
            assert_eq!(bench.device.stats().of(screen.pipeline.crtc()).modesets, 1);
        }
    });
}

#[test]
fn the_cursor_plane_is_in_the_capture_and_in_the_crc() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0)];
        let mut cursor = Picture::new(&bench.gbm, (64, 64), DrmFourcc::Argb8888);
        cursor.paint(42);
        let at = (100, 50);
        let mut frame = screens[0].picture.frame();
        frame.cursor = Some(PlaneUpdate {
            hotspot: Some((1, 1)),
            ..PlaneUpdate::whole(cursor.buffer.framebuffer().clone(), at)
        });
        screens[0]
            .pipeline
            .test(&frame, Some(screens[0].slots[0].framebuffer()))
            .unwrap();
        let mut expected = screens[0].picture.bytes.clone();
        for row in 0..64 {
            let target = ((at.1 as usize + row) * 640 + at.0 as usize) * 4;
            let source = row * cursor.buffer.layout().stride as usize;
            expected[target..target + 256].copy_from_slice(&cursor.bytes[source..source + 256]);
        }
        let mut published = None;
        let mut committed = false;
        machine::wait_until("the capture", SECOND * 30, || {
            committed = committed || bench.commit(&mut screens[0], &frame).is_some();
            for (_, verdict) in bench.dispatch(&mut screens) {
                if let Verdict::Publish { job, .. } = verdict {
                    published = Some(job);
                }
            }
            published.is_some()
        });
        assert_slot(&screens[0], published.unwrap(), &expected);
        let mut crc = guest.crc(0).unwrap();
        assert_eq!(crc.next_frame().unwrap().value, vkms_crc(&expected));
    });
}

#[test]
fn a_paused_pipeline_commits_nothing_and_comes_back_with_its_writeback() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0)];
        capture(&bench, &mut screens, 3);
        let pipeline = &mut screens[0].pipeline;
        pipeline.pause();
        assert_eq!(
            pipeline
                .commit(&screens[0].picture.frame(), None, Time::now())
                .unwrap_err(),
            CommitError::NotMaster
        );
        let report = screens[0].pipeline.resume(Time::now()).unwrap().unwrap();
        assert_eq!(report.writeback_attached, Ok(()));
        capture(&bench, &mut screens, 3);
    });
}

#[test]
fn giving_a_screen_back_again_and_again_leaves_no_handle_of_what_it_showed() {
    machine::boot(Machine::default().services(false), |guest| {
        let card = Card::show_and_stand_back(guest);
        let bench = Bench::open(guest, "");
        // The kernel gives the lowest numbers that are free: the highest of many tells how many others there are.
        let highest_handle = || {
            use drm::{buffer::Buffer as _, control::Device as _};
            let fd = bench.device.fd();
            let new = || fd.create_dumb_buffer((8, 8), FOURCC, 32).unwrap();
            let buffers: Vec<_> = (0..64).map(|_| new()).collect();
            let highest = buffers.iter().map(|b| u32::from(b.handle())).max();
            let gone = buffers.into_iter().map(|b| fd.destroy_dumb_buffer(b));
            gone.for_each(|gone| gone.unwrap());
            highest
        };
        let before = highest_handle();
        for _ in 0..5 {
            drop(bench.screen(0));
        }
        assert_eq!(highest_handle(), before);
        drop(card);
    });
}

#[test]
fn a_job_whose_flip_event_is_lost_is_let_go_of() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screen = bench.screen(0);
        let slot = Arc::clone(&screen.slots[0]);
        let held = || Arc::strong_count(slot.framebuffer());
        let before = held();
        let frame = screen.picture.frame();
        let (job, _) = bench.commit(&mut screen, &frame).flatten().unwrap();
        assert!(held() > before);
        machine::wait_until("the end of the job", SECOND * 20, || {
            // The fence is looked at; the event is not handed on.
            bench.device.events().unwrap();
            screen.pipeline.fence_ready(job, Time::now());
            let actions = screen.pipeline.tick(Time::now());
            let mut discarded = actions.iter().filter_map(Action::discarded);
            discarded.any(|(discarded, _)| discarded == job)
        });
        assert_eq!(screen.pipeline.writeback().stats().lost, 0);
        assert_eq!(held(), before);
    });
}

#[test]
fn without_the_clone_the_screen_still_works() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "modeset-writeback=EINVAL,commit:2=EINVAL");
        let mut screens = [bench.screen(0)];
        assert!(!screens[0].pipeline.writeback().is_attached());
        let frame = screens[0].picture.frame();
        let mut refused = 0;
        machine::wait_until("flips", SECOND * 30, || {
            if screens[0].pipeline.may_commit(Time::now()) == Pacing::Go {
                match screens[0].pipeline.commit(&frame, None, Time::now()) {
                    Ok(_) => {}
                    Err(CommitError::Invalid(_)) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            bench.dispatch(&mut screens);
            screens[0].flips >= 10
        });
        assert_eq!(refused, 1);
    });
}

#[test]
fn a_fence_that_never_signals_costs_the_trust_until_probes_prove_the_connector() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "fence:3=never,fence:6=error");
        let mut screens = [bench.screen(0)];
        let frame = screens[0].picture.frame();
        let mut published = Vec::new();
        machine::wait_until("recovery and more", SECOND * 60, || {
            bench.commit(&mut screens[0], &frame);
            for (_, verdict) in bench.dispatch(&mut screens) {
                if let Verdict::Publish { job, .. } = verdict {
                    published.push(job.0);
                }
            }
            screens[0].pipeline.writeback().stats().recoveries > 0 && published.len() > 10
        });
        println!("{:?}", screens[0].actions);
        assert!(!published.contains(&2), "the lost job was published");
        assert!(screens[0]
            .actions
            .contains(&Action::Suspect { lost: JobId(2) }));
        assert!(screens[0].actions.contains(&Action::Recovered));
    });
}

#[test]
fn the_faulty_kernel_under_load_delivers_no_stale_frame_and_keeps_the_display_going() {
    let machine = Machine::default().services(false).kernel(Kernel::Stock);
    machine::boot(machine.cpus(2), |guest| {
        let _busy = [guest.busy_loop(), guest.busy_loop()];
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0)];
        // Another picture with every commit, so that a stale frame is seen: seven, and four slots. Painted once, so
        // that the loop is fast enough to trip the kernel.
        let mut pictures: Vec<Picture> = (0..7)
            .map(|_| Picture::new(&bench.gbm, SIZE, FOURCC))
            .collect();
        for (seed, picture) in pictures.iter_mut().enumerate() {
            picture.paint(seed + 1);
        }
        let mut shown = std::collections::HashMap::new();
        let (mut n, mut published) = (0usize, 0u64);
        let started = std::time::Instant::now();
        machine::wait_until(
            "twenty seconds of display, and a hundred flips",
            SECOND * 100,
            || {
                if screens[0].pipeline.may_commit(Time::now()) == Pacing::Go {
                    let frame = pictures[n % 7].frame();
                    if let Some(job) = bench.commit(&mut screens[0], &frame) {
                        if let Some((job, _)) = job {
                            shown.insert(job, n % 7);
                        }
                        n += 1;
                    }
                }
                for (_, verdict) in bench.dispatch(&mut screens) {
                    match verdict {
                        Verdict::Publish { job, .. } => {
                            published += 1;
                            assert_slot(
                                &screens[0],
                                job,
                                &pictures[shown.remove(&job).unwrap()].bytes,
                            );
                        }
                        Verdict::Discard(job, _) | Verdict::Probe(job) => {
                            shown.remove(&job);
                        }
                    }
                }
                // On a busy machine the hundred flips may take longer; a display that stands still never makes them.
                started.elapsed() > Duration::from_secs(20) && screens[0].flips > 100
            },
        );
        let stats = screens[0].pipeline.writeback().stats();
        println!("flips {} published {published} {stats:?}", screens[0].flips);
        println!("{:?}", screens[0].actions);
        // Whether the kernel jams is its own matter; if it does, it is told.
        let told = screens[0]
            .actions
            .iter()
            .any(|action| matches!(action, Action::Suspect { .. }));
        assert_eq!(told, stats.lost > 0);
    });
}
