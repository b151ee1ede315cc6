//! wl_surface, wl_region, wl_subsurface and xdg_surface as Smithay 0.7.0 has them, without rectangles of negative size, and
//! without a subsurface that is placed above itself.
//!
//! Smithay 0.7.0 puts width and height into its geometry types as they come; a negative one ends a compositor that is built
//! with debug assertions, and is a wrong rectangle in any other. By the protocols a negative damage or region covers nothing,
//! and a window geometry without a size is an error. A surface is not its own sibling; Smithay takes it for one, and panics
//! where it is the topmost.
//!
//! And with bounds on what one object makes us keep: Smithay keeps each rectangle of damage until the commit, and each one
//! that a region was made of for as long as the region is there, and copies them with each commit.
//!
//! Everything else goes to Smithay unchanged.

use smithay::{
    utils::Rectangle,
    wayland::{
        compositor::{
            get_region_attributes, with_states, CompositorHandler, CompositorState, Damage,
            RegionUserData, SubsurfaceUserData, SurfaceAttributes, SurfaceUserData,
        },
        shell::xdg::{XdgShellHandler, XdgShellState, XdgShellSurfaceUserData, XdgSurfaceUserData},
    },
};
use wayland_protocols::xdg::shell::server::{
    xdg_popup::XdgPopup,
    xdg_surface::{self, XdgSurface},
    xdg_toplevel::{self, XdgToplevel},
};
use wayland_server::{
    backend::ClientId,
    protocol::{
        wl_callback::WlCallback,
        wl_region::{self, WlRegion},
        wl_subsurface::{self, WlSubsurface},
        wl_surface::{self, WlSurface},
    },
    Client, DataInit, Dispatch, DisplayHandle, Resource,
};

use super::end_for_memory;

/// Of more rectangles than that all is damaged: to know better costs more than to draw.
const MAX_DAMAGE: usize = 256;

/// More rectangles than one a line, for a window of any shape on the largest of screens. A client whose region has more
/// is ended: a smaller region would be a wrong one.
const MAX_REGION: usize = 4096;

/// An opaque region of more rectangles is none: it is a hint, and Smithay cuts each of them at all others with every new
/// buffer, which for some thousand that cross each other takes seconds.
const MAX_OPAQUE: usize = 32;

/// Takes the place of [`CompositorState`] for surfaces, subsurfaces and regions and of [`XdgShellState`] for `xdg_surface`; see
/// [`crate::delegate_guarded_surfaces!`].
#[derive(Debug)]
pub struct GuardedSurfaces;

impl<D> Dispatch<WlSurface, SurfaceUserData, D> for GuardedSurfaces
where
    D: Dispatch<WlSurface, SurfaceUserData>
        + Dispatch<WlCallback, ()>
        + CompositorHandler
        + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        surface: &WlSurface,
        mut request: wl_surface::Request,
        data: &SurfaceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wl_surface::Request::{Damage, DamageBuffer};
        bound_opaque_region(&mut request);
        if let Damage { width, height, .. } | DamageBuffer { width, height, .. } = &request {
            if *width < 0 || *height < 0 {
                return;
            }
            bound_damage(surface);
        }
        <CompositorState as Dispatch<WlSurface, SurfaceUserData, D>>::request(
            state, client, surface, request, data, display, data_init,
        );
    }

    fn destroyed(state: &mut D, client: ClientId, surface: &WlSurface, data: &SurfaceUserData) {
        <CompositorState as Dispatch<WlSurface, SurfaceUserData, D>>::destroyed(
            state, client, surface, data,
        );
    }
}

/// Before one more rectangle is damaged in the pending state.
fn bound_damage(surface: &WlSurface) {
    with_states(surface, |states| {
        let mut attributes = states.cached_state.get::<SurfaceAttributes>();
        let damage = &mut attributes.pending().damage;
        if damage.len() >= MAX_DAMAGE {
            damage_all(damage);
        }
    });
}

/// When a commit was applied, before anybody looks at it: damage waits for the next buffer, so that many commits without one
/// add up, and so do those that a subsurface made before its parent.
pub fn bound_committed_damage(surface: &WlSurface) {
    with_states(surface, |states| {
        let mut attributes = states.cached_state.get::<SurfaceAttributes>();
        let damage = &mut attributes.current().damage;
        if damage.len() > MAX_DAMAGE {
            damage_all(damage);
        }
    });
}

