//! Which writeback connector can run beside which screen, by the masks.

use drm::control::connector;

use super::WritebackClass;
use crate::kms::snapshot::{bit, Connector, Mask};

/// Whether the two can run on the CRTC with bit `crtc` at once: an encoder of each can be fed by it, and each of the two
/// names the other as a possible clone.
pub(super) fn can_clone(head: &Connector, writeback: &Connector, crtc: Mask) -> bool {
    head.encoders
        .iter()
        .filter(|h| h.possible_crtcs & crtc != 0)
        .any(|h| {
            writeback
                .encoders
                .iter()
                .filter(|w| w.possible_crtcs & crtc != 0)
                .any(|w| {
                    h.possible_clones & bit(w.index) != 0 && w.possible_clones & bit(h.index) != 0
                })
        })
}

pub(super) fn no_clone(
    head: &Connector,
    crtc: usize,
    writebacks: &[&Connector],
    used: &[connector::Handle],
) -> WritebackClass {
    let reachable: Vec<&&Connector> = writebacks
        .iter()
        .filter(|w| w.possible_crtcs() & bit(crtc) != 0)
        .collect();
    if writebacks.is_empty() {
        let reason = "the device has no writeback connector".to_owned();
        WritebackClass::None { reason }
    } else if reachable.is_empty() {
        let reason = "no writeback connector can be routed to this CRTC".to_owned();
        WritebackClass::WritebackOnly { reason }
    } else if reachable
        .iter()
        .any(|w| can_clone(head, w, bit(crtc)) && used.contains(&w.id))
    {
        let reason = "another screen uses the only writeback connector".to_owned();
        WritebackClass::None { reason }
    } else {
        let reason = "the encoders do not name each other as possible clones, so the kernel would refuse display and \
                      writeback on one CRTC"
            .to_owned();
        WritebackClass::WritebackOnly { reason }
    }
}
