//! Rights that are taken away while they are used, and the mark that says that they are. `access` has who has which.

use std::{collections::BTreeMap, fs, sync::Arc};

use wayland_client::Proxy;
use wayland_protocols::ext::{
    foreign_toplevel_list::v1::client::ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1 as ToplevelList,
    image_capture_source::v1::client::ext_image_capture_source_v1::ExtImageCaptureSourceV1,
};

use crate::{
    clients::{
        copy_capture::{picture_of, FailureReason, PendingCopy, SessionRecord},
        export_dmabuf::{CancelReason, MappedFrame},
        identify,
        picture::identify_all,
        Buffer, Client, CopyOutcome, CopySession, ExportOutcome, Exporter, MemoryKind,
        PainterOptions, Picture, Rect, ScreencopyFrame,
    },
    machine::{self, vkms_crc, Guest, Machine, Signal, SECOND},
    stage::{Setup, Stage, Summary},
    toplevels::{is_open, source, Listed},
};

/// What shows the screen, or what is on it.
pub const CAPTURE: [&str; 6] = [
    "ext_output_image_capture_source_manager_v1",
    "ext_foreign_toplevel_image_capture_source_manager_v1",
    "ext_foreign_toplevel_list_v1",
    "ext_image_copy_capture_manager_v1",
    "zwlr_export_dmabuf_manager_v1",
    "zwlr_screencopy_manager_v1",
];

/// What locks and unlocks the session, and what switches outputs: each a right of its own.
pub const OTHERS: [&str; 2] = [
    "ext_session_lock_manager_v1",
    "zwlr_output_power_manager_v1",
];

pub fn sees(client: &Client, globals: &[&str]) -> Vec<bool> {
    let sees = |global: &&str| client.version_of(global).is_some();
    globals.iter().map(sees).collect()
}

/// Writes another configuration.
pub fn rewrite(guest: &Guest, access: &str) {
    let text = format!("{access}\n[[output]]\nconnector = \"*\"\nmode = \"640x480\"\n");
    fs::write(guest.out().join("compositor.toml"), text).unwrap();
}

/// Rewrites the configuration and has vitrine read it.
pub fn reload(guest: &Guest, stage: &mut Stage<'_>, access: &str, answer: &str) {
    rewrite(guest, access);
    let before = stage.vitrine.log().matches(answer).count();
    stage.vitrine.signal(Signal::HUP);
    machine::wait_until(answer, SECOND * 20, || {
        stage.vitrine.log().matches(answer).count() > before
    });
}

const OPEN: &str = "[access]\nprivileged_socket = 'wayland-privileged'\n";
const CLOSED: &str = "[access]\nprivileged_socket = 'wayland-privileged'\ndefault = 'deny'\n";

/// A client that has every slot mapped that it could get hold of, and waits for more.
struct Captor {
    client: Client,
    exporter: Exporter,
    maps: BTreeMap<u64, MappedFrame>,
}

impl Captor {
    fn capture(&mut self) -> Picture {
        let output = self.client.output(None).unwrap();
        let frame = self
            .exporter
            .capture(&mut self.client, &output, true)
            .unwrap()
            .frame();
        let picture = frame.picture();
        self.maps
            .entry(frame.buffer_id())
            .or_insert_with(|| frame.map().unwrap());
        picture
    }

    fn pictures(&self) -> Vec<Picture> {
        self.maps.values().map(MappedFrame::picture).collect()
    }
}

fn captor(client: Client) -> Captor {
    Captor {
        exporter: Exporter::new(&client).unwrap(),
        client,
        maps: BTreeMap::new(),
    }
}

#[test]
fn whoever_loses_the_right_sees_not_one_further_pixel_while_others_go_on() {
    machine::boot(Machine::default(), |guest| {
        let summary = revoke(guest, "", 4);
        assert_eq!(summary.get("rendered"), 0);
    });
}

