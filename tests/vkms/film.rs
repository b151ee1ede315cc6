//! A window that never stands still and cameras that look at it: every captured frame is held against what
//! wp_presentation said of that very moment. A frame that shows anything else is the worst fault there is.

use std::{collections::HashMap, time::Duration};

use crate::{
    clients::{
        buffers::XRGB8888,
        clock,
        copy_capture::PendingCopy,
        export_dmabuf::{CancelReason, MappedFrame},
        presentation::Shown,
        Buffer, Client, CopySession, ExportedFrame, Exporter, MemoryKind, OutputInfo, Painter,
        PainterOptions, ScreencopyFrame, ScreencopyManager,
    },
    stage::Stage,
};

/// How long a film may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One line of picture `n`: its number in every second pixel, the opposite in the others. All lines are the same, so that
/// drawing and comparing are quick: what is wanted here is many frames at the full rate.
fn line(n: u32, width: usize) -> Vec<u8> {
    let (number, opposite) = (n | 0xff00_0000, !n | 0xff00_0000);
    let pixels = [number.to_le_bytes(), opposite.to_le_bytes()].concat();
    pixels.repeat(width.div_ceil(2))[..width * 4].to_vec()
}

/// Reads a picture's number and looks at all its lines.
pub fn read(bytes: &[u8], (width, height): (u32, u32), stride: u32) -> Result<u32, String> {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
    let n = number(0);
    let expected = line(n, width as usize);
    // The fourth byte is nobody's.
    let lines = bytes.chunks_exact(stride as usize).take(height as usize);
    let same = |line: &[u8]| {
        let (a, b) = (&line[..expected.len()], &expected[..]);
        a == b || (0..a.len()).all(|i| i % 4 == 3 || a[i] == b[i])
    };
    match lines.enumerate().find(|(_, line)| !same(line)) {
        None => Ok(n),
        Some((y, _)) => Err(format!(
            "picture {n:#x} at the top, and line {y} begins with {:#x}",
            number(y * stride as usize)
        )),
    }
}

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The camera.
    pub by: &'static str,
    /// The compositor's word for when it was on the screen.
    pub presented: Duration,
    /// The number of the picture that it shows, or what is wrong with its pixels.
    pub shows: Result<u32, String>,
}

/// A window on one output.
pub struct Window {
    pub client: Client,
    pub painter: Painter,
    pub output: OutputInfo,
    next: u32,
    pub painted: usize,
}

impl Window {
    /// A full-screen window whose first picture is `first`, on the named output or the first one.
    pub fn open(stage: &Stage<'_>, output: Option<&str>, first: u32) -> Self {
        let mut client = stage.client();
        let output = client.output(output).unwrap();
        let options = PainterOptions {
            output: Some(output.proxy.clone()),
            buffers: 3,
            ..Default::default()
        };
        let painter = Painter::new(&mut client, options).unwrap();
        Self {
            client,
            painter,
            output,
            next: first,
            painted: 0,
        }
    }

    /// Paints the next picture if the last one's frame callback has come.
    pub fn turn(&mut self, wait: Duration) {
        self.client.dispatch_for(wait).unwrap();
        if self.painter.is_frame_done() {
            let (n, size) = (self.next, self.painter.size());
            let line = line(n, size.0 as usize);
            let draw = |bytes: &mut [u8], stride: u32| {
                for to in bytes.chunks_exact_mut(stride as usize) {
                    to[..line.len()].copy_from_slice(&line);
                }
            };
            let painter = &mut self.painter;
            let shown = painter.show_bytes(&mut self.client, n, size, None, draw);
            shown.unwrap();
            self.next += 1;
            self.painted += 1;
        }
    }

    /// When which picture was shown, in order.
    pub fn shown(&self) -> Vec<(Duration, u32)> {
        let feedback = self.painter.feedback();
        let shown = feedback.iter().filter_map(|f| match f.shown {
            Shown::Presented { time, .. } => Some((time, f.n)),
            Shown::Waiting | Shown::Discarded => None,
        });
        shown.collect()
    }

