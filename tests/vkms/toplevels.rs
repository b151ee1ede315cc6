//! Captures of one window: its own picture, whatever covers it on the screen.

use std::sync::{Arc, Mutex};

use wayland_client::{event_created_child, Connection, Dispatch, Proxy, QueueHandle};
use wayland_protocols::ext::{
    foreign_toplevel_list::v1::client::{
        ext_foreign_toplevel_handle_v1::{self as handle, ExtForeignToplevelHandleV1 as Handle},
        ext_foreign_toplevel_list_v1::{self as list, ExtForeignToplevelListV1 as List},
    },
    image_capture_source::v1::client::{
        ext_foreign_toplevel_image_capture_source_manager_v1::ExtForeignToplevelImageCaptureSourceManagerV1 as Sources,
        ext_image_capture_source_v1::ExtImageCaptureSourceV1,
    },
};

use crate::{
    clients::{
        connect::State,
        copy_capture::{picture_of, CopySession},
        Client, MemoryKind, PainterOptions, Rect,
    },
    control::{capture_report, msg},
    machine::{self, Machine, SECOND},
    screen,
    stage::Setup,
};

/// Windows that were listed, with their app ids; closed ones are taken out.
pub type Listed = Arc<Mutex<Vec<(Handle, String)>>>;

impl Dispatch<List, Listed> for State {
    fn event(
        _: &mut Self,
        _: &List,
        event: list::Event,
        listed: &Listed,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let list::Event::Toplevel { toplevel } = event {
            listed.lock().unwrap().push((toplevel, String::new()));
        }
    }

    event_created_child!(State, List, [
        list::EVT_TOPLEVEL_OPCODE => (Handle, Listed::default()),
    ]);
}

impl Dispatch<Handle, Listed> for State {
    fn event(
        _: &mut Self,
        object: &Handle,
        event: handle::Event,
        _: &Listed,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut named = NAMES.lock().unwrap();
        match event {
            handle::Event::AppId { app_id } => {
                named.retain(|(id, _)| *id != object.id());
                named.push((object.id(), app_id));
            }
            handle::Event::Title { title } => TITLES.lock().unwrap().push(title),
            handle::Event::Closed => named.retain(|(id, _)| *id != object.id()),
            _ => {}
        }
    }
}

/// App ids of open windows. There is one listing client per machine.
static NAMES: Mutex<Vec<(wayland_client::backend::ObjectId, String)>> = Mutex::new(Vec::new());