#[test]
fn whoever_loses_the_right_sees_not_one_further_pixel_of_the_screens_own_buffers_either() {
    machine::boot(Machine::default(), |guest| {
        // Two take turns while nobody holds one.
        let summary = revoke(guest, "[capture]\nproducer = 'render'\n", 2);
        assert!(summary.get("leased") >= 60);
        // What was on the screen when the rules changed is copied for whoever has the right now.
        assert!(summary.get("rendered_bytes") <= 2 * 640 * 480 * 4);
    });
}

fn revoke(guest: &Guest, lines: &str, buffers: usize) -> Summary {
    let mut stage = Setup::default().with(lines).with(OPEN).start(guest);
    let (mut drawer, mut painter) = stage.painter();
    let mut other = captor(Client::connect("wayland-privileged").unwrap());
    // It has a session all the time: the end of all captures would be something else.
    other.capture();
    let mut loser = captor(stage.client());
    let output = loser.client.output(None).unwrap();
    let session = CopySession::open(&mut loser.client, &output, true).unwrap();
    let buffer = session.buffer(&mut loser.client, MemoryKind::Shm).unwrap();
    let mut n = 0;
    while loser.maps.len() < buffers {
        n += 1;
        assert!(n < 100, "the ring shows only {} slots", loser.maps.len());
        painter.present(&mut drawer, n).unwrap();
        loser.capture();
    }
    session
        .capture(&mut loser.client, &buffer, &[])
        .unwrap()
        .frame();
    let held = loser
        .exporter
        .capture(&mut loser.client, &output, true)
        .unwrap()
        .frame();
    let waiting = loser
        .exporter
        .request(&mut loser.client, &output, true)
        .unwrap();
    let copying = session.request(&mut loser.client, &buffer, &[]).unwrap();
    loser.client.roundtrip().unwrap();

    reload(guest, &mut stage, CLOSED, "access rules changed");
    other.maps.clear();
    // It has not read yet that the globals are gone: what it binds is no error, and gives nothing.
    let late = Exporter::new(&loser.client).unwrap();
    let late = late.capture(&mut loser.client, &output, true).unwrap();
    assert!(matches!(
        late,
        ExportOutcome::Cancelled(CancelReason::Permanent)
    ));
    loser.client.roundtrip().unwrap();
    assert_eq!(held.cancelled(), Some(CancelReason::Permanent));
    // The last answer may have been on its way; what there is of it is of the time before.
    assert_eq!(waiting.cancelled(), Some(CancelReason::Permanent));
    let stopped: SessionRecord = session.record();
    assert!(stopped.stopped);
    let end = copying.wait(&mut loser.client, &buffer).unwrap();
    if let CopyOutcome::Ready(frame) = &end {
        assert_eq!(identify(&frame.picture), Some(n));
    } else {
        assert!(matches!(end, CopyOutcome::Failed(FailureReason::Stopped)));
    }
    assert_eq!(sees(&loser.client, &CAPTURE), [false; 6]);
    assert_eq!(sees(&loser.client, &OTHERS), [false; 2]);
    assert_eq!(sees(&other.client, &CAPTURE), [true; 6]);
    assert_eq!(sees(&other.client, &OTHERS), [true; 2]);

    // The next picture of another client: the job that was in flight is over.
    let last = n;
    n += 1;
    painter.present(&mut drawer, n).unwrap();
    while identify(&other.capture()) != Some(n) {}
    let kept = loser.pictures();
    let copied = crate::clients::copy_capture::picture_of(&buffer);
    for picture in &kept {
        let shown = identify_all(picture);
        assert!(
            shown.iter().all(|shown| *shown <= last),
            "{shown:?} after {last}"
        );
    }
    for _ in 0..60 {
        n += 1;
        painter.present(&mut drawer, n).unwrap();
        while identify(&other.capture()) != Some(n) {}
        for (now, then) in loser.pictures().iter().zip(&kept) {
            now.assert_same(then, &format!("an old mapping at picture {n}"));
        }
    }
    let overlap = other.maps.keys().filter(|id| loser.maps.contains_key(id));
    assert_eq!(overlap.count(), 0, "the ring is still the old one");
    crate::clients::copy_capture::picture_of(&buffer).assert_same(&copied, "the copy's buffer");
    let more = session.request(&mut loser.client, &buffer, &[]).unwrap();
    let end = more.wait(&mut loser.client, &buffer).unwrap();
    assert!(matches!(end, CopyOutcome::Failed(FailureReason::Stopped)));

    // A file that is wrong changes nothing; one that allows again gives everything back.
    reload(
        guest,
        &mut stage,
        "[access]\ndefault = 'nobody'\n",
        "access rules stay as they are",
    );
    loser.client.roundtrip().unwrap();
    assert_eq!(sees(&loser.client, &CAPTURE), [false; 6]);
    assert_eq!(sees(&loser.client, &OTHERS), [false; 2]);
    assert_eq!(identify(&other.capture()), Some(n));
    reload(guest, &mut stage, OPEN, "access rules changed");
    loser.client.roundtrip().unwrap();
    assert_eq!(sees(&loser.client, &CAPTURE), [true; 6]);
    assert_eq!(sees(&loser.client, &OTHERS), [true; 2]);
    let mut again = captor(loser.client);
    assert_eq!(identify(&again.capture()), Some(n));
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("modesets"), 1);
    assert_eq!(summary.get("lost"), 0);
    summary
}

