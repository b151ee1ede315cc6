//! Who draws: the decision alone, without a device. What it starts is given as a function.

use crate::config::RendererChoice;

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen<R, E> {
    /// The CPU.
    Pixman,
    /// GLES, which was started.
    Gles(R),
    /// GLES was to be, and the operator leaves it to us: the CPU, for this reason.
    FellBack(E),
}

/// GLES where there is a GPU, pixman elsewhere: a display-only device would mean llvmpipe, slower than pixman. What the
/// operator names is taken at his word.
///
/// # Errors
/// When the operator insists on GLES and it does not start.
pub(super) fn choose<R, E>(
    wanted: RendererChoice,
    has_render_node: bool,
    start_gles: impl FnOnce() -> Result<R, E>,
) -> Result<Chosen<R, E>, E> {
    match (wanted, has_render_node) {
        (RendererChoice::Pixman, _) | (RendererChoice::Auto, false) => Ok(Chosen::Pixman),
        (RendererChoice::Auto, true) => {
            Ok(start_gles().map_or_else(Chosen::FellBack, Chosen::Gles))
        }
        (RendererChoice::Gles, _) => start_gles().map(Chosen::Gles),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GL: &str = "GL";
    const BROKEN: &str = "no EGL";

    /// The decision, and whether GLES was tried at all: starting it costs memory and time.
    fn decided(
        wanted: RendererChoice,
        has_render_node: bool,
        works: bool,
    ) -> (
        Result<Chosen<&'static str, &'static str>, &'static str>,
        bool,
    ) {
        let mut tried = false;
        let chosen = choose(wanted, has_render_node, || {
            tried = true;
            works.then_some(GL).ok_or(BROKEN)
        });
        (chosen, tried)
    }

    #[test]
    fn each_choice_on_each_device_is_the_one_in_the_table() {
        use RendererChoice::{Auto, Gles, Pixman};
        let table = [
            (Auto, true, true, Ok(Chosen::Gles(GL)), true),
            (Auto, true, false, Ok(Chosen::FellBack(BROKEN)), true),
            (Auto, false, true, Ok(Chosen::Pixman), false),
            (Auto, false, false, Ok(Chosen::Pixman), false),
            (Pixman, true, true, Ok(Chosen::Pixman), false),
            (Pixman, true, false, Ok(Chosen::Pixman), false),
            (Pixman, false, true, Ok(Chosen::Pixman), false),
            (Pixman, false, false, Ok(Chosen::Pixman), false),
            (Gles, true, true, Ok(Chosen::Gles(GL)), true),
            (Gles, true, false, Err(BROKEN), true),
            (Gles, false, true, Ok(Chosen::Gles(GL)), true),
            (Gles, false, false, Err(BROKEN), true),
        ];
        for (wanted, node, works, chosen, tried) in table {
            let what = format!("{wanted:?}, render node {node}, GLES works {works}");
            assert_eq!(decided(wanted, node, works), (chosen, tried), "{what}");
        }
    }
}