fn damage_all(damage: &mut Vec<Damage>) {
    let everything = Rectangle::from_size((i32::MAX, i32::MAX).into());
    // Their memory is let go as well.
    *damage = vec![Damage::Buffer(everything)];
}

/// Takes a hint away that would cost more than it saves.
fn bound_opaque_region(request: &mut wl_surface::Request) {
    if let wl_surface::Request::SetOpaqueRegion { region } = request {
        region.take_if(|it| get_region_attributes(it).rects.len() > MAX_OPAQUE);
    }
}

impl<D> Dispatch<WlRegion, RegionUserData, D> for GuardedSurfaces
where
    D: Dispatch<WlRegion, RegionUserData> + CompositorHandler + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        region: &WlRegion,
        request: wl_region::Request,
        data: &RegionUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wl_region::Request::{Add, Subtract};
        if let Add { width, height, .. } | Subtract { width, height, .. } = &request {
            if *width < 0 || *height < 0 {
                return;
            }
            if get_region_attributes(region).rects.len() >= MAX_REGION {
                return end_for_memory(display, client, "a region of more than 4096 rectangles");
            }
        }
        <CompositorState as Dispatch<WlRegion, RegionUserData, D>>::request(
            state, client, region, request, data, display, data_init,
        );
    }

    fn destroyed(state: &mut D, client: ClientId, region: &WlRegion, data: &RegionUserData) {
        <CompositorState as Dispatch<WlRegion, RegionUserData, D>>::destroyed(
            state, client, region, data,
        );
    }
}

impl<D> Dispatch<WlSubsurface, SubsurfaceUserData, D> for GuardedSurfaces
where
    D: Dispatch<WlSubsurface, SubsurfaceUserData> + CompositorHandler + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        subsurface: &WlSubsurface,
        request: wl_subsurface::Request,
        data: &SubsurfaceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wl_subsurface::Request::{PlaceAbove, PlaceBelow};
        if let PlaceAbove { sibling } | PlaceBelow { sibling } = &request {
            if sibling == data.surface() {
                subsurface.post_error(
                    wl_subsurface::Error::BadSurface,
                    "a surface is not its own sibling",
                );
                return;
            }
        }
        <CompositorState as Dispatch<WlSubsurface, SubsurfaceUserData, D>>::request(
            state, client, subsurface, request, data, display, data_init,
        );
    }

    fn destroyed(
        state: &mut D,
        client: ClientId,
        subsurface: &WlSubsurface,
        data: &SubsurfaceUserData,
    ) {
        <CompositorState as Dispatch<WlSubsurface, SubsurfaceUserData, D>>::destroyed(
            state, client, subsurface, data,
        );
    }
}

impl<D> Dispatch<XdgSurface, XdgSurfaceUserData, D> for GuardedSurfaces
where
    D: Dispatch<XdgSurface, XdgSurfaceUserData>
        + Dispatch<XdgToplevel, XdgShellSurfaceUserData>
        + Dispatch<XdgPopup, XdgShellSurfaceUserData>
        + XdgShellHandler
        + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        surface: &XdgSurface,
        request: xdg_surface::Request,
        data: &XdgSurfaceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        if let xdg_surface::Request::SetWindowGeometry { width, height, .. } = &request {
            if *width <= 0 || *height <= 0 {
                surface.post_error(
                    xdg_surface::Error::InvalidSize,
                    format!("a window geometry cannot be {width}x{height}"),
                );
                return;
            }
        }
        <XdgShellState as Dispatch<XdgSurface, XdgSurfaceUserData, D>>::request(
            state, client, surface, request, data, display, data_init,
        );
    }

    fn destroyed(state: &mut D, client: ClientId, surface: &XdgSurface, data: &XdgSurfaceUserData) {
        <XdgShellState as Dispatch<XdgSurface, XdgSurfaceUserData, D>>::destroyed(
            state, client, surface, data,
        );
    }
}

