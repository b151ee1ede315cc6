//! Programs that capture and know nothing of Vitrine, from Debian's packages: what they write is what was drawn.
//!
//! docs/clients.md names the tests of this file.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    clients::{clock, Painter, Picture},
    control::capture_report,
    film::{read, Window},
    machine::{self, Guest, Machine, Signal, SECOND},
    stage::{Setup, Stage},
};

/// The film that wf-recorder is to record.
const PICTURES: usize = 120;
/// The least time from one of its pictures to the next. The machine's one CPU draws, composes, writes back, copies and
/// records; that takes 25 to 30 ms for each flip where nobody else is at work.
const BEAT: Duration = Duration::from_millis(45);
/// Bytes of one picture.
const FRAME: usize = 640 * 480 * 4;

pub fn read_png(path: &Path) -> Picture {
    let file = BufReader::new(File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.bit_depth, png::BitDepth::Eight);
    let samples = info.color_type.samples();
    assert!(samples >= 3, "no colours: {:?}", info.color_type);
    let pixels = bytes[..info.buffer_size()]
        .chunks_exact(samples)
        .map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]));
    Picture {
        width: info.width,
        height: info.height,
        pixels: pixels.collect(),
    }
}

fn grim(guest: &Guest, stage: &Stage<'_>, name: &str, arguments: &[&str]) -> Picture {
    let file = guest.out().join(format!("{name}.png"));
    let mut command = Command::new("grim");
    command.args(arguments).arg(&file);
    stage.spawn(name, command).wait_success(SECOND * 20);
    read_png(&file)
}

pub fn part(of: &Picture, x: u32, y: u32, width: u32, height: u32) -> Picture {
    let place = |i: u32| of.at(x + i % width, y + i / width);
    Picture {
        width,
        height,
        pixels: (0..width * height).map(place).collect(),
    }
}

#[test]
fn grim_takes_the_screen_and_a_region_of_it() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        for n in [3, 500] {
            painter.present(&mut client, n).unwrap();
            let expected = painter.expected();
            grim(guest, &stage, "whole", &[]).assert_same(&expected, "grim");
            grim(guest, &stage, "output", &["-o", "Virtual-1"])
                .assert_same(&expected, "grim -o Virtual-1");
            let region = part(&expected, 100, 50, 201, 99);
            grim(guest, &stage, "region", &["-g", "100,50 201x99"])
                .assert_same(&region, "grim -g '100,50 201x99'");
        }
        assert_eq!(stage.finish("Virtual-1").get("lost"), 0);
    });
}

#[test]
fn grim_takes_a_screen_with_a_scale() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .config("[[output]]\nconnector = \"*\"\nmode = \"640x480\"\nscale = 2\n")
            .start(guest);
        let mut client = stage.client();
        let mut painter = Painter::new(&mut client, Default::default()).unwrap();
        painter.present(&mut client, 9).unwrap();
        let shown = crate::screen::picture(&mut client);
        grim(guest, &stage, "whole", &[]).assert_same(&shown, "grim at scale 2");
        // In logical pixels.
        let region = part(&shown, 20, 40, 60, 80);
        grim(guest, &stage, "region", &["-g", "10,20 30x40"]).assert_same(&region, "a region");
        stage.finish("Virtual-1");
    });
}

/// Paints so many pictures more, each when the frame callback of the one before has come and this time is over; waits
/// until all are shown.
fn show(window: &mut Window, pictures: usize, beat: Duration) {
    let end = window.painted + pictures;
    let late = clock::now() + SECOND * 60 + beat * pictures as u32;
    let mut next = clock::now();
    while window.painted < end {
        if clock::now() < next {
            let rest = next.saturating_sub(clock::now());
            window.client.dispatch_for(rest).unwrap();
            continue;
        }
        let painted = window.painted;
        window.turn(Duration::from_millis(5));
        if window.painted > painted {
            next = clock::now() + beat;
        }
        assert!(clock::now() < late, "{} of {end} pictures", window.painted);
    }
    let (painter, client) = (&mut window.painter, &mut window.client);
    painter.wait_shown(client, end - 1).unwrap();
}

