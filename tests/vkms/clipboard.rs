//! The clipboard: what one application copied another one pastes, and whoever breaks off or does not read harms nobody.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
};

use wayland_client::{
    delegate_noop, event_created_child,
    protocol::{
        wl_data_device::{self, WlDataDevice},
        wl_data_device_manager::WlDataDeviceManager,
        wl_data_offer::{self, WlDataOffer},
        wl_data_source::{self, WlDataSource},
    },
    Connection, Dispatch, Proxy, QueueHandle,
};
use wayland_protocols::wp::primary_selection::zv1::client::{
    zwp_primary_selection_device_manager_v1::ZwpPrimarySelectionDeviceManagerV1,
    zwp_primary_selection_device_v1::{self, ZwpPrimarySelectionDeviceV1},
    zwp_primary_selection_offer_v1::ZwpPrimarySelectionOfferV1,
    zwp_primary_selection_source_v1::ZwpPrimarySelectionSourceV1,
};

use crate::{
    clients::{picture::pattern_picture, Client, State},
    hands::{id, Hands},
    machine::{self, Machine, SECOND},
    stage::{Setup, Stage},
    uinput::Device,
    window::Window,
};

const TEXT: &str = "text/plain;charset=utf-8";

/// What a client heard of the clipboard.
#[derive(Debug, Default)]
struct Heard {
    /// The last word on the clipboard: what is in it, if anything.
    selection: Option<Option<WlDataOffer>>,
    /// The last word on the primary selection: whether something is in it.
    primary: Option<bool>,
    /// What others want to have of ours, and where it shall go.
    wanted: Vec<(String, OwnedFd)>,
}

type Record = Arc<Mutex<Heard>>;

/// In which forms something is offered.
type Forms = Mutex<Vec<String>>;

/// An application with a window and a hand on the clipboard.
struct Application {
    window: Window,
    device: WlDataDevice,
    manager: WlDataDeviceManager,
    primary: (
        ZwpPrimarySelectionDeviceManagerV1,
        ZwpPrimarySelectionDeviceV1,
    ),
    record: Record,
    _hands: Hands,
    client: Client,
}

impl Application {
    /// Opens it over all others, and waits for the keyboard's focus.
    fn open(stage: &Stage<'_>, n: u32) -> Self {
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        hands.wait_can(&mut client, (true, false, false));
        hands.keyboard(&client);
        let record = Record::default();
        let manager: WlDataDeviceManager = client.bind(3, ()).unwrap();
        let device = manager.get_data_device(&hands.seat, &client.qh, Arc::clone(&record));
        let primary: ZwpPrimarySelectionDeviceManagerV1 = client.bind(1, ()).unwrap();
        let marked = primary.get_device(&hands.seat, &client.qh, Arc::clone(&record));
        let window = Window::showing(&mut client, &pattern_picture(n, 640, 480));
        let enter = format!("keyboard enter {}", id(&window.surface.proxy));
        hands.wait(&mut client, &enter);
        Self {
            window,
            device,
            manager,
            primary: (primary, marked),
            record,
            _hands: hands,
            client,
        }
    }

    /// Puts something into the clipboard.
    fn copy(&mut self) -> WlDataSource {
        let record = Arc::clone(&self.record);
        let source = self.manager.create_data_source(&self.client.qh, record);
        source.offer(TEXT.to_owned());
        self.device.set_selection(Some(&source), 0);
        self.client.roundtrip().unwrap();
        source
    }

    /// Puts something into the primary selection.
    fn mark(&mut self) -> ZwpPrimarySelectionSourceV1 {
        let (manager, device) = &self.primary;
        let source = manager.create_source(&self.client.qh, ());
        source.offer(TEXT.to_owned());
        device.set_selection(Some(&source), 0);
        self.client.roundtrip().unwrap();
        source
    }

    /// Waits until this is the last word on clipboard and primary selection: is there something in them?
    #[track_caller]
    fn wait_selections(&mut self, clipboard: bool, primary: bool) {
        let record = Arc::clone(&self.record);
        let what = format!("clipboard {clipboard}, primary selection {primary}");
        let told = self.client.wait_for(&what, SECOND * 20, |_| {
            let heard = record.lock().unwrap();
            let selection = heard.selection.as_ref().map(Option::is_some);
            (selection == Some(clipboard) && heard.primary == Some(primary)).then_some(())
        });
        if let Err(error) = told {
            panic!("{error}: {:?}", self.record.lock().unwrap());
        }
    }