impl<D> Dispatch<XdgToplevel, XdgShellSurfaceUserData, D> for GuardedSurfaces
where
    D: Dispatch<XdgToplevel, XdgShellSurfaceUserData> + XdgShellHandler + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        toplevel: &XdgToplevel,
        request: xdg_toplevel::Request,
        data: &XdgShellSurfaceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use xdg_toplevel::Request::{SetMaxSize, SetMinSize};
        if let SetMinSize { width, height } | SetMaxSize { width, height } = &request {
            if *width < 0 || *height < 0 {
                toplevel.post_error(
                    xdg_toplevel::Error::InvalidSize,
                    format!("a window's limit cannot be {width}x{height}"),
                );
                return;
            }
        }
        <XdgShellState as Dispatch<XdgToplevel, XdgShellSurfaceUserData, D>>::request(
            state, client, toplevel, request, data, display, data_init,
        );
    }

    fn destroyed(
        state: &mut D,
        client: ClientId,
        toplevel: &XdgToplevel,
        data: &XdgShellSurfaceUserData,
    ) {
        <XdgShellState as Dispatch<XdgToplevel, XdgShellSurfaceUserData, D>>::destroyed(
            state, client, toplevel, data,
        );
    }
}

/// Like Smithay's `delegate_compositor!` and `delegate_xdg_shell!` together, with the requests that carry rectangles going
/// through [`GuardedSurfaces`](crate::protocols::GuardedSurfaces).
#[macro_export]
macro_rules! delegate_guarded_surfaces {
    ($ty:ty) => {
        $crate::delegate_guarded_surfaces!(@global $ty: ::smithay::wayland::compositor::CompositorState, [
            ::wayland_server::protocol::wl_compositor::WlCompositor: ();
            ::wayland_server::protocol::wl_subcompositor::WlSubcompositor: ();
        ]);
        $crate::delegate_guarded_surfaces!(@global $ty: ::smithay::wayland::shell::xdg::XdgShellState, [
            ::wayland_protocols::xdg::shell::server::xdg_wm_base::XdgWmBase: ();
        ]);
        $crate::delegate_guarded_surfaces!(@dispatch $ty: ::smithay::wayland::compositor::CompositorState, [
            ::wayland_server::protocol::wl_compositor::WlCompositor: ();
            ::wayland_server::protocol::wl_callback::WlCallback: ();
            ::wayland_server::protocol::wl_subcompositor::WlSubcompositor: ();
        ]);
        $crate::delegate_guarded_surfaces!(@dispatch $ty: ::smithay::wayland::shell::xdg::XdgShellState, [
            ::wayland_protocols::xdg::shell::server::xdg_wm_base::XdgWmBase:
                ::smithay::wayland::shell::xdg::XdgWmBaseUserData;
            ::wayland_protocols::xdg::shell::server::xdg_positioner::XdgPositioner:
                ::smithay::wayland::shell::xdg::XdgPositionerUserData;
            ::wayland_protocols::xdg::shell::server::xdg_popup::XdgPopup:
                ::smithay::wayland::shell::xdg::XdgShellSurfaceUserData;
        ]);
        $crate::delegate_guarded_surfaces!(@dispatch $ty: $crate::protocols::GuardedSurfaces, [
            ::wayland_server::protocol::wl_surface::WlSurface: ::smithay::wayland::compositor::SurfaceUserData;
            ::wayland_server::protocol::wl_region::WlRegion: ::smithay::wayland::compositor::RegionUserData;
            ::wayland_server::protocol::wl_subsurface::WlSubsurface: ::smithay::wayland::compositor::SubsurfaceUserData;
            ::wayland_protocols::xdg::shell::server::xdg_surface::XdgSurface:
                ::smithay::wayland::shell::xdg::XdgSurfaceUserData;
            ::wayland_protocols::xdg::shell::server::xdg_toplevel::XdgToplevel:
                ::smithay::wayland::shell::xdg::XdgShellSurfaceUserData;
        ]);
    };
    (@global $ty:ty: $to:ty, [$($interface:ty: $data:ty;)*]) => {
        $(::wayland_server::delegate_global_dispatch!($ty: [$interface: $data] => $to);)*
    };
    (@dispatch $ty:ty: $to:ty, [$($interface:ty: $data:ty;)*]) => {
        $(::wayland_server::delegate_dispatch!($ty: [$interface: $data] => $to);)*
    };
}
