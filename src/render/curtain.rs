//! The curtain of a locked session: the lock's surface on this screen, and one colour below it that covers all of the screen.

use smithay::{
    backend::renderer::{
        element::{
            solid::SolidColorRenderElement, surface::render_elements_from_surface_tree, Element,
            Kind,
        },
        utils::CommitCounter,
        Color32F, ImportAll, ImportMem, Renderer,
    },
    output::Output,
    utils::{Physical, Rectangle, Scale},
};

use super::{waiting::surface_waits, SceneElement, MAX_EXTENT};
use crate::shell::Curtain;

/// Whether the lock's surface was left out, because it cannot be drawn yet.
pub(super) fn draw<R>(
    renderer: &mut R,
    curtain: &Curtain,
    output: &Output,
    elements: &mut Vec<SceneElement<R>>,
) -> bool
where
    R: Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    let scale = Scale::from(output.current_scale().fractional_scale());
    let surface = curtain.surface_on(output);
    let waits = surface.is_some_and(surface_waits);
    if let Some(surface) = surface.filter(|_| !waits) {
        let tree: Vec<SceneElement<R>> = render_elements_from_surface_tree(
            renderer,
            surface,
            (0, 0),
            scale,
            1.0,
            Kind::Unspecified,
        );
        let fits = |element: &SceneElement<R>| {
            let size = element.geometry(scale).size;
            size.w <= MAX_EXTENT && size.h <= MAX_EXTENT
        };
        elements.extend(tree.into_iter().filter(fits));
    }
    let mode = output.current_mode().map(|mode| mode.size);
    let size = output
        .current_transform()
        .transform_size(mode.unwrap_or_default());
    let area: Rectangle<i32, Physical> = Rectangle::from_size(size);
    let ([red, green, blue], id) = curtain.cloth();
    elements.push(SceneElement::Solid(SolidColorRenderElement::new(
        id.clone(),
        area,
        CommitCounter::default(),
        Color32F::new(red, green, blue, 1.0),
        Kind::Unspecified,
    )));
    waits
}