    /// The pictures whose word was lost.
    pub fn lost(&self) -> Vec<u32> {
        let feedback = self.painter.feedback();
        let lost = feedback
            .iter()
            .filter(|f| matches!(f.shown, Shown::Discarded));
        lost.map(|f| f.n).collect()
    }

    /// The longest time from one shown picture to the next: not to be asserted, but worth a look.
    pub fn longest_gap(&self) -> Duration {
        let shown = self.shown();
        let gaps = shown.windows(2).map(|pair| pair[1].0 - pair[0].0);
        gaps.max().unwrap_or_default()
    }

    /// Pictures that were replaced before they were shown.
    pub fn discarded(&self) -> usize {
        let feedback = self.painter.feedback();
        feedback
            .iter()
            .filter(|f| f.shown == Shown::Discarded)
            .count()
    }
}

/// A camera by screencopy.
struct Third {
    /// Lives on from frame to frame: with its last object the client would be a new one, that is given the newest frame again.
    _manager: ScreencopyManager,
    frame: Option<ScreencopyFrame>,
    buffer: Option<Buffer>,
    asked: bool,
}

/// Two cameras on one output, one for each protocol, each always with a request under way; a third one if it is wanted.
pub struct Cameras {
    pub client: Client,
    output: OutputInfo,
    cursor: bool,
    exporter: Exporter,
    export: Option<ExportedFrame>,
    pub session: CopySession,
    buffer: Buffer,
    copy: Option<PendingCopy>,
    third: Option<Third>,
    /// Mappings of the ring's buffers: making one takes longer than reading it.
    mapped: HashMap<u64, MappedFrame>,
    pub taken: Vec<Taken>,
    pub cancelled: Vec<CancelReason>,
    pub failed: Vec<String>,
}

impl Cameras {
    /// Begins to look at the named output, or the first one.
    pub fn open(stage: &Stage<'_>, output: Option<&str>) -> Self {
        Self::open_view(stage, output, true)
    }