    /// Waits until there is something in the clipboard.
    #[track_caller]
    fn wait_offer(&mut self) -> WlDataOffer {
        let record = Arc::clone(&self.record);
        let offer = self.client.wait_for("an offer", SECOND * 20, |_| {
            record.lock().unwrap().selection.clone().flatten()
        });
        let offer = offer.unwrap();
        // Its forms are told before it is said to be in the clipboard.
        let forms = offer.data::<Forms>().unwrap().lock().unwrap().clone();
        assert_eq!(forms, [TEXT]);
        offer
    }

    /// Waits until there is nothing in it.
    #[track_caller]
    fn wait_empty(&mut self) {
        let record = Arc::clone(&self.record);
        let empty = self
            .client
            .wait_for("an empty clipboard", SECOND * 20, |_| {
                matches!(record.lock().unwrap().selection, Some(None)).then_some(())
            });
        empty.unwrap();
    }

    /// Asks for what is offered; gives the end that it comes out of.
    fn paste(&mut self, offer: &WlDataOffer) -> File {
        let (out, into) = rustix::pipe::pipe().unwrap();
        offer.receive(TEXT.to_owned(), into.as_fd());
        self.client.flush().unwrap();
        File::from(out)
    }

    /// Waits until somebody wants what was copied.
    #[track_caller]
    fn wait_wanted(&mut self) -> File {
        let record = Arc::clone(&self.record);
        let wanted = self
            .client
            .wait_for("wl_data_source.send", SECOND * 20, |_| {
                record.lock().unwrap().wanted.pop()
            });
        let (form, into) = wanted.unwrap();
        assert_eq!(form, TEXT);
        File::from(into)
    }

    /// Dies as it is, its connection first.
    fn die(self) {
        drop(self.client);
    }
}

/// Pipes that vitrine has open.
fn pipes(stage: &Stage<'_>) -> usize {
    let folder = format!("/proc/{}/fd", stage.vitrine.pid());
    let entries = std::fs::read_dir(folder).unwrap();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let is_pipe = |target: &std::path::PathBuf| target.to_string_lossy().starts_with("pipe:");
    targets.filter(is_pipe).count()
}

#[test]
fn what_one_application_copies_another_pastes_and_who_breaks_off_or_does_not_read_harms_nobody() {
    machine::boot(Machine::default(), |guest| {
        let _keyboard = Device::keyboard();
        let stage = Setup::default().start(guest);
        // More than a pipe holds.
        let text: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut one = Application::open(&stage, 1);
        let _source = one.copy();
        let mut two = Application::open(&stage, 2);
        let offer = two.wait_offer();
        for _ in 0..2 {
            let mut out = two.paste(&offer);
            let mut into = one.wait_wanted();
            let bytes = text.clone();
            let writer = std::thread::spawn(move || into.write_all(&bytes));
            let mut pasted = Vec::new();
            out.read_to_end(&mut pasted).unwrap();
            writer.join().unwrap().unwrap();
            assert!(pasted == text, "{} of {} bytes", pasted.len(), text.len());
        }

        // The source dies in the middle: what was written is read, and there is nothing in the clipboard any more.
        let mut out = two.paste(&offer);
        let mut into = one.wait_wanted();
        into.write_all(&text[..1000]).unwrap();
        one.die();
        drop(into);
        let mut pasted = Vec::new();
        out.read_to_end(&mut pasted).unwrap();
        assert!(pasted == text[..1000]);
        two.wait_empty();

        // One that reads nothing of what is written for it, not even to its end.
        let mut three = Application::open(&stage, 3);
        let _source = three.copy();
        two.record.lock().unwrap().selection = None;
        let Window {
            surface,
            xdg,
            toplevel,
            ..
        } = three.window;
        toplevel.destroy();
        xdg.destroy();
        surface.proxy.destroy();
        three.client.roundtrip().unwrap();
        let offer = two.wait_offer();
        assert_eq!(pipes(&stage), 0, "before");
        // Nor does this source read what it is asked: it has its connection, and looks at it no more.
        let mut unread = Vec::new();
        for _ in 0..400 {
            unread.push(two.paste(&offer));
            if unread.len() % 20 == 0 {
                two.client.roundtrip().unwrap();
            }
        }
        for n in 10..20 {
            two.window
                .show(&mut two.client, &pattern_picture(n, 640, 480));
        }
        println!("{} pipes of requests that nobody reads", pipes(&stage));
        drop((three.client, unread));
        two.wait_empty();
        machine::wait_until("the pipes to be closed", SECOND * 20, || pipes(&stage) == 0);
        two.window
            .show(&mut two.client, &pattern_picture(30, 640, 480));
        drop(two);
        let log = stage.vitrine.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
        stage.finish("Virtual-1");
    });
}

