//! Copies: their pixels, their limits, and workers that die.

use std::{
    sync::{mpsc, Mutex},
    time::Duration,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl SlotMemory for Bytes {
    fn export(&self) -> io::Result<OwnedFd> {
        Ok(std::fs::File::open("/dev/null")?.into())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        f(&self.0);
        Ok(())
    }

    fn reading(&self) -> Reading {
        Reading::Over
    }
}

#[derive(Clone)]
struct Target {
    layout: TargetLayout,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl CopyTarget for Target {
    fn layout(&self) -> TargetLayout {
        self.layout
    }

    fn with_bytes(&mut self, f: &mut dyn FnMut(&mut [u8])) -> Result<(), CopyError> {
        f(&mut self.bytes.lock().unwrap());
        Ok(())
    }
}

const FRAME: FrameFormat = FrameFormat {
    width: 4,
    height: 3,
    fourcc: DrmFourcc::Xrgb8888,
    modifier: DrmModifier::Invalid,
    stride: 20,
    offset: 8,
};

fn target(fourcc: DrmFourcc) -> Target {
    let layout = TargetLayout {
        width: 4,
        height: 3,
        fourcc,
        stride: 16,
        offset: 4,
    };
    Target {
        layout,
        bytes: Arc::new(Mutex::new(vec![7; 4 + 3 * 16])),
    }
}

/// A lease on a frame of these bytes, and what keeps it alive.
fn lease(bytes: Vec<u8>) -> (OutputCapture, Lease) {
    watched_lease(bytes, Arc::new(|| {}))
}

/// The same; `released` is called at its end.
fn watched_lease(bytes: Vec<u8>, released: Arc<dyn Fn() + Send + Sync>) -> (OutputCapture, Lease) {
    let memory: Arc<dyn SlotMemory> = Arc::new(Bytes(bytes));
    let mut capture = OutputCapture::new(CaptureConfig::default(), REFRESH, released);
    capture
        .set_buffers(FRAME, vec![memory.clone(), memory.clone(), memory], ms(0))
        .unwrap();
    let session = capture.open_session(ClientId(1), COPY);
    capture.request(session, ms(1)).unwrap();
    capture.arm(JobId(1), Producer::Writeback, ms(1)).unwrap();
    capture.committed(&[], Some(JobId(1)));
    capture.complete(JobId(1), ms(1), ms(1));
    match capture.poll(ms(1)).pop().unwrap() {
        CaptureEvent::Deliver { lease, .. } => (capture, lease),
        CaptureEvent::Void { .. } | CaptureEvent::Written { .. } => panic!("no delivery"),
    }
}

/// Pixel (x, y) is the bytes [10 * y + x, 0xa0, 0xb0, 0x11].
fn picture() -> Vec<u8> {
    let mut bytes = vec![0; 8 + 3 * 20];
    for y in 0..3usize {
        for x in 0..4usize {
            let at = 8 + y * 20 + x * 4;
            bytes[at..at + 4].copy_from_slice(&[(10 * y + x) as u8, 0xa0, 0xb0, 0x11]);
        }
    }
    bytes
}

fn copy_with(
    pool: &CopyPool,
    lease: Lease,
    rects: Vec<Rect>,
    target: Box<dyn CopyTarget>,
) -> Result<CopyReport, CopyError> {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| sender.send(result).unwrap());
    pool.submit(CopyJob {
        lease,
        area: None,
        rects,
        target,
        done,
    });
    receiver.recv_timeout(PATIENCE).expect("every copy ends")
}

fn copy(rects: Vec<Rect>, target: &Target) -> Result<CopyReport, CopyError> {
    let pool = CopyPool::new(1).unwrap();
    let (_capture, lease) = lease(picture());
    copy_with(&pool, lease, rects, Box::new(target.clone()))
}

fn pixel(target: &Target, x: usize, y: usize) -> [u8; 4] {
    let bytes = target.bytes.lock().unwrap();
    let at = 4 + y * 16 + x * 4;
    bytes[at..at + 4].try_into().unwrap()
}

#[test]
fn only_the_damaged_pixels_are_written() {
    let target = target(DrmFourcc::Xrgb8888);
    // One rectangle reaches out of the frame.
    let report = copy(vec![rect(1, 1, 2, 1), rect(3, 2, 100, 100)], &target).unwrap();
    assert_eq!(
        report,
        CopyReport {
            bytes: 12,
            rects: 2,
            gpu: false
        }
    );
    assert_eq!(pixel(&target, 1, 1), [11, 0xa0, 0xb0, 0x11]);
    assert_eq!(pixel(&target, 2, 1), [12, 0xa0, 0xb0, 0x11]);
    assert_eq!(pixel(&target, 3, 2), [23, 0xa0, 0xb0, 0x11]);
    let untouched = target
        .bytes
        .lock()
        .unwrap()
        .iter()
        .filter(|byte| **byte == 7)
        .count();
    assert_eq!(untouched, 4 + 3 * 16 - 12);
}

#[test]
fn formats_are_converted_and_what_has_no_alpha_is_opaque() {
    let full = || vec![FRAME.full()];
    for (fourcc, expected) in [
        (DrmFourcc::Xrgb8888, [23, 0xa0, 0xb0, 0x11]),
        (DrmFourcc::Argb8888, [23, 0xa0, 0xb0, 0xff]),
        (DrmFourcc::Xbgr8888, [0xb0, 0xa0, 23, 0x11]),
        (DrmFourcc::Abgr8888, [0xb0, 0xa0, 23, 0xff]),
    ] {
        let target = target(fourcc);
        copy(full(), &target).unwrap();
        assert_eq!(pixel(&target, 3, 2), expected, "{fourcc}");
    }
}

#[test]
fn a_buffer_that_does_not_fit_is_refused_and_not_touched() {
    let good = target(DrmFourcc::Xrgb8888);
    let wrong = |change: fn(&mut TargetLayout)| {
        let mut target = good.clone();
        change(&mut target.layout);
        target
    };
    for target in [
        wrong(|layout| layout.width = 5),
        wrong(|layout| layout.height = 2),
        wrong(|layout| layout.stride = 15),
        wrong(|layout| layout.stride = u32::MAX),
        wrong(|layout| layout.offset = 8),
        wrong(|layout| layout.offset = u32::MAX),
        wrong(|layout| layout.fourcc = DrmFourcc::Rgb565),
    ] {
        let error = copy(vec![FRAME.full()], &target).unwrap_err();
        assert!(error.is_constraints(), "{:?}: {error}", target.layout);
    }
    assert!(good.bytes.lock().unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn a_frame_shorter_than_its_format_is_an_error_and_no_crash() {
    let pool = CopyPool::new(1).unwrap();
    let (_capture, lease) = lease(vec![0; 30]);
    let target = target(DrmFourcc::Argb8888);
    let error = copy_with(&pool, lease, vec![FRAME.full()], Box::new(target)).unwrap_err();
    assert!(matches!(error, CopyError::Io(_)), "{error}");
}

/// A client's memory that misbehaves.
struct Bad(Box<dyn FnMut() -> Result<(), CopyError> + Send>);

impl CopyTarget for Bad {
    fn layout(&self) -> TargetLayout {
        target(DrmFourcc::Xrgb8888).layout
    }

    fn with_bytes(&mut self, _: &mut dyn FnMut(&mut [u8])) -> Result<(), CopyError> {
        (self.0)()
    }
}

#[test]
fn a_worker_survives_targets_that_fail_panic_or_give_nothing() {
    let pool = CopyPool::new(1).unwrap();
    let attempt = |bad: Bad| {
        let (_capture, lease) = lease(picture());
        copy_with(&pool, lease, vec![FRAME.full()], Box::new(bad)).unwrap_err()
    };
    let sigbus = || Err(CopyError::Io(io::Error::other("SIGBUS")));
    assert!(matches!(attempt(Bad(Box::new(sigbus))), CopyError::Io(_)));
    assert!(matches!(
        attempt(Bad(Box::new(|| panic!("on purpose")))),
        CopyError::Panicked
    ));
    assert!(matches!(
        attempt(Bad(Box::new(|| Ok(())))),
        CopyError::Io(_)
    ));
    let (_capture, lease) = lease(picture());
    let good = target(DrmFourcc::Xrgb8888);
    assert!(copy_with(&pool, lease, vec![FRAME.full()], Box::new(good)).is_ok());
}

#[test]
fn a_frame_taken_back_during_its_copy_is_no_copy() {
    let pool = CopyPool::new(1).unwrap();
    let (capture, lease) = lease(picture());
    let (session, seq) = (lease.session(), lease.frame().seq);
    let capture = Mutex::new(capture);
    let taking_back = Bad(Box::new(move || {
        capture.lock().unwrap().void_told(session, seq);
        Ok(())
    }));
    // The target gives no bytes, which is an error of its own; so look at one that was void before it began, too.
    assert!(copy_with(&pool, lease, vec![], Box::new(taking_back)).is_err());
    let (mut capture, lease) = self::lease(picture());
    capture.void_told(lease.session(), lease.frame().seq);
    let good = target(DrmFourcc::Xrgb8888);
    let error = copy_with(&pool, lease, vec![FRAME.full()], Box::new(good)).unwrap_err();
    assert!(matches!(error, CopyError::Void), "{error}");
}

#[test]
fn the_slot_is_free_when_the_end_of_the_copy_is_told() {
    let pool = CopyPool::new(2).unwrap();
    let (mut capture, lease) = lease(picture());
    copy_with(&pool, lease, vec![], Box::new(target(DrmFourcc::Xrgb8888))).unwrap();
    capture.poll(ms(2));
    assert_eq!(capture.stats().held, 0);
}

#[test]
fn a_pool_with_a_copy_that_hangs_refuses_the_surplus_and_still_ends() {
    let pool = CopyPool::new(1).unwrap();
    let (unblock, blocked) = mpsc::channel::<()>();
    let (sender, results) = mpsc::channel();
    let mut captures = Vec::new();
    let mut submit = |target: Box<dyn CopyTarget>| {
        let (capture, lease) = lease(picture());
        captures.push(capture);
        let sender = sender.clone();
        let done = Box::new(move |result: Result<CopyReport, CopyError>| {
            // At the end of the test nobody listens.
            let _ = sender.send(result);
        });
        pool.submit(CopyJob {
            lease,
            area: None,
            rects: vec![],
            target,
            done,
        });
    };
    let (began, beginning) = mpsc::channel();
    submit(Box::new(Bad(Box::new(move || {
        began.send(()).unwrap();
        blocked.recv().ok();
        Ok(())
    }))));
    beginning.recv_timeout(PATIENCE).unwrap();
    for _ in 0..65 {
        submit(Box::new(target(DrmFourcc::Xrgb8888)));
    }
    assert!(matches!(
        results.recv_timeout(PATIENCE),
        Ok(Err(CopyError::Busy))
    ));
    assert!(results.try_recv().is_err(), "the other 64 wait");
    drop(pool);
    for _ in 0..64 {
        assert!(matches!(
            results.recv_timeout(PATIENCE),
            Ok(Err(CopyError::Busy))
        ));
    }
    drop(unblock);
}

#[test]
fn an_area_of_the_frame_becomes_a_picture_of_its_own() {
    let layout = TargetLayout {
        width: 2,
        height: 2,
        ..target(DrmFourcc::Xrgb8888).layout
    };
    let part = |area: Rect, rects: Vec<Rect>| {
        let target = Target {
            layout,
            bytes: Arc::new(Mutex::new(vec![7; 4 + 3 * 16])),
        };
        let pool = CopyPool::new(1).unwrap();
        let (_capture, lease) = lease(picture());
        let (sender, receiver) = mpsc::channel();
        pool.submit(CopyJob {
            lease,
            area: Some(area),
            rects,
            target: Box::new(target.clone()),
            done: Box::new(move |result| sender.send(result).unwrap()),
        });
        (receiver.recv_timeout(PATIENCE).unwrap(), target)
    };
    let (report, target) = part(rect(2, 1, 2, 2), vec![rect(0, 0, 100, 100)]);
    assert_eq!(
        (report.unwrap().bytes, first_bytes(&target)),
        (16, [12, 13, 22, 23])
    );
    let (_, target) = part(rect(2, 1, 2, 2), vec![rect(3, 0, 1, 2)]);
    assert_eq!(first_bytes(&target), [7, 13, 7, 7]);
    for outside in [rect(3, 1, 2, 2), rect(-1, 0, 2, 2), rect(0, 0, 2, 3)] {
        let (report, _) = part(outside, vec![outside]);
        assert!(report.unwrap_err().is_constraints(), "{outside:?}");
    }
}

/// The first bytes of the four pixels of a 2x2 target.
fn first_bytes(target: &Target) -> [u8; 4] {
    [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(x, y)| pixel(target, x, y)[0])
}

#[test]
fn a_copys_target_is_left_before_its_lease_ends_since_the_next_writer_waits_for_that() {
    struct Leaving(Target, mpsc::Sender<&'static str>);

    impl CopyTarget for Leaving {
        fn layout(&self) -> TargetLayout {
            self.0.layout()
        }

        fn with_bytes(&mut self, f: &mut dyn FnMut(&mut [u8])) -> Result<(), CopyError> {
            self.0.with_bytes(f)
        }
    }

    impl Drop for Leaving {
        fn drop(&mut self) {
            self.1.send("target").unwrap();
        }
    }

    let (sender, order) = mpsc::channel();
    let told = Mutex::new(sender.clone());
    let released = Arc::new(move || told.lock().unwrap().send("lease").unwrap());
    let (_capture, lease) = watched_lease(picture(), released);
    let pool = CopyPool::new(1).unwrap();
    let target = Leaving(target(DrmFourcc::Xrgb8888), sender);
    copy_with(&pool, lease, vec![FRAME.full()], Box::new(target)).unwrap();
    assert_eq!(order.try_iter().collect::<Vec<_>>(), ["target", "lease"]);
}
