//! What a machine's display looks like, and how vkms is told through configfs. Knows nothing of
//! processes and of the host.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const CONFIGFS: &str = "/sys/kernel/config/vkms";
/// Ours. vkms keeps the name `vkms` for the device that it makes by itself.
const DEVICE: &str = "screens";
const DEFAULT_DEVICE: &str = "vkms";

/// A screen: a CRTC with its planes, an encoder and a connector, linked to each other only.
#[derive(Debug, Clone)]
pub struct Output {
    overlays: usize,
    cursor: bool,
    writeback: bool,
    connected: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

impl Output {
    /// A connected screen with a primary plane, a cursor plane and a writeback connector.
    pub fn new() -> Self {
        Self {
            overlays: 0,
            cursor: true,
            writeback: true,
            connected: true,
        }
    }

    /// The number of overlay planes (0).
    pub fn overlays(mut self, count: usize) -> Self {
        self.overlays = count;
        self
    }

    /// Whether there is a cursor plane (yes).
    pub fn cursor(mut self, cursor: bool) -> Self {
        self.cursor = cursor;
        self
    }

    /// Whether there is a writeback connector (yes).
    pub fn writeback(mut self, writeback: bool) -> Self {
        self.writeback = writeback;
        self
    }

    /// Whether the screen is plugged in at the start (yes).
    pub fn connected(mut self, connected: bool) -> Self {
        self.connected = connected;
        self
    }
}

/// Makes the device with these screens, in their order.
pub(super) fn create(outputs: &[Output]) -> Result<()> {
    let device = Path::new(CONFIGFS).join(DEVICE);
    make_dir(&device)?;
    for (index, output) in outputs.iter().enumerate() {
        create_output(&device, index, output)?;
    }
    write(&device.join("enabled"), "1").context("vkms refuses the topology; dmesg may say why")
}

fn create_output(device: &Path, index: usize, output: &Output) -> Result<()> {
    let crtc = device.join(format!("crtcs/crtc{index}"));
    make_dir(&crtc)?;
    write(
        &crtc.join("writeback"),
        if output.writeback { "1" } else { "0" },
    )?;

    // The kernel's numbers for the plane types.
    let planes = [("primary".to_owned(), "1")]
        .into_iter()
        .chain(output.cursor.then(|| ("cursor".to_owned(), "2")))
        .chain((0..output.overlays).map(|number| (format!("overlay{number}"), "0")));
    for (name, kind) in planes {
        let plane = device.join(format!("planes/{name}-{index}"));
        make_dir(&plane)?;
        write(&plane.join("type"), kind)?;
        link(&crtc, &plane.join("possible_crtcs"))?;
    }

    let encoder = device.join(format!("encoders/encoder{index}"));
    make_dir(&encoder)?;
    link(&crtc, &encoder.join("possible_crtcs"))?;

    let connector = connector(index);
    make_dir(&connector)?;
    link(&encoder, &connector.join("possible_encoders"))?;
    set_connected(index, output.connected)
}

/// Plugs or unplugs the screen of output `index`; on a live device that is a hotplug event.
pub(super) fn set_connected(index: usize, connected: bool) -> Result<()> {
    write(
        &connector(index).join("status"),
        if connected { "1" } else { "2" },
    )
}

fn connector(index: usize) -> PathBuf {
    Path::new(CONFIGFS)
        .join(DEVICE)
        .join(format!("connectors/connector{index}"))
}

/// The N of /dev/dri/cardN. vgem takes a number too, so it is found by the device's name.
pub(super) fn card_number() -> Result<u32> {
    [DEVICE, DEFAULT_DEVICE]
        .iter()
        .filter_map(|name| fs::read_dir(format!("/sys/bus/faux/devices/{name}/drm")).ok())
        .flatten()
        .find_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_prefix("card")?
                .parse()
                .ok()
        })
        .context("there is no vkms device; dmesg may say why")
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("making {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {text} to {}", path.display()))
}

fn link(target: &Path, dir: &Path) -> Result<()> {
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    symlink(target, dir.join(name))
        .with_context(|| format!("linking {} into {}", target.display(), dir.display()))
}