#[test]
fn wf_recorder_records_nine_of_ten_flips() {
    // The film is in memory.
    let machine = Machine::default().memory_mib(1536);
    machine::boot(machine.timeout(SECOND * 400), |guest| {
        let stage = Setup::default().start(guest);
        let mut window = Window::open(&stage, None, 1);
        show(&mut window, 1, BEAT);
        let film = Path::new("/tmp/film.nut");
        let mut command = Command::new("wf-recorder");
        // As it comes: what is measured is the capture and not an encoder.
        command.args(["-c", "rawvideo", "-x", "bgr0", "-m", "nut", "-f"]);
        let mut recorder = stage.spawn("wf-recorder", {
            command.arg(film);
            command
        });
        stage.wait_for_capture(SECOND * 20);
        let written = || std::fs::metadata(film).map_or(0, |film| film.len() / FRAME as u64);
        // It makes its encoder when it has its first picture, and takes no more than 16 until that is done. The first use
        // of each of its buffers is slow.
        let mut beat = BEAT;
        machine::wait_until("the recorder's first pictures", SECOND * 120, || {
            let before = capture_report(guest);
            show(&mut window, 8, beat);
            // No quicker than this machine can write what it shows.
            let in_time = capture_report(guest).late == before.late;
            if !in_time {
                beat = (beat * 3 / 2).min(SECOND / 2);
            }
            written() > 32 && in_time
        });
        let first = window.shown().len();
        let before = capture_report(guest);
        let started = clock::now();
        show(&mut window, PICTURES, beat);
        let took = clock::now() - started;
        let flips = window.shown().split_off(first);
        let after = capture_report(guest);
        recorder.assert_running();
        // When it is told to end it forgets what it has not written yet.
        let mut last = 0;
        machine::wait_until("the recorder to be through", SECOND * 40, || {
            std::thread::sleep(SECOND / 5);
            std::mem::replace(&mut last, written()) == written()
        });
        recorder.signal(Signal::INT);
        // It waits for a change and only then sees that it shall end.
        show(&mut window, 1, BEAT);
        recorder.wait_success(SECOND * 30);

        let frames = frames_of(guest, film);
        let summary = stage.finish("Virtual-1");
        let in_film = |n: &u32| frames.iter().any(|frame| frame.1 == *n);
        let missing: Vec<u32> = flips.iter().map(|flip| flip.1).collect();
        let missing: Vec<u32> = missing.into_iter().filter(|n| !in_film(n)).collect();
        // What the machine was too slow to write in time is not believed, and nobody is given it. What Vitrine did not try
        // to capture is no excuse.
        let late = (after.late + after.lost - before.late - before.lost) as usize;
        let missed = after.skipped.connector - before.skipped.connector;
        println!(
            "{} flips in {took:?}, {beat:?} apart, {late} late, {missed} without a job, not in the film: {missing:?}; {summary:?}",
            flips.len()
        );
        assert_eq!(flips.len(), PICTURES);
        assert!(missing.len() * 10 <= flips.len() + 10 * late, "{missing:?}");
        assert!(missing.len() * 2 <= flips.len(), "{missing:?}");
        // By the connector into the ring, and copied from there: what is measured is no stand-in.
        assert_eq!(summary.get("rendered") + summary.get("passthrough"), 0);
        assert!(summary.get("written_back") >= frames.len() as u64);
        assert_is_true(&frames, &window.shown());
    });
}

/// Each frame shows a later picture than the one before, and its time is one at which that picture was shown; for most
/// of them that of its first flip.
#[track_caller]
fn assert_is_true(frames: &[(Duration, u32)], shown: &[(Duration, u32)]) {
    assert!(
        frames.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1),
        "frames twice or out of order: {frames:?}"
    );
    let place = |n: u32| {
        let place = shown.iter().position(|flip| flip.1 == n);
        place.unwrap_or_else(|| panic!("picture {n} was never shown"))
    };
    let begins = |(time, n): &(Duration, u32)| shown[place(*n)].0 - *time;
    let mut begin: Vec<Duration> = frames.iter().map(begins).collect();
    begin.sort_unstable();
    let begin = begin[begin.len() / 2];
    // The film counts in microseconds.
    let slack = Duration::from_micros(10);
    for (time, n) in frames {
        let (at, place) = (begin + *time + slack, place(*n));
        let until = shown.get(place + 1).map(|next| next.0);
        assert!(
            shown[place].0 <= at && until.is_none_or(|until| at < until + slack),
            "picture {n} was shown from {:?} to {until:?}, the film says {at:?}",
            shown[place].0
        );
    }
}

/// Of all frames of a film that ffprobe accepts: the time since the first one, and the number of the picture.
fn frames_of(guest: &Guest, film: &Path) -> Vec<(Duration, u32)> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "v:0", "-show_frames"]);
    command.args(["-show_entries", "frame=pts_time,width,height"]);
    command.args(["-of", "csv=p=0"]).arg(film);
    let text = guest.run("ffprobe", command).unwrap();
    let time = |line: &str| {
        let mut words = line.split(',');
        let time: f64 = words.next()?.parse().ok()?;
        (words.next() == Some("640") && words.next() == Some("480")).then_some(time)
    };
    let times = text.lines().map(|line| time(line).expect(line));
    let times: Vec<f64> = times.collect();

    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(film);
    command.args(["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt"]);
    command.args(["bgr0", "-"]);
    let log = File::create(guest.out().join("ffmpeg.log")).unwrap();
    let command = command.stdout(Stdio::piped()).stderr(log);
    let mut ffmpeg = command.spawn().unwrap();
    let mut pipe = ffmpeg.stdout.take().unwrap();
    let mut bytes = vec![0; FRAME];
    let mut frames = Vec::new();
    for time in &times {
        pipe.read_exact(&mut bytes).unwrap();
        let number = read(&bytes, (640, 480), 640 * 4).unwrap();
        frames.push((Duration::from_secs_f64(time - times[0]), number));
    }
    assert_eq!(pipe.read(&mut bytes).unwrap(), 0, "more than ffprobe found");
    assert!(ffmpeg.wait().unwrap().success());
    frames
}