/// All titles that were told, in their order.
static TITLES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Dispatch<Sources, ()> for State {
    fn event(
        _: &mut Self,
        _: &Sources,
        _: <Sources as Proxy>::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

pub fn is_open(app_id: &str) -> bool {
    NAMES.lock().unwrap().iter().any(|(_, name)| name == app_id)
}

pub fn source(client: &mut Client, listed: &Listed, app_id: &str) -> ExtImageCaptureSourceV1 {
    client
        .wait_for("the window's name", SECOND * 20, |_| {
            is_open(app_id).then_some(())
        })
        .unwrap();
    let id = NAMES
        .lock()
        .unwrap()
        .iter()
        .find(|(_, name)| name == app_id)
        .map(|(id, _)| id.clone());
    let listed = listed.lock().unwrap();
    let (handle, _) = listed
        .iter()
        .find(|(handle, _)| Some(handle.id()) == id)
        .unwrap();
    let sources: Sources = client.bind(1, ()).unwrap();
    sources.create_source(handle, &client.qh, ())
}

fn covered_window(renderer: &str, machine: Machine) {
    machine::boot(machine, |guest| {
        let stage = Setup::default()
            .with(&format!("renderer = \"{renderer}\""))
            .start(guest);
        let wanted = format!("renderer=\"{renderer}\"");
        let log = stage.vitrine.log();
        assert!(log.contains(&wanted), "not drawn by {renderer}: {log}");
        let window = |app_id: &str| PainterOptions {
            app_id: app_id.to_owned(),
            ..Default::default()
        };
        let (mut below_client, mut below) = stage.painter_with(window("below"));
        below.present(&mut below_client, 11).unwrap();
        let (mut above_client, mut above) = stage.painter_with(window("above"));
        above.present(&mut above_client, 22).unwrap();

        let mut watcher = stage.client();
        screen::picture(&mut watcher).assert_same(&above.expected(), "the screen");
        let listed = Listed::default();
        let _list: List = watcher.bind(1, Arc::clone(&listed)).unwrap();
        let source = source(&mut watcher, &listed, "below");
        let session = CopySession::open_source(&mut watcher, &source, false).unwrap();
        let buffer = session.buffer(&mut watcher, MemoryKind::Shm).unwrap();
        session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
        picture_of(&buffer).assert_same(&below.expected(), "the window below");

        // Nobody sees it, so that it gets no frame callback; it may draw all the same.
        below.paint(&mut below_client, 33).unwrap();
        session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
        picture_of(&buffer).assert_same(&below.expected(), "the window below, drawn again");

        // Only a part is drawn anew, near the upper edge and unlike its mirror image.
        for n in 34..37 {
            let part = Rect::new(10 * (n as i32 - 30), 20, 64, 33);
            below.paint_part(&mut below_client, n, part).unwrap();
            session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
            picture_of(&buffer).assert_same(&below.expected(), &format!("{part:?} of it"));
        }
        screen::picture(&mut watcher).assert_same(&above.expected(), "the screen");
        let windows = capture_report(guest).windows;
        let [window] = &windows[..] else {
            panic!("{windows:?}");
        };
        let names = (window.app_id.as_str(), window.title.as_str());
        assert_eq!(names, ("below", "below"));
        assert_eq!((window.copies, window.gpu_copies, window.held), (5, 0, 0));
        assert!(window.frames >= 5 && window.copied_bytes >= 640 * 480 * 4);
        let table = msg(guest, &["capture"]);
        let line = format!("window {}: \"below\" \"below\"\n", window.identifier);
        assert!(table.contains(&line), "{table}");

        drop((below, below_client));
        watcher
            .wait_for("the end of the window's session", SECOND * 20, |_| {
                (session.record().stopped && !is_open("below")).then_some(())
            })
            .unwrap();
        assert!(is_open("above"));
        // What it did is not forgotten.
        assert_eq!(capture_report(guest).windows, []);
        let metrics = msg(guest, &["metrics"]);
        for line in [
            "vitrine_window_captures 0\n",
            "vitrine_window_capture_copies_total 5\n",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
        stage.finish("Virtual-1");
    });
}

#[test]
fn a_covered_window_is_captured_and_stops_when_it_closes() {
    covered_window("pixman", Machine::default());
}

#[test]
fn gles_captures_a_covered_window_too() {
    let machine = Machine::default().memory_mib(2048);
    covered_window("gles", machine.timeout(SECOND * 180));
}

#[test]
fn a_window_that_is_renamed_while_it_is_captured_stays_the_same_window() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut app, mut painter) = stage.painter_with(PainterOptions {
            app_id: "before".to_owned(),
            ..Default::default()
        });
        painter.present(&mut app, 1).unwrap();
        let mut watcher = stage.client();
        let listed = Listed::default();
        let _list: List = watcher.bind(1, Arc::clone(&listed)).unwrap();
        let source = source(&mut watcher, &listed, "before");
        let session = CopySession::open_source(&mut watcher, &source, false).unwrap();
        let buffer = session.buffer(&mut watcher, MemoryKind::Shm).unwrap();
        session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
        let told = || TITLES.lock().unwrap().clone();
        assert_eq!(told(), ["before"]);

        painter.toplevel.set_title("another title".to_owned());
        app.flush().unwrap();
        watcher
            .wait_for("the title", SECOND * 20, |_| {
                (told().len() > 1).then_some(())
            })
            .unwrap();
        painter.toplevel.set_app_id("after".to_owned());
        app.flush().unwrap();
        watcher
            .wait_for("the app id", SECOND * 20, |_| {
                is_open("after").then_some(())
            })
            .unwrap();
        assert!(!is_open("before"));
        assert_eq!(told(), ["before", "another title"]);
        assert_eq!(listed.lock().unwrap().len(), 1, "it is listed once more");
        painter.paint(&mut app, 2).unwrap();
        session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
        picture_of(&buffer).assert_same(&painter.expected(), "the renamed window");
        assert!(!session.record().stopped);
        stage.finish("Virtual-1");
    });
}
