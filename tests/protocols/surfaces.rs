//! Surfaces and their roles in every order, against the whole compositor without a device.

use crate::{
    session_lock::Session,
    window::{self, Window},
};

#[test]
fn a_subsurface_is_not_its_own_sibling() {
    let session = Session::start("");
    for above in [true, false] {
        let mut client = session.client();
        let window = Window::new(&client);
        let _first = window::child(&client, &window.surface.proxy, (0, 0));
        // The topmost, so that above it nothing is.
        let last = window::child(&client, &window.surface.proxy, (0, 0));
        match above {
            true => last.role.place_above(&last.surface.proxy),
            false => last.role.place_below(&last.surface.proxy),
        }
        let (blamed, code) = client.expect_protocol_error().unwrap();
        assert_eq!((blamed.as_str(), code), ("wl_subsurface", 0));
    }
    session.client().roundtrip().unwrap();
}