#[test]
fn what_was_copied_is_gone_with_its_source_and_with_its_client() {
    machine::boot(Machine::default(), |guest| {
        let _keyboard = Device::keyboard();
        let stage = Setup::default().start(guest);
        let mut one = Application::open(&stage, 1);
        // What has been replaced may go.
        let (old, old_mark) = (one.copy(), one.mark());
        let (new, new_mark) = (one.copy(), one.mark());
        old.destroy();
        old_mark.destroy();
        for _ in 0..3 {
            one.client.roundtrip().unwrap();
        }
        one.wait_selections(true, true);

        // By the wish of a client that lives on.
        let mut two = Application::open(&stage, 2);
        two.wait_selections(true, true);
        new.destroy();
        one.client.roundtrip().unwrap();
        two.wait_selections(false, true);
        new_mark.destroy();
        one.client.roundtrip().unwrap();
        two.wait_selections(false, false);

        // With the client.
        let _sources = (two.copy(), two.mark());
        two.wait_selections(true, true);
        let mut three = Application::open(&stage, 3);
        three.wait_selections(true, true);
        two.die();
        three.wait_selections(false, false);

        // And it goes on.
        let _sources = (three.copy(), three.mark());
        three.wait_selections(true, true);
        drop((one, three));
        let log = stage.vitrine.log();
        assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
        stage.finish("Virtual-1");
    });
}

#[test]
fn whoever_offers_more_than_anybody_can_be_told_ends_nobody() {
    machine::boot(Machine::default(), |guest| {
        let _keyboard = Device::keyboard();
        let stage = Setup::default().start(guest);
        let mut one = Application::open(&stage, 1);
        let record = Arc::clone(&one.record);
        let source = one.manager.create_data_source(&one.client.qh, record);
        let mark = one.primary.0.create_source(&one.client.qh, ());
        source.offer(TEXT.to_owned());
        mark.offer(TEXT.to_owned());
        for n in 0..2_000 {
            let form = format!("application/{n:01000}");
            source.offer(form.clone());
            mark.offer(form);
            if n % 20 == 0 {
                one.client.roundtrip().unwrap();
            }
        }
        one.device.set_selection(Some(&source), 0);
        one.primary.1.set_selection(Some(&mark), 0);
        one.client.roundtrip().unwrap();
        one.wait_selections(true, true);
        // It is told all of that with the focus.
        let mut two = Application::open(&stage, 2);
        two.wait_selections(true, true);
        let offer = two.record.lock().unwrap().selection.clone().flatten();
        let forms = offer
            .unwrap()
            .data::<Forms>()
            .unwrap()
            .lock()
            .unwrap()
            .clone();
        assert_eq!(forms.first().map(String::as_str), Some(TEXT));
        assert!((10..100).contains(&forms.len()), "{} forms", forms.len());
        drop((one, two));
        stage.finish("Virtual-1");
    });
}

impl Dispatch<ZwpPrimarySelectionDeviceV1, Record> for State {
    fn event(
        _: &mut Self,
        _: &ZwpPrimarySelectionDeviceV1,
        event: zwp_primary_selection_device_v1::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let zwp_primary_selection_device_v1::Event::Selection { id } = event {
            record.lock().unwrap().primary = Some(id.is_some());
        }
    }

    event_created_child!(State, ZwpPrimarySelectionDeviceV1, [
        zwp_primary_selection_device_v1::EVT_DATA_OFFER_OPCODE => (ZwpPrimarySelectionOfferV1, ()),
    ]);
}

impl Dispatch<WlDataDevice, Record> for State {
    fn event(
        _: &mut Self,
        _: &WlDataDevice,
        event: wl_data_device::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_data_device::Event::Selection { id } = event {
            record.lock().unwrap().selection = Some(id);
        }
    }

    event_created_child!(State, WlDataDevice, [
        wl_data_device::EVT_DATA_OFFER_OPCODE => (WlDataOffer, Forms::default()),
    ]);
}

impl Dispatch<WlDataOffer, Forms> for State {
    fn event(
        _: &mut Self,
        _: &WlDataOffer,
        event: wl_data_offer::Event,
        forms: &Forms,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_data_offer::Event::Offer { mime_type } = event {
            forms.lock().unwrap().push(mime_type);
        }
    }
}

impl Dispatch<WlDataSource, Record> for State {
    fn event(
        _: &mut Self,
        _: &WlDataSource,
        event: wl_data_source::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_data_source::Event::Send { mime_type, fd } = event {
            record.lock().unwrap().wanted.push((mime_type, fd));
        }
    }
}

delegate_noop!(State: ignore WlDataDeviceManager);
delegate_noop!(State: ignore ZwpPrimarySelectionDeviceManagerV1);
delegate_noop!(State: ignore ZwpPrimarySelectionOfferV1);
delegate_noop!(State: ignore ZwpPrimarySelectionSourceV1);