#[test]
fn the_mark_is_on_the_screen_while_somebody_captures_and_in_the_capture_too() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\nindicator = 'mark'\n")
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 9).unwrap();
        let plain = painter.expected();
        let mut marked = plain.clone();
        marked.overlay(&Picture::filled(8, 8, 0x00ff_0000), 640 - 8, 0);
        let mut crcs = guest.crc(0).unwrap();
        assert_eq!(
            crcs.next_frame().unwrap().value,
            vkms_crc(&plain.to_bytes())
        );

        let mut capturer = stage.client();
        let output = capturer.output(None).unwrap();
        let session = CopySession::open(&mut capturer, &output, true).unwrap();
        let buffer = session.buffer(&mut capturer, MemoryKind::Shm).unwrap();
        let first = session
            .capture(&mut capturer, &buffer, &[])
            .unwrap()
            .frame();
        first.picture.assert_same(&marked, "the first frame");
        let crc = vkms_crc(&marked.to_bytes());
        machine::wait_until("the mark", SECOND * 20, || {
            crcs.next_frame().unwrap().value == crc
        });

        // The mark stands still: a change elsewhere does not damage it.
        let part = Rect::new(64, 100, 64, 50);
        painter.paint_part(&mut client, 10, part).unwrap();
        let second = session
            .capture(&mut capturer, &buffer, &[part])
            .unwrap()
            .frame();
        assert_eq!(second.damage, [part]);

        drop((session, capturer));
        let crc = vkms_crc(&painter.expected().to_bytes());
        machine::wait_until("its end", SECOND * 20, || {
            crcs.next_frame().unwrap().value == crc
        });
        drop(crcs);
        stage.finish("Virtual-1");
    });
}

#[test]
fn screencopy_and_a_windows_source_show_not_one_further_pixel_either() {
    machine::boot(Machine::default(), revoke_copies);
}

fn revoke_copies(guest: &Guest) {
    let mut stage = Setup::default().with(OPEN).start(guest);
    let (mut drawer, mut painter) = stage.painter_with(PainterOptions {
        app_id: "drawer".to_owned(),
        ..Default::default()
    });
    painter.present(&mut drawer, 1).unwrap();
    let mut other = Client::connect("wayland-privileged").unwrap();
    let output = other.output(None).unwrap();
    for round in 1..=4 {
        let last = round * 100;
        let loser = Loser::new(&stage, round % 2 == 0, |_| {
            painter.paint(&mut drawer, last).unwrap();
            drawer.roundtrip().unwrap();
        });
        reload(guest, &mut stage, CLOSED, "access rules changed");
        let mut loser = loser.after();
        for n in last + 1..last + 12 {
            painter.present(&mut drawer, n).unwrap();
            let seen = ScreencopyFrame::capture(&mut other, &output, true).unwrap();
            assert_eq!(identify(&seen.unwrap()), Some(n), "others do not go on");
            loser.assert_blind(&format!("at picture {n}"));
        }
        drop(loser);
        reload(guest, &mut stage, OPEN, "access rules changed");
    }
    stage.finish("Virtual-1");
}

