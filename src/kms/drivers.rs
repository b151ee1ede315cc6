//! What is known of single drivers that the kernel's interface does not tell. Data, each line with its source.

/// Drivers whose writeback bears a commit before the fence: what such a commit changes takes effect at the next vsync, and a
/// job writes while its own frame is scanned out, so that it is over by then.
///
/// | driver | what was read in Linux |
/// |---|---|
/// | `mali-dp` | drivers/gpu/drm/arm/malidp_mw.c: a job's addresses are programmed in the tail of its commit, and a commit without a job disables the memory write in the same way; both with the registers that become valid together |
/// | `komeda` | drivers/gpu/drm/arm/display/komeda/komeda_wb_connector.c: the writeback layer is built into the pipeline's data flow, part of the state that is flushed with each commit |
///
/// Neither was measured, for want of the hardware. Where it were wrong, a job could end early with a good fence, which nothing
/// here would notice: that is why `pipelined` is never the default. A driver that is not here may bear it too;
/// `pipelined_unlisted` is for those who know.
const PIPELINING: [&str; 2] = ["mali-dp", "komeda"];

/// Whether the driver of that name is known to bear commits while a writeback job is under way.
pub fn bears_pipelining(driver: &str) -> bool {
    PIPELINING.contains(&driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_not_listed_is_not_trusted_with_it() {
        // vkms drops a job whose state is replaced before it was composed.
        for driver in [
            "vkms",
            "msm",
            "vc4",
            "rcar-du",
            "amdgpu",
            "unknown (EIO)",
            "",
        ] {
            assert!(!bears_pipelining(driver), "{driver}");
        }
        assert!(bears_pipelining("mali-dp"));
    }
}
