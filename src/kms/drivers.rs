//! What is known of single drivers that the kernel's interface does not tell. Data, each line with its source.

/// Drivers whose writeback bears a commit before the fence: the controller latches the job with the rest of the commit's
/// state, and writes that.
///
/// | driver | source |
/// |---|---|
/// | `mali-dp` | drivers/gpu/drm/arm/malidp_mw.c, malidp_hw.c: memory write is enabled with the configuration that becomes valid at the next vsync, one frame, and has its own end-of-frame interrupt |
/// | `komeda` | drivers/gpu/drm/arm/display/komeda: the writeback layer is a component of the pipeline's state, and is flushed with it |
///
/// Both were read, not measured. A driver that is not here may bear it too; `pipelined_unlisted` is for those who know.
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