/// A client with something under way when its right goes: frames that wait, may be copied at that moment, are announced only.
struct Loser {
    client: Client,
    screencopies: [ScreencopyFrame; 3],
    standing: Option<ScreencopyFrame>,
    session: CopySession,
    buffer: Buffer,
    waiting: Option<PendingCopy>,
    window: ExtImageCaptureSourceV1,
    _list: ToplevelList,
    kept: Vec<Picture>,
}

impl Loser {
    fn new(stage: &Stage<'_>, wait: bool, change: impl FnOnce(&Stage<'_>)) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let listed = Listed::default();
        let list = client.bind(1, Arc::clone(&listed)).unwrap();
        let window = source(&mut client, &listed, "drawer");
        let session = CopySession::open_source(&mut client, &window, false).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        session.capture(&mut client, &buffer, &[]).unwrap().frame();
        let announced = |_| ScreencopyFrame::announced(&mut client, &output, true).unwrap();
        let screencopies = [0, 1, 2].map(announced).map(Option::unwrap);
        screencopies[0].ask(&client, true).unwrap();
        screencopies[1].ask(&client, false).unwrap();
        let waiting = session.request(&mut client, &buffer, &[]).unwrap();
        change(stage);
        // In half of the rounds it all may be at any point; in the others one frame certainly waits for the next picture.
        let mut standing = None;
        while wait && standing.is_none() {
            let frame = ScreencopyFrame::announced(&mut client, &output, true).unwrap();
            let frame = frame.unwrap();
            frame.ask(&client, true).unwrap();
            // Whatever this one might be given, these are given too, and later.
            for _ in 0..2 {
                let other = ScreencopyFrame::capture(&mut client, &output, true).unwrap();
                other.unwrap();
            }
            standing = Some(frame).filter(|frame| frame.ended().is_none());
        }
        Self {
            client,
            screencopies,
            standing,
            session,
            buffer,
            waiting: Some(waiting),
            window,
            _list: list,
            kept: Vec::new(),
        }
    }

    /// Looks at what is left when the right is gone, and tries again with all that it has.
    fn after(mut self) -> Self {
        let client = &mut self.client;
        client.roundtrip().unwrap();
        // A worker that was copying comes to its end.
        let frames = &self.screencopies[..2];
        let waiting = self.waiting.as_ref().unwrap();
        client
            .wait_for("an answer to each frame", SECOND * 20, |_| {
                let all = frames.iter().all(|frame| frame.ended().is_some());
                (all && waiting.has_ended()).then_some(())
            })
            .unwrap();
        if let Some(standing) = &self.standing {
            assert_eq!(standing.ended(), Some(None), "not told that it fails");
        }
        let waiting = self.waiting.take().unwrap();
        assert!(waiting.has_ended() && self.session.record().stopped);
        drop(waiting);
        assert!(!is_open("drawer"), "the window is listed still");
        // The new ones of those that keep the right are not for it.
        assert_eq!(sees(client, &CAPTURE), [false; 6]);
        self.screencopies[2].ask(client, false).unwrap();
        let late = self.session.request(client, &self.buffer, &[]).unwrap();
        client.roundtrip().unwrap();
        assert_eq!(self.screencopies[2].ended(), Some(None));
        assert_eq!(late.ended(), Some(Err(FailureReason::Stopped)));
        self.kept = self.pictures();
        self
    }

    fn pictures(&self) -> Vec<Picture> {
        let screencopies = self.screencopies.iter().chain(&self.standing);
        let buffers = screencopies.filter_map(|frame| frame.buffer.as_ref());
        buffers.chain([&self.buffer]).map(picture_of).collect()
    }

    #[track_caller]
    fn assert_blind(&mut self, when: &str) {
        self.client.roundtrip().unwrap();
        for (now, then) in self.pictures().iter().zip(&self.kept) {
            now.assert_same(then, when);
        }
        assert!(
            self.window.is_alive(),
            "the client itself did nothing wrong"
        );
    }
}