    /// The same, with the cursor in the pictures or without it.
    pub fn open_view(stage: &Stage<'_>, output: Option<&str>, cursor: bool) -> Self {
        let mut client = stage.client();
        let output = client.output(output).unwrap();
        let session = CopySession::open(&mut client, &output, cursor).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        Self {
            exporter: Exporter::new(&client).unwrap(),
            client,
            output,
            cursor,
            export: None,
            session,
            buffer,
            copy: None,
            third: None,
            mapped: HashMap::new(),
            taken: Vec::new(),
            cancelled: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Looks by screencopy, too.
    pub fn with_screencopy(&mut self) {
        self.third = Some(Third {
            _manager: self.client.bind(3, ()).unwrap(),
            frame: None,
            buffer: None,
            asked: false,
        });
    }

    /// Whether both cameras were told that there is nothing more to see.
    pub fn are_over(&self) -> bool {
        self.cancelled.contains(&CancelReason::Permanent) && self.session.record().stopped
    }

    /// Takes what has come and asks for more.
    pub fn turn(&mut self) {
        self.client
            .dispatch_for(Duration::from_micros(500))
            .unwrap();
        self.harvest();
    }

    /// Takes what was told and dispatched already, and asks for more.
    pub fn harvest(&mut self) {
        self.turn_export();
        self.turn_copy();
        if let Some(third) = self.third.take() {
            self.third = Some(self.turn_screencopy(third));
        }
    }

    fn turn_screencopy(&mut self, mut third: Third) -> Third {
        let Some(frame) = third.frame.take() else {
            let begun = ScreencopyFrame::begin(&self.client, &self.output, self.cursor);
            third.frame = Some(begun.unwrap());
            third.asked = false;
            return third;
        };
        match (frame.ended(), frame.size()) {
            (Some(None), _) => self.failed.push("screencopy".to_owned()),
            (Some(Some(presented)), Some(size)) => {
                let buffer = third.buffer.as_ref().unwrap();
                let shows = buffer.read(|bytes| read(bytes, size, buffer.stride));
                self.taken("screencopy", presented, shows);
            }
            (None, Some((width, height))) if !third.asked => {
                let client = &mut self.client;
                let buffer = third.buffer.get_or_insert_with(|| {
                    Buffer::new(client, MemoryKind::Shm, width, height, XRGB8888).unwrap()
                });
                frame.proxy.copy(&buffer.proxy);
                self.client.flush().unwrap();
                third.asked = true;
                third.frame = Some(frame);
            }
            _ => third.frame = Some(frame),
        }
        third
    }

    fn turn_export(&mut self) {
        if self.cancelled.contains(&CancelReason::Permanent) {
            return;
        }
        let Some(frame) = self.export.take() else {
            let asked = self
                .exporter
                .request(&mut self.client, &self.output, self.cursor);
            self.export = Some(asked.unwrap());
            return;
        };
        if let Some(reason) = frame.cancelled() {
            self.cancelled.push(reason);
        } else if frame.is_ready() {
            let size = frame.size();
            let mapped = self.mapped.entry(frame.buffer_id());
            let mapped = mapped.or_insert_with(|| frame.map().unwrap());
            let shows = mapped.read(|bytes, stride| read(bytes, size, stride));
            self.taken("export", frame.presented(), shows);
        } else {
            self.export = Some(frame);
        }
    }

    fn turn_copy(&mut self) {
        if self.session.record().stopped && self.copy.is_none() {
            return;
        }
        let Some(copy) = self.copy.take() else {
            let asked = self.session.request(&mut self.client, &self.buffer, &[]);
            self.copy = Some(asked.unwrap());
            return;
        };
        match copy.ended() {
            None => self.copy = Some(copy),
            Some(Err(reason)) => self.failed.push(format!("{reason:?}")),
            Some(Ok(presented)) => {
                let buffer = &self.buffer;
                let size = (buffer.width, buffer.height);
                let shows = buffer.read(|bytes| read(bytes, size, buffer.stride));
                self.taken("copy", presented, shows);
            }
        }
    }

    fn taken(&mut self, by: &'static str, presented: Duration, shows: Result<u32, String>) {
        self.taken.push(Taken {
            by,
            presented,
            shows,
        });
    }

    /// When frames were on the screen that were taken, of those that were there after `time`. Whoever takes a picture late,
    /// since the machine is busy, still has one of before.
    pub fn presented_after(&self, time: Duration) -> Vec<Duration> {
        let presented = self.taken.iter().map(|taken| taken.presented);
        presented.filter(|at| *at > time).collect()
    }

    /// Frames taken by one camera.
    pub fn count(&self, by: &str) -> usize {
        self.taken.iter().filter(|taken| taken.by == by).count()
    }

    /// Holds every frame against what the compositor said was shown at its time. Frames from before the first picture
    /// do not count. Where several windows were on the output, a frame must show what one of them showed then.
    ///
    /// # Panics
    /// Where they do not agree, naming all frames that lie.
    #[track_caller]
    pub fn assert_true(&self, windows: &mut [&mut Window]) {
        self.assert_true_or(windows, &[]);
    }

    /// The same where a window came from an output that is gone. A picture that it drew for that output, and whose word
    /// was lost with it (`moved`), is then the first that is seen here.
    #[track_caller]
    pub fn assert_true_or(&self, windows: &mut [&mut Window], moved: &[u32]) {
        let known = windows.iter_mut().map(|window| {
            // A frame comes after the word of its flip, but to another connection.
            window.client.roundtrip().unwrap();
            window.shown()
        });
        let shown: Vec<_> = known.collect();
        let mut lies = Vec::new();
        for taken in &self.taken {
            let at_the_time = |shown: &Vec<(Duration, u32)>| {
                let before = shown.partition_point(|(time, _)| *time <= taken.presented);
                before.checked_sub(1).map(|at| shown[at].1)
            };
            let expected: Vec<u32> = shown.iter().filter_map(at_the_time).collect();
            let shows = |n: &u32| taken.shows.as_ref() == Ok(n);
            let known = expected.iter().chain(moved).any(shows);
            if !expected.is_empty() && !known {
                lies.push((expected, taken));
            }
        }
        assert!(
            lies.is_empty(),
            "{} of {} frames show what was not on the screen; the first (expected, taken): {:?}",
            lies.len(),
            self.taken.len(),
            &lies[..lies.len().min(5)]
        );
        for by in ["export", "copy", "screencopy"] {
            let mine = self.taken.iter().filter(|taken| taken.by == by);
            let times: Vec<_> = mine.map(|taken| taken.presented).collect();
            assert!(
                times.is_sorted_by(|a, b| a < b),
                "{by}: frames out of order"
            );
        }
    }
}

/// A window with cameras on the same output.
pub struct Film {
    pub window: Window,
    pub cameras: Cameras,
}

impl Film {
    /// On the named output, or the first.
    pub fn begin(stage: &Stage<'_>, output: Option<&str>, first: u32) -> Self {
        Self {
            window: Window::open(stage, output, first),
            cameras: Cameras::open(stage, output),
        }
    }

    /// One turn of all.
    pub fn turn(&mut self) {
        self.window.turn(Duration::from_millis(1));
        self.cameras.turn();
    }

    /// Goes on until `enough`.
    ///
    /// # Panics
    /// If that does not come in a minute.
    #[track_caller]
    pub fn roll_until(&mut self, what: &str, enough: impl FnMut(&mut Self) -> bool) {
        self.roll_long(PATIENCE, what, enough);
    }

    /// The same with another patience.
    #[track_caller]
    pub fn roll_long(
        &mut self,
        patience: Duration,
        what: &str,
        mut enough: impl FnMut(&mut Self) -> bool,
    ) {
        let end = clock::now() + patience;
        while !enough(self) {
            self.turn();
            assert!(
                clock::now() < end,
                "waited in vain for {what}: {} pictures painted, {} shown, {} exported, {} copied",
                self.window.painted,
                self.window.shown().len(),
                self.cameras.count("export"),
                self.cameras.count("copy"),
            );
        }
    }

    /// Goes on until so many more pictures were painted.
    #[track_caller]
    pub fn roll(&mut self, pictures: usize) {
        let end = self.window.painted + pictures;
        self.roll_until("the painter", |film| film.window.painted >= end);
    }

    /// Goes on until so many more pictures were on the screen.
    #[track_caller]
    pub fn show(&mut self, pictures: usize) {
        let end = self.window.shown().len() + pictures;
        self.roll_until("shown pictures", |film| film.window.shown().len() >= end);
    }

    /// Goes on until each camera has so many more frames.
    #[track_caller]
    pub fn shoot(&mut self, frames: usize) {
        let count = |film: &Self| ["export", "copy"].map(|by| film.cameras.count(by));
        let [export, copy] = count(self).map(|n| n + frames);
        self.roll_until("captured frames", |film| {
            let [exported, copied] = count(film);
            exported >= export && copied >= copy
        });
    }

    /// Ends: the last picture is shown, all frames are held against the truth. Gives the number of pictures shown.
    #[track_caller]
    pub fn cut(mut self) -> (usize, Cameras) {
        let last = self.window.painter.feedback().len() - 1;
        let window = &mut self.window;
        window.painter.wait_shown(&mut window.client, last).unwrap();
        self.cameras.assert_true(&mut [&mut self.window]);
        println!(
            "{}: {} painted, {} shown, {} discarded, longest gap {:?}, {} exported, {} copied",
            self.window.output.name,
            self.window.painted,
            self.window.shown().len(),
            self.window.discarded(),
            self.window.longest_gap(),
            self.cameras.count("export"),
            self.cameras.count("copy"),
        );
        (self.window.shown().len(), self.cameras)
    }
}

/// A log is a file on the host: not to be read at each turn.
pub fn seldom(mut check: impl FnMut() -> bool) -> impl FnMut() -> bool {
    let mut next = clock::now();
    move || {
        if clock::now() < next {
            return false;
        }
        next = clock::now() + Duration::from_millis(100);
        check()
    }
}
